"""LoRA adapters side by side in one model: each row of a batch is computed with its own, or with none.

A row's numbers are, to the last bit, those that it would have alone. The matrices of several adapters lie next to each
other, one product serves all rows and adapters, and what a row has in the ranks of others is set to zero: finite
weights then add exactly nothing. Measured with MKL, on 1, 2 and 4 threads: that holds as long as each adapter's ranks
are filled up to a multiple of 16 (at 1 and 5, last bits depend on the number of rows) and at most 176 of them are added
up at once (of 192 or more, it adds up two halves, and an adapter may lie across). PEFT's mixed batches do not have this
property, since they change the number of rows of a product.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle

from overworld_vlm.load import VLM, ModelError

_RANKS = 16
"""Ranks are filled up with zeros to a multiple of this."""

_PACKED = 64
"""Ranks that lie side by side at most; an adapter of more has its products to itself."""

_PREFIX = "base_model.model."
_NO_MATTER = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "lora_dropout", "init_lora_weights",
}  # fmt: skip
"""Settings of PEFT that are read here, or say nothing that the names of the weights do not say."""

Weights = Mapping[str, tuple[Tensor, Tensor]]
"""Linear layer -> A [inputs, ranks] and B [ranks, outputs] of an adapter, fp32, its scale included."""


class Adapters:
    """The adapters in a model's linear layers. Outside of `rows` they do nothing."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._packs: list[_Pack] = []
        self._hooks: dict[str, RemovableHandle] = {}
        self._in_use: list[tuple[_Pack, Tensor | None]] = []

    def __repr__(self) -> str:
        return f"Adapters({sum(len(pack.ranks) for pack in self._packs)} in {len(self._hooks)} layers)"

    def add(self, name: str, weights: Weights) -> None:
        """Puts an adapter into the layers."""
        assert not any(name in pack.ranks for pack in self._packs)
        rank = next(iter(weights.values()))[0].shape[1]
        pack = next((pack for pack in self._packs if pack.width + rank <= _PACKED), None)
        if pack is None:
            self._packs.append(pack := _Pack(self._core.lm_head.weight.device))
        pack.add(name, rank, weights)
        for path in weights.keys() - self._hooks.keys():
            linear = self._core.get_submodule(path)
            self._hooks[path] = linear.register_forward_hook(functools.partial(self._adapt, path))

    def remove(self, name: str) -> None:
        """Takes an adapter out of the layers."""
        next(pack for pack in self._packs if name in pack.ranks).remove(name)
        self._packs = [pack for pack in self._packs if pack.ranks]
        for path in self._hooks.keys() - {path for pack in self._packs for path in pack.layers}:
            self._hooks.pop(path).remove()

    @contextlib.contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Within it, each row of a batch is computed with the adapter of that name; None: with the model as it is."""
        used = {name for name in names if name is not None}
        assert used <= {name for pack in self._packs for name in pack.ranks}, "an adapter was taken out while in use"
        self._in_use = [(pack, pack.others(names)) for pack in self._packs if not used.isdisjoint(pack.ranks)]
        try:
            yield
        finally:
            self._in_use = []

    def _adapt(self, path: str, _linear: torch.nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> Tensor:
        """The outputs of a linear layer, [rows, ..., outputs], with the rows' adapters."""
        dtype = outputs.dtype
        for pack, others in self._in_use:
            if path not in pack.layers:
                continue
            a, b = pack.layers[path]
            low = inputs[0].reshape(-1, len(a)).to(a.dtype) @ a
            if others is not None:
                low.view(len(others), -1, pack.width).masked_fill_(others, 0)
            outputs = outputs.to(b.dtype)  # as PEFT: what is added is fp32, and so is the sum
            outputs.view(-1, b.shape[1]).addmm_(low, b)
        return outputs.to(dtype)


