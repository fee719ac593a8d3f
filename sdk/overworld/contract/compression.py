"""Blocks of frames as LZ4 frames, for TRANSPORT_INLINE_LZ4."""

from __future__ import annotations

from collections.abc import Sequence

import lz4.frame

from overworld.contract.checksum import CorruptedError

MAX_BYTES = (1 << 31) - 1
"""Bound of what one response decompresses to: uncompressed, its frames would have to fit into a protobuf message."""


def compress(frames: Sequence[memoryview]) -> bytes:
    """The frames, one after the other, as one LZ4 frame."""
    compressor = lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX4MB)
    head = compressor.begin(sum(frame.nbytes for frame in frames))
    return b"".join((head, *(compressor.compress(frame) for frame in frames), compressor.flush()))


def decompress(data: memoryview, size: int) -> bytes:
    """The `size` bytes that `data`, one LZ4 frame, decompresses to.

    Never takes more memory than that. Raises CorruptedError for data that is broken, or that holds another number of
    bytes.
    """
    decompressor = lz4.frame.LZ4FrameDecompressor()
    try:
        pixels: bytes = decompressor.decompress(data, max_length=size)
    except (EOFError, RuntimeError) as error:
        raise CorruptedError(f"a compressed block is broken: {error}") from None
    if len(pixels) != size or not decompressor.eof or decompressor.unused_data:
        raise CorruptedError(f"a compressed block of {len(data)} bytes does not hold exactly {size}")
    return pixels
