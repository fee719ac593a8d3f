"""LoRA adapters side by side in one model: each row of a batch is computed with its own, or with none.

A row's numbers are, to the last bit, those that it would have alone. Each adapter in use computes its two products for
all rows of the batch, so that their shapes do not depend on who the others are, and rows that are not its own are set
to zero between the two: finite weights then add exactly nothing to them. Two cheaper ways do not have this property
(measured with MKL): PEFT's mixed batches change the number of rows, and one product with all adapters next to each
other is cut in two, and added up in another order, where together they have 192 ranks or more.
"""

from __future__ import annotations

import contextlib
import dataclasses
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

from overworld_vlm.load import VLM, ModelError

_RANKS = 16
"""Ranks are filled up with zeros to a multiple of this: at 1 and 5, say, the last bits of MKL's matrix products depend
on the number of rows."""

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
        self._layers: dict[str, _Layer] = {}
        self._names: set[str] = set()
        self.in_use: list[tuple[str, Tensor | None]] = []
        """Within `rows`: the adapters of the batch, and where the rows of others are, bool [rows, 1]."""

    def __repr__(self) -> str:
        return f"Adapters({len(self._names)} in {len(self._layers)} layers)"

    def add(self, name: str, weights: Weights) -> None:
        """Puts an adapter into the layers."""
        assert name not in self._names
        self._names.add(name)
        for path, factors in weights.items():
            if path not in self._layers:
                self._layers[path] = _Layer(self, self._core.get_submodule(path))
            self._layers[path].parts[name] = factors

    def remove(self, name: str) -> None:
        """Takes an adapter out of the layers."""
        self._names.remove(name)
        for path, layer in list(self._layers.items()):
            layer.parts.pop(name, None)
            if not layer.parts:
                layer.hook.remove()
                del self._layers[path]

    @contextlib.contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Within it, each row of a batch is computed with the adapter of that name; None: with the model as it is."""
        used = dict.fromkeys(name for name in names if name is not None)
        assert self._names.issuperset(used), "an adapter was taken out while a row needs it"
        device = self._core.lm_head.weight.device
        for adapter in used:
            others = [name != adapter for name in names]
            self.in_use.append((adapter, torch.tensor(others, device=device)[:, None] if any(others) else None))
        try:
            yield
        finally:
            self.in_use.clear()


class _Layer:
    """What all adapters add to the outputs of one linear layer."""

    def __init__(self, adapters: Adapters, linear: torch.nn.Linear) -> None:
        self._adapters = adapters
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}
        self.hook = linear.register_forward_hook(self)

    def __call__(self, _linear: torch.nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> Tensor:
        """The outputs, [rows, ..., outputs], with the adapters of the rows."""
        dtype = outputs.dtype
        for name, others in self._adapters.in_use:
            if name not in self.parts:
                continue
            a, b = self.parts[name]
            low = inputs[0].flatten(0, -2).to(a.dtype) @ a
            if others is not None:
                low.view(len(others), -1).masked_fill_(others, 0)
            outputs = outputs.to(b.dtype)  # as PEFT: what is added is fp32, and so is the sum
            outputs.view(-1, b.shape[1]).addmm_(low, b)
        return outputs.to(dtype)


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
    return None if tensors else weights


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
