"""Keys and values of the replies being written: replies join and leave without copying those of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

_GROWTH = 64
"""Capacity grows to a multiple of so many tokens, and by at least half."""


class SlotCache(Cache):
    """One row per running reply, each with its own length; spare rows may follow them.

    `update` (called by the model's attention, layer by layer) puts one new token per row where the row ends. Layers
    that attend to a sliding window keep all tokens, too; their mask hides those that have left the window. Attention
    sees a multiple of `block` columns.
    """

    def __init__(self, text_config: Any, block: int) -> None:
        self._block = block
        self._layers = [_SlotLayer(self) for _ in range(text_config.num_hidden_layers)]
        sliding = "sliding_attention" in (getattr(text_config, "layer_types", None) or ())
        self._window: int | None = text_config.sliding_window if sliding else None
        super().__init__(layers=self._layers)
        self.lengths: list[int] = []
        """Tokens in each row. Known here and not only on the device: to ask a GPU would be to wait for it."""
        self.longest = 0
        self.moves = 0
        """How often keys and values have moved to other places in memory."""
        self.ends = torch.zeros(0, dtype=torch.int64)

    def join(self, prefilled: DynamicCache, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Adds copies of `rows` of a cache that right-padded prompts have filled: the first `lengths` tokens."""
        first, longest = len(self.lengths), max(lengths)
        self.lengths += lengths
        index = torch.tensor(rows, device=prefilled.layers[0].keys.device)
        for layer, source in zip(self._layers, prefilled.layers, strict=True):
            layer.reserve(source.keys, len(self.lengths), longest + 1)
            layer.keys[first : len(self.lengths), :, :longest] = source.keys[:, :, :longest].index_select(0, index)
            layer.values[first : len(self.lengths), :, :longest] = source.values[:, :, :longest].index_select(0, index)

    def leave(self, row: int) -> None:
        """Removes a row; the last one takes its place."""
        last, length = len(self.lengths) - 1, self.lengths[-1]
        if row != last:
            for layer in self._layers:
                layer.keys[row, :, :length] = layer.keys[last, :, :length]
                layer.values[row, :, :length] = layer.values[last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()

    def clear(self) -> None:
        """Frees all memory; no row may be in use."""
        assert not self.lengths
        for layer in self._layers:
            layer.clear()

    def begin_token(self, rows: int) -> None:
        """Makes room for one more token in each of `rows` rows, spare ones included."""
        self.lengths = [length + 1 for length in self.lengths]
        self.longest = -(-max(self.lengths) // self._block) * self._block
        for layer in self._layers:
            layer.reserve(layer.keys, rows, self.longest)

    def mask(self, ends: Tensor) -> Tensor | dict[str, Tensor]:
        """The attention mask of the token that has begun, bool [rows, 1, 1, longest].

        A model with layers that attend to a sliding window gets a mask for each type of layer.

        ends  int64 [rows], on the device: the length of each row with the new token, and of each spare row 1
        """
        self.ends = ends
        at, ends = torch.arange(self.longest, device=ends.device), ends[:, None]
        full = (at < ends)[:, None, None, :]
        if self._window is None:
            return full
        within = (at >= ends - self._window)[:, None, None, :]
        return {"full_attention": full, "sliding_attention": full & within}


class _SlotLayer(DynamicLayer):
    """Keys and values of one layer, [capacity in rows, heads, capacity in tokens, head size]."""

    keys: Tensor
    values: Tensor
    is_initialized: bool

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def reserve(self, like: Tensor, rows: int, tokens: int) -> None:
        """Grows to hold so many rows and tokens."""
        have_rows, have_tokens = (self.keys.shape[0], self.keys.shape[2]) if self.is_initialized else (0, 0)
        if rows <= have_rows and tokens <= have_tokens:
            return
        rows = max(rows, have_rows)
        if tokens > have_tokens:
            tokens = max(-(-tokens // _GROWTH) * _GROWTH, have_tokens * 3 // 2)
        tokens = max(tokens, have_tokens)
        old = (self.keys, self.values) if have_rows else None
        shape = rows, like.shape[1], tokens, like.shape[3]
        # Zeros: the attention mask hides what is past the end of a row, but NaNs there would still spread.
        self.keys, self.values = (torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        self.is_initialized = True
        self._cache.moves += 1
        if old is not None:
            self.keys[:have_rows, :, :have_tokens] = old[0]
            self.values[:have_rows, :, :have_tokens] = old[1]

    def clear(self) -> None:
        """Frees the memory."""
        if self.is_initialized:
            del self.keys, self.values
            self.is_initialized = False

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends one token per row, [rows, heads, 1, head size]; returns all of the rows' keys and values."""
        ends, longest = self._cache.ends, self._cache.longest
        rows = len(ends)
        index = torch.arange(rows, device=ends.device)
        self.keys[index, :, ends - 1] = key_states[:, :, 0]
        self.values[index, :, ends - 1] = value_states[:, :, 0]
        return self.keys[:rows, :, :longest], self.values[:rows, :, :longest]

    def get_seq_length(self) -> int:
        """Columns before the current one."""
        return max(self._cache.longest - 1, 0)
