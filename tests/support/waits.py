"""Operations for whose result a host waits, found without a GPU."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique2", "lift_fresh"}
"""The last is `torch.tensor` of Python's numbers, which would be copied to the device."""


class Waits(TorchDispatchMode):
    """Collects those of its kind that are called within; a CUDA graph can hold none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in _WAITING:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))
