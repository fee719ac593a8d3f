"""Results: what the slots answered, with their frames read from the response or from shared memory."""

from __future__ import annotations

import collections
import mmap
from collections.abc import Collection, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from overworld.authoring.env import Pixels
from overworld.authoring.runner import Result
from overworld.contract.checks import check_result
from overworld.contract.checksum import CorruptedError
from overworld.contract.compression import MAX_BYTES, decompress
from overworld.contract.frames import address, block_array, pixels_hash, split_response
from overworld.contract.wire import result_from_proto
from overworld.v1 import env_pb2 as pb


class Results(Sequence[Result]):
    """The results of one call, in the order of its moves."""

    def __init__(self, results: list[Result]) -> None:
        self._results = results

    def __repr__(self) -> str:
        notes = {
            "pending": sum(result.pending for result in self),
            "failed": sum(result.error is not None for result in self),
            "ended": sum(result.end is not None for result in self),
        }
        described = "".join(f", {number} {note}" for note, number in notes.items() if number)
        return f"<Results of {len(self)} slot{'' if len(self) == 1 else 's'}{described}>"

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        return self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    def frames(self, image: int = 0) -> NDArray[np.uint8]:
        """Image number `image` of all results as one batch, uint8 [results, height, width, channels].

        Copied only if the images are not adjacent in memory already. Raises LookupError if a result has no such image,
        ValueError if sizes differ.
        """
        pixels = [result.observation.images[image].pixels for result in self._results]
        if not pixels:
            raise LookupError("there are no results")
        block = common_block(pixels)
        return np.stack(pixels) if block is None else block


def common_block(arrays: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """The array whose rows these arrays are, in order and all of them; None if there is none."""
    base = arrays[0].base
    if not isinstance(base, np.ndarray) or base.ndim != arrays[0].ndim + 1 or len(base) != len(arrays):
        return None
    start, stride = address(base), base.strides[0]
    rows = all(one.base is base and address(one) == start + i * stride for i, one in enumerate(arrays))
    return base if rows else None


def read_response(
    data: bytes, commands: Sequence[pb.Command], vocabulary: Collection[str], min_ready: int = 0, *, checked: bool
) -> tuple[pb.StepResponse, memoryview]:
    """The response to a Step with these commands, without frames, and the frames that it carries.

    `vocabulary` is the one of the session's spec; `checked`: it must have a checksum. Raises CorruptedError if its
    bytes changed on the way, ValueError or DecodeError if it breaks the contract.
    """
    response, frames = split_response(data, checked=checked)
    answered = [(result.slot, result.episode, result.turn) for result in response.results]
    expected = [(command.slot, command.episode, command.turn) for command in commands]
    if answered != expected:
        # A bit in the frame of HTTP/2 that carries it may have sent it to another call.
        raise CorruptedError(f"it answers {answered}, asked were {expected} (slot, episode, turn)")
    for result in response.results:
        check_result(result, vocabulary)
    pending = sum(result.state == pb.SLOT_STATE_PENDING for result in response.results)
    wanted = min(min_ready or len(commands), len(commands))
    if len(commands) - pending < wanted:
        raise ValueError(f"{pending} of {len(commands)} results are pending; {wanted} had to be ready")
    return response, frames


def read_results(
    response: pb.StepResponse, frames: memoryview, shared: mmap.mmap | None, *, compressed: bool, copy: bool
) -> list[Result]:
    """The results with their pixels, from `shared` memory if there is one, else from `frames`.

    `compressed` says whether blocks may be. With `copy`, pixels are the caller's to keep, and their hashes are checked.
    Raises CorruptedError for frames that are not those that the env drew, ValueError or LookupError for a response that
    contradicts itself.
    """
    if compressed:
        frames = _decompressed(response, frames)
    elif any(block.compressed_size for block in response.blocks):
        raise ValueError("a block is compressed; the session was opened without TRANSPORT_INLINE_LZ4")
    blocks = [block_array(block, frames if shared is None else shared) for block in response.blocks]
    used: list[dict[int, None]] = [{} for _ in blocks]  # of each block: image.index, in order
    for result in response.results:
        for image in result.observation.images:
            if image.block >= len(blocks) or image.index >= len(blocks[image.block]):
                raise ValueError(f"image {image.name!r} is not in any block")
            used[image.block][image.index] = None
    if not copy:
        return [
            result_from_proto(result, lambda image: blocks[image.block][image.index]) for result in response.results
        ]
    taken = [_taken(block, rows, copied=shared is not None) for block, rows in zip(blocks, used, strict=True)]

    def frame(image: pb.Image) -> Pixels:
        pixels, digest = taken[image.block][image.index]
        if digest != image.xxh64:
            raise CorruptedError(f"image {image.name!r} is not the one that the env drew: its hash differs")
        return pixels

    return [result_from_proto(result, frame) for result in response.results]


def _taken(block: Pixels, rows: Collection[int], *, copied: bool) -> dict[int, tuple[Pixels, int]]:
    """These rows with their hashes; those that are copied are the rows of a new block, each hashed while it is in the
    cache.
    """
    taken = {}
    own = np.empty((len(rows), *block.shape[1:]), np.uint8) if copied else block
    for place, row in enumerate(rows):
        if copied:
            own[place] = block[row]
        pixels: Pixels = own[place if copied else row]
        taken[row] = pixels, pixels_hash(pixels)
    return taken


def _decompressed(response: pb.StepResponse, frames: memoryview) -> memoryview:
    """The frames without compression; the blocks of the response are changed to describe them.

    Raises ValueError, before memory is taken, for blocks that are larger than their images.
    """
    named = collections.Counter(image.block for result in response.results for image in result.observation.images)
    left = MAX_BYTES
    pixels: list[bytes | memoryview] = []
    for index, block in enumerate(response.blocks):
        size = block.height * block.width * block.channels
        end = block.offset + (block.compressed_size or block.count * size)
        left -= block.count * size
        if block.count > named[index] or left < 0 or end > len(frames) or not 0 < size == block.stride:
            raise ValueError(
                f"block {index} has {block.count} frames of {size} bytes, stride {block.stride}, at {block.offset} to "
                f"{end} of {len(frames)}; it has {named[index]} images, and a response at most {MAX_BYTES} bytes"
            )
        data = frames[block.offset : end]
        pixels.append(decompress(data, block.count * size) if block.compressed_size else data)
        block.compressed_size = 0
    offset = 0
    for block, part in zip(response.blocks, pixels, strict=True):
        block.offset = offset
        offset += len(part)
    return memoryview(pixels[0] if len(pixels) == 1 else b"".join(pixels))
