"""LZ4 frames: what comes out is what went in, and nothing larger than was announced is ever made."""

import struct
import tracemalloc

import lz4.frame
import numpy as np
import pytest
import xxhash
from overworld.contract.compression import compress, decompress

FRAMES = np.random.default_rng(0).integers(0, 4, (4, 30, 40, 3), np.uint8)
SENT = compress([memoryview(frame) for frame in FRAMES])


def test_frames_come_back() -> None:
    assert len(SENT) < FRAMES.nbytes
    assert decompress(memoryview(SENT), FRAMES.nbytes) == FRAMES.tobytes()


def test_any_lz4_frame_is_read() -> None:
    """Of another implementation, with other settings."""
    for settings in (
        {"store_size": False},
        {"content_checksum": True, "block_checksum": True},
        {"block_linked": False},
    ):
        sent = lz4.frame.compress(FRAMES.tobytes(), compression_level=9, **settings)
        assert decompress(memoryview(sent), FRAMES.nbytes) == FRAMES.tobytes()


@pytest.mark.parametrize("size", [1, FRAMES.nbytes - 1, FRAMES.nbytes + 1])
def test_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"does not hold exactly {size}"):
        decompress(memoryview(SENT), size)


@pytest.mark.parametrize(
    "sent", [b"", b"abc", SENT[:-4], SENT[:100], SENT + b"x", SENT + SENT, bytes(100), b"\xff" * 100, SENT[4:]]
)
def test_broken_data_is_refused(sent: bytes) -> None:
    with pytest.raises(ValueError, match="compressed block"):
        decompress(memoryview(sent), FRAMES.nbytes)


def test_flipped_bytes_give_an_error_or_as_many_other_bytes() -> None:
    """The pixels' hash finds the rest."""
    random = np.random.default_rng(1)
    for _ in range(300):
        broken = bytearray(SENT)
        broken[random.integers(len(broken))] ^= int(random.integers(1, 256))
        try:
            assert len(decompress(memoryview(broken), FRAMES.nbytes)) == FRAMES.nbytes
        except ValueError as error:
            assert "compressed block" in str(error)


@pytest.mark.parametrize("announced", [False, True])
def test_a_bomb_takes_no_memory(announced: bool) -> None:
    bomb = bytearray(lz4.frame.compress(bytes(256 << 20)))
    if announced:  # another content size in its header
        struct.pack_into("<Q", bomb, 6, 1 << 40)
        bomb[14] = xxhash.xxh32_intdigest(bytes(bomb[4:14])) >> 8 & 0xFF
    tracemalloc.start()
    with pytest.raises(ValueError, match="does not hold exactly 1000"):
        decompress(memoryview(bomb), 1000)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20  # what was sent may be copied
    tracemalloc.stop()