class _Pack:
    """Adapters whose matrices lie side by side."""

    def __init__(self, device: torch.device) -> None:
        self._owners = torch.zeros(0, dtype=torch.int64, device=device)
        self.ranks: dict[str, int] = {}
        """Of each adapter, in the order of their columns."""
        self.layers: dict[str, tuple[Tensor, Tensor]] = {}
        """A [inputs, width] and B [width, outputs] of each linear layer that one of them adapts."""
        self._paths: dict[str, set[str]] = {}

    @property
    def width(self) -> int:
        """All ranks."""
        return sum(self.ranks.values())

    def add(self, name: str, rank: int, weights: Weights) -> None:
        """Adds an adapter on the right."""
        for path in self.layers.keys() | weights.keys():
            like = self.layers.get(path) or weights[path]
            old, new = self.layers.get(path) or _zeros(like, self.width), weights.get(path) or _zeros(like, rank)
            self.layers[path] = torch.cat([old[0], new[0]], 1), torch.cat([old[1], new[1]])
        self.ranks[name] = rank
        self._paths[name] = set(weights)
        self._number()

    def remove(self, name: str) -> None:
        """Closes the gap that an adapter leaves."""
        kept = (self._owners != list(self.ranks).index(name)).nonzero().squeeze(1)
        del self.ranks[name], self._paths[name]
        adapted = set().union(*self._paths.values())
        self.layers = {
            path: (a.index_select(1, kept), b.index_select(0, kept))
            for path, (a, b) in self.layers.items()
            if path in adapted
        }
        self._number()

    def others(self, names: Sequence[str | None]) -> Tensor | None:
        """Which ranks are not those of a row's adapter, bool [rows, 1, width]; None if all are."""
        if set(names) == set(self.ranks) and len(self.ranks) == 1:
            return None
        number: dict[str | None, int] = {name: number for number, name in enumerate(self.ranks)}
        rows = torch.tensor([number.get(name, -1) for name in names], device=self._owners.device)
        return rows[:, None, None] != self._owners

    def _number(self) -> None:
        """Notes which adapter each rank belongs to, by its place in `ranks`."""
        ranks = torch.tensor(list(self.ranks.values()), dtype=torch.int64, device=self._owners.device)
        self._owners = torch.repeat_interleave(ranks)


def _zeros(like: tuple[Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    a, b = like
    return a.new_zeros(len(a), rank), b.new_zeros(rank, b.shape[1])


def read(folder: Path, vlm: VLM) -> Weights | None:
    """The weights of an adapter of `vlm` in PEFT's layout, on its device. Raises ModelError if they are not finite.

    None for an adapter that is not plain LoRA on linear layers of the language model, or is damaged: whoever wants it
    asks PEFT, which knows every kind and says what is wrong.
    """
    try:
        settings = PeftConfig.from_pretrained(str(folder), local_files_only=True)
        tensors = load_file(folder / "adapter_model.safetensors")
    except Exception:  # peft and safetensors each raise their own, and do so again
        return None
    if not _is_plain(settings):
        return None
    scale = settings.lora_alpha / (math.sqrt(settings.r) if settings.use_rslora else settings.r)
    spare = -settings.r % _RANKS
    targets = _targets(vlm)
    weights = {}
    for path in {name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in tensors}:
        a = tensors.pop(f"{_PREFIX}{path}.lora_A.weight", None)
        b = tensors.pop(f"{_PREFIX}{path}.lora_B.weight", None)
        linear = targets.get(path)
        if a is None or b is None or linear is None:
            return None
        if a.shape != (settings.r, linear.in_features) or b.shape != (linear.out_features, settings.r):
            return None
        if not (a.isfinite().all() and b.isfinite().all()):
            raise ModelError(
                f"the adapter in {folder} has weights that are not finite ({path}): its training has diverged; use an "
                "earlier checkpoint"
            )
        b = b.float() * scale
        weights[path] = (
            pad(a.to(vlm.device).float(), (0, 0, 0, spare)).T.contiguous(),
            pad(b.to(vlm.device), (0, spare)).T.contiguous(),
        )
    return None if tensors else weights or None


def _targets(vlm: VLM) -> dict[str, torch.nn.Linear]:
    """The linear layers that trainers adapt, by name."""
    return {
        path: module
        for path, module in vlm.core.named_modules()
        if type(module) is torch.nn.Linear and re.fullmatch(vlm.family.lora_targets, path)
    }


def _is_plain(settings: PeftConfig) -> bool:
    """Whether an adapter adds its matrices' product to the outputs of linear layers, and does nothing else."""
    if type(settings) is not LoraConfig or not isinstance(settings.init_lora_weights, bool):
        return False
    if not isinstance(settings.r, int) or settings.r < 1 or not isinstance(settings.lora_alpha, int | float):
        return False
    plain = LoraConfig()
    return all(
        getattr(settings, field.name) == getattr(plain, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in _NO_MATTER
    )
