"""Small pictures that are drawn once, kept, and copied into frames."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from overworld.authoring.env import Pixels


class SpriteCache:
    """Sprites by key, at most `max_bytes` of them: the least recently used go first."""

    _ENTRY_BYTES = 600  # Python's own objects around the pixels of one sprite, roughly

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sprites: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def get(self, key: Hashable, draw: Callable[[], Pixels]) -> Pixels:
        """The sprite of `key`, uint8 [height, width, 3], read-only; `draw` makes it if it is not there."""
        with self._lock:
            sprite = self._sprites.get(key)
            if sprite is not None:
                self._sprites.move_to_end(key)
                return sprite
        sprite = draw()
        sprite.flags.writeable = False
        with self._lock:
            if key not in self._sprites:
                self._sprites[key] = sprite
                self.bytes += sprite.nbytes + self._ENTRY_BYTES
            while self.bytes > self._max_bytes:
                _, oldest = self._sprites.popitem(last=False)
                self.bytes -= oldest.nbytes + self._ENTRY_BYTES
        return sprite
