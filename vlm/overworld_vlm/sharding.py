"""A model whose weights are cut into one part per process: PyTorch's FSDP2 (`fully_shard`).

While weights are in parts, every process must do the same at the same time. Replies are written, and scored without
gradients, with all weights put together (`whole`): then each process goes its own way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")


def shard(core: Any, undivided: Iterable[nn.Parameter]) -> None:
    """Cuts the weights of a Hugging Face model into parts, one per process of the default group.

    Each layer of the language model is put together by itself as it is needed, everything else at the start of a pass.
    The model gets a method `through(function, *args)`, which calls a function that uses its weights: all that a
    gradient is asked of goes through it, since a pass that called parts of the model would miss weights that these
    share with others. Gradients are averaged over processes, in fp32.

    undivided  frozen weights that each process has all of
    """
    mesh = init_device_mesh(core.device.type, (dist.get_world_size(),))
    settings: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        "ignored_params": set(undivided),
    }
    for layer in core.get_decoder().layers:
        fully_shard(layer, **settings)
    fully_shard(core, **settings)
    core.through = MethodType(_through, core)
    register_fsdp_forward_method(core, "through")
    # The module that is called first counts as the root, and replies are written without `through`.
    core.through(lambda: None)
    core.reshard()


@contextlib.contextmanager
def whole(core: Any) -> Iterator[None]:
    """Puts all weights of a model in parts together, on all processes, and takes them apart again.

    Within, processes need not do the same, and no gradients are computed.
    """
    modules = [core, *core.get_decoder().layers]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(module is not core, recurse=False)
            module.reshard()


def full(tensor: Tensor) -> Tensor:
    """A tensor put together from its parts: all processes must call this. Other tensors stay as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory. Other tensors stay as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor cut as `other` is, if it has the same shape and is cut at all."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def _through(core: Any, function: Callable[..., T], *args: Any) -> T:
    return function(*args)
