"""The vision tower with a memory: what it has made of a picture is kept for as long as its weights stay the same."""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from overworld_vlm.families import Family, Layout
from overworld_vlm.kernels import row_by_row
from overworld_vlm.sharding import local

DEFAULT_MEMORY = 1 << 30
"""Bytes of features that are kept unless set otherwise."""

_NUMBERS = {"cpu": 1 << 20}
_NUMBERS_ELSEWHERE = 1 << 25
"""Numbers, of the pixels as an image processor leaves them, that go through the tower at once, which bounds its memory.
A GPU needs many to be kept busy. A larger picture goes alone.
"""

_Media = dict[str, Tensor]

_Key = tuple[Family, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image of a prompt. Prompts that show the same picture share it.

    pixels  uint8 [height, width, 1 or 3]; they must not change
    family  what processes it: models that share a tower may resize and cut images differently
    layout  how it is laid out in the prompt
    digest  names the pixels
    """

    pixels: np.ndarray
    family: Family
    layout: Layout
    digest: bytes

    @classmethod
    def of(cls, pixels: np.ndarray, family: Family) -> Picture:
        """A picture of the pixels, uint8 [height, width, 1 or 3]. Raises ValueError if they cannot be used."""
        # A cryptographic digest: with another one, a stranger's picture could be made to pass for someone else's.
        digest = hashlib.blake2b(str(pixels.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(pixels).data)
        return cls(pixels, family, family.layout(*pixels.shape[:2]), digest.digest())

    @property
    def key(self) -> _Key:
        """Names what the vision tower sees of it."""
        return self.family, self.digest

    def __repr__(self) -> str:
        return f"Picture({'x'.join(map(str, self.pixels.shape))})"


class Vision:
    """Turns pictures into features with the vision tower of the model `core`.

    Each picture goes through the tower once, however often a batch shows it. Where no gradient is asked for, its
    features are kept, up to `memory` bytes of the least recently used ones, until a weight of the tower changes.
    """

    def __init__(self, core: Any, family: Family, memory: int = DEFAULT_MEMORY) -> None:
        self.memory = memory
        self._core = core
        self._family = family
        self.weights: list[torch.nn.Parameter] | None = None
        """The tower's weights if they are sharded: the parts, which stay the same objects while they are put together
        and taken apart again."""
        self._kept: OrderedDict[_Key, Tensor] = OrderedDict()
        self._bytes = 0
        self._weights: tuple[tuple[int, int, int], ...] = ()

    def __repr__(self) -> str:
        return f"Vision({len(self._kept)} pictures kept, {self._bytes:,} of {self.memory:,} bytes)"

    def __call__(self, pictures: Sequence[Picture]) -> Tensor | None:
        """The features of pictures in order, [levels, image tokens, hidden], see `Family.features`; None without any.

        With gradients for the tower's weights where they are enabled.
        """
        if not pictures:
            return None
        different = {picture.key: picture for picture in pictures}
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters()):
            shown = list(different.values())
            features = dict(zip(different, self._encode(shown, list(map(_processed, shown))), strict=True))
        else:
            features = self._recall(different)
        return torch.cat([features[picture.key] for picture in pictures], 1)

    @torch.no_grad()
    def _recall(self, pictures: dict[_Key, Picture]) -> dict[_Key, Tensor]:
        """Features of pictures: kept ones, and those that are computed now and kept from here on."""
        self._forget_outdated()
        features = {key: self._kept[key] for key in pictures if key in self._kept}
        missing = [picture for key, picture in pictures.items() if key not in features]
        for batch, media in self._batches(missing):
            alone = _numbers(media[0]) > self._most
            # Nobody is there whose bits could depend on it, and plain products take memory by the square of its size.
            with contextlib.nullcontext() if alone else row_by_row(self._core.device):
                for picture, encoded in zip(batch, self._encode(batch, media), strict=True):
                    features[picture.key] = encoded
        for key in pictures:
            self._keep(key, features[key])
        return features

    def _encode(self, pictures: Sequence[Picture], media: Sequence[_Media]) -> list[Tensor]:
        """The features of each picture."""
        device, dtype = self._core.device, self._core.dtype
        arguments = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in joined(media).items()
        }
        features = self._family.features(self._core, arguments)
        return list(features.split([self._tokens(picture) for picture in pictures], 1))

    def _batches(self, pictures: Iterable[Picture]) -> Iterator[tuple[list[Picture], list[_Media]]]:
        """Pictures that go through the tower together, and what the tower takes of each."""
        batch: list[Picture] = []
        media: list[_Media] = []
        numbers = 0
        for picture in pictures:
            processed = _processed(picture)
            numbers += _numbers(processed)
            if batch and numbers > self._most:
                yield batch, media
                batch, media, numbers = [], [], _numbers(processed)
            batch.append(picture)
            media.append(processed)
        if batch:
            yield batch, media

    @property
    def _most(self) -> int:
        return _NUMBERS.get(self._core.device.type, _NUMBERS_ELSEWHERE)

    def _tokens(self, picture: Picture) -> int:
        return picture.layout.tokens(self._family.image_token)

    def _keep(self, key: _Key, features: Tensor) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        # A copy: a part of a batch's tensor would keep all of it alive.
        self._kept[key] = features.clone()
        self._bytes += features.nbytes
        while self._bytes > self.memory:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def _forget_outdated(self) -> None:
        """Forgets everything if a weight has changed since, or if adapters in the tower may be switched on and off."""
        # Of a sharded weight, an optimizer changes the whole's version, and a copy into the part the part's.
        weights = tuple(
            (local(weight).data_ptr(), weight._version, local(weight)._version) for weight in self.parameters()
        )
        adapted = any(isinstance(module, BaseTunerLayer) for tower in self._towers() for module in tower.modules())
        if adapted or weights != self._weights:
            self._kept.clear()
            self._bytes = 0
        self._weights = weights

    def _towers(self) -> list[torch.nn.Module]:
        return [getattr(self._core.model, name) for name in self._family.vision]

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """The tower's weights."""
        if self.weights is not None:
            return self.weights
        return (weight for tower in self._towers() for weight in tower.parameters())


def _processed(picture: Picture) -> _Media:
    return picture.family.process(rgb(picture.pixels)).media


def _numbers(media: _Media) -> int:
    return sum(tensor.numel() for tensor in media.values() if tensor.is_floating_point())


def rgb(pixels: np.ndarray) -> np.ndarray:
    """Pixels with three channels."""
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, 2)


def joined(media: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The media, or sizes, of several pictures along their first axis; empty without any."""
    return {name: torch.cat([one[name] for one in media]) for name in media[0]} if media else {}
