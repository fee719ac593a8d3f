"""Keys and values of the replies being written: replies join and leave without copying those of the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

_GROWTH = 64
"""Capacity grows to a multiple of so many tokens, and by at least half."""


class SlotCache(Cache):
    """One row per running reply: rows 0 to `rows` - 1 are in use, each with its own length.

    `update` (called by the model's attention, layer by layer) puts one new token per row where the row ends. Layers
    that attend to a sliding window keep all tokens, too; their mask hides those that have left the window.
    """

    def __init__(self, text_config: Any) -> None:
        self._layers = [_SlotLayer(self) for _ in range(text_config.num_hidden_layers)]
        sliding = "sliding_attention" in (getattr(text_config, "layer_types", None) or ())
        self._window: int | None = text_config.sliding_window if sliding else None
        super().__init__(layers=self._layers)
        self.rows = 0
        self.longest = 0
        self.lengths = torch.zeros(0, dtype=torch.int64)

    def join(self, prefilled: DynamicCache, lengths: Tensor) -> None:
        """Adds rows: the first `lengths` [B] tokens of a cache that right-padded prompts have filled."""
        count, longest = len(lengths), int(lengths.max())
        for layer, source in zip(self._layers, prefilled.layers, strict=True):
            layer.reserve(source.keys, self.rows + count, longest + 1)
            layer.keys[self.rows : self.rows + count, :, :longest] = source.keys[:, :, :longest]
            layer.values[self.rows : self.rows + count, :, :longest] = source.values[:, :, :longest]
        self.lengths = torch.cat([self.lengths.to(lengths), lengths])
        self.rows += count

    def leave(self, row: int) -> None:
        """Removes a row; the last one takes its place."""
        last = self.rows - 1
        if row != last:
            length = int(self.lengths[last])
            for layer in self._layers:
                layer.keys[row, :, :length] = layer.keys[last, :, :length]
                layer.values[row, :, :length] = layer.values[last, :, :length]
            self.lengths[row] = length
        self.lengths = self.lengths[:last]
        self.rows = last

    def begin_token(self) -> Tensor | dict[str, Tensor]:
        """Makes room for one more token per row. Returns the attention mask, bool [rows, 1, 1, longest].

        A model with layers that attend to a sliding window gets a mask for each type of layer.
        """
        self.lengths = self.lengths + 1
        self.longest = int(self.lengths.max())
        for layer in self._layers:
            layer.reserve(layer.keys, self.rows, self.longest)
        at, ends = torch.arange(self.longest, device=self.lengths.device), self.lengths[:, None]
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
        old = self.keys, self.values
        shape = rows, like.shape[1], tokens, like.shape[3]
        # Zeros: the attention mask hides what is past the end of a row, but NaNs there would still spread.
        self.keys, self.values = (torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        self.is_initialized = True
        if have_rows:
            self.keys[:have_rows, :, :have_tokens] = old[0]
            self.values[:have_rows, :, :have_tokens] = old[1]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends one token per row, [rows, heads, 1, head size]; returns all of the rows' keys and values."""
        rows, ends = self._cache.rows, self._cache.lengths - 1
        index = torch.arange(rows, device=ends.device)
        self.keys[index, :, ends] = key_states[:, :, 0]
        self.values[index, :, ends] = value_states[:, :, 0]
        longest = self._cache.longest
        return self.keys[:rows, :, :longest], self.values[:rows, :, :longest]

    def get_seq_length(self) -> int:
        """Tokens before the current one in the longest row."""
        return max(self._cache.longest - 1, 0)
