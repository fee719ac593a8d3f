"""Frames in memory and on the wire: a file that server, workers and local clients map, and blocks of equal frames.

A session's file has one region per slot, `stride` bytes apart, and a nonce after the last one. A worker writes the
images of a slot back to back into its region, so the same image of all slots makes one strided block.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from overworld.authoring.env import Pixels
from overworld.contract import checksum
from overworld.contract.checksum import CorruptedError
from overworld.errors import ContractError, Reason
from overworld.v1 import env_pb2 as pb

_NONCE_BYTES = 16


class FrameFile:
    """The server's side: a file of `slots` regions. Its pages take memory once frames are written to them.

    `path` can be opened by processes of the same user on the same machine. Raises OSError.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.stride = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.size = slots * self.stride + _NONCE_BYTES
        self.nonce = secrets.token_bytes(_NONCE_BYTES)
        anonymous = hasattr(os, "memfd_create")
        if anonymous:
            # Not bounded by the size of /dev/shm (64 MB in a container), and gone with its last user also if killed.
            self._fd = os.memfd_create("overworld-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        else:
            self._fd, self.path = tempfile.mkstemp(prefix="overworld-frames-")
        try:
            os.ftruncate(self._fd, self.size)
            if anonymous:  # sealed: if someone shortened it, reading past its end would kill the readers
                fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            os.pwrite(self._fd, self.nonce, self.size - _NONCE_BYTES)
            self.memory = mmap.mmap(self._fd, self.size)
        except BaseException:
            self._forget()
            raise

    def close(self) -> None:
        """Frees the memory, as soon as workers and clients have unmapped it too."""
        self.memory.close()
        self._forget()

    def _forget(self) -> None:
        if not self.path.startswith("/proc/"):
            os.unlink(self.path)
        os.close(self._fd)


def map_for_writing(path: str, nonce: bytes) -> mmap.mmap:
    """The worker's side: the whole file. Raises OSError if it is gone, or if another has taken its place."""
    fd = os.open(path, os.O_RDWR)
    try:
        memory = mmap.mmap(fd, 0)
    finally:
        os.close(fd)
    if memory[-len(nonce) :] != nonce:
        raise FileNotFoundError(f"{path} is not the file of this session any more")
    return memory


def map_for_reading(shared: pb.SharedMemory) -> mmap.mmap | None:
    """The client's side: the file, or None if it does not exist or is not the one that the server means."""
    try:
        # O_NONBLOCK: the path comes from the server, opening a pipe must not hang.
        fd = os.open(shared.path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):  # the latter for a zero byte in the path
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size != shared.size or not 0 < len(shared.nonce) <= shared.size:
            return None
        memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    except OSError:  # not every file can be mapped
        return None
    finally:
        os.close(fd)
    return memory if memory[-len(shared.nonce) :] == shared.nonce else None


class Region:
    """A worker's view of one slot's region: canvases first, then the other images of an observation."""

    def __init__(self, memory: mmap.mmap, slot: int, stride: int) -> None:
        self.start = slot * stride
        self._bytes: Pixels = np.frombuffer(memory, np.uint8, stride, self.start)
        self._address = address(self._bytes)
        self._canvas_end = 0

    def canvas(self, height: int, width: int) -> Pixels:
        """A new array uint8 [height, width, 3] in the region. Raises ContractError FRAMES_TOO_LARGE."""
        size = height * width * 3
        canvas = self._take(self._canvas_end, size).reshape(height, width, 3)
        self._canvas_end += size
        return canvas

    def forget_canvases(self) -> None:
        """Frees the space of all canvases."""
        self._canvas_end = 0

    def place(self, images: Sequence[Pixels]) -> list[int]:
        """Writes images that are not canvases of this region after the canvases. Returns their offsets in the file.

        Raises ContractError FRAMES_TOO_LARGE.
        """
        offsets = []
        end = self._canvas_end
        for pixels in images:
            at = address(pixels) - self._address
            if not (0 <= at < self._canvas_end and pixels.flags.c_contiguous):
                at = end
                self._take(at, pixels.size).reshape(pixels.shape)[...] = pixels
                end += pixels.size
            offsets.append(self.start + at)
        return offsets

    def _take(self, at: int, size: int) -> Pixels:
        if at + size > self._bytes.size:
            raise ContractError(
                Reason.FRAMES_TOO_LARGE,
                f"the images of an observation take {at + size:,} bytes or more; the server gives a slot "
                f"{self._bytes.size:,} (--slot-bytes)",
            )
        return self._bytes[at : at + size]


def address(array: NDArray[Any]) -> int:
    """Where the array's first element is."""
    found: int = array.__array_interface__["data"][0]  # a third of the time of array.ctypes.data
    return found


def pixels_hash(pixels: Pixels) -> int:
    """XXH64, seed 0, of the raw pixels."""
    return xxhash.xxh64_intdigest(np.ascontiguousarray(pixels))  # type: ignore[arg-type]  # an array is a buffer


def block_array(block: pb.FrameBlock, memory: bytes | memoryview | mmap.mmap) -> NDArray[np.uint8]:
    """The frames of a block, uint8 [count, height, width, channels], as a view of `memory`.

    Raises ValueError for a block that does not lie within the memory.
    """
    frame_bytes = block.height * block.width * block.channels
    end = block.offset + max(block.count - 1, 0) * block.stride + frame_bytes
    size = len(memoryview(memory))
    if block.count == 0 or frame_bytes == 0 or block.stride < frame_bytes or end > size:
        raise ValueError(
            f"a block of {block.count} frames of {block.height} x {block.width} x {block.channels} at {block.offset} "
            f"with stride {block.stride} does not fit into {size} bytes"
        )
    row = block.width * block.channels
    stride = block.stride if block.count > 1 else frame_bytes  # that of a single frame may be any number
    return np.ndarray(
        (block.count, block.height, block.width, block.channels),
        np.uint8,
        memory,
        block.offset,
        (stride, row, block.channels, 1),
    )


_FRAMES_TAG = pb.StepResponse.FRAMES_FIELD_NUMBER << 3 | 2


def join_response(head: pb.StepResponse, frames: Sequence[Any]) -> bytes:
    """The wire form of `head` with its checksum, followed by `frames`, in one copy instead of protobuf's several.

    `frames` are contiguous buffers; `head` must have neither frames nor a checksum.
    """
    size = sum(memoryview(frame).nbytes for frame in frames)
    data = head.SerializeToString()
    if size == 0:
        return checksum.with_checksum("Step", data)
    return b"".join((data, checksum.response_checksum("Step", data), _varint(_FRAMES_TAG), _varint(size), *frames))


def split_response(data: bytes, *, checked: bool = False) -> tuple[pb.StepResponse, memoryview]:
    """The inverse of `join_response`: the message without frames, and the frames as a view of `data`.

    Reads any valid encoding. Raises ValueError for one that is not: CorruptedError where its bytes cannot be what was
    sent. `checked`: it must have a checksum.
    """
    view = memoryview(data)
    head, at = bytearray(), 0
    frames = memoryview(b"")
    ended = False  # only frames come after the checksum
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == 2:
            size, at = _read_varint(data, at)
            at += size
        elif kind == 0:
            _, at = _read_varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise CorruptedError(f"a StepResponse has a field of wire type {kind}")
        if at > len(data):
            raise CorruptedError("a StepResponse ends within a field")
        if tag == _FRAMES_TAG:
            frames = view[at - size : at]
            continue
        if ended:
            raise CorruptedError("a StepResponse has something else than frames after its checksum")
        if tag == checksum.TAG:
            checksum.check_response("Step", view[:at])
            ended = True
        head += view[start:at]
    if checked and not ended:
        raise CorruptedError("a StepResponse has no checksum, though the server has that feature")
    return pb.StepResponse.FromString(bytes(head)), frames


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise CorruptedError("a StepResponse has a broken varint")
