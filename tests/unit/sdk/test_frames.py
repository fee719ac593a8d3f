import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray
from overworld import ContractError, Reason
from overworld.contract.checksum import CorruptedError
from overworld.contract.frames import (
    FrameFile,
    Region,
    block_array,
    join_response,
    map_for_reading,
    map_for_writing,
    split_response,
)
from overworld.v1 import env_pb2 as pb
from overworld.v1.env_pb2 import SharedMemory

from tests.support.optional import present


def shared(file: FrameFile) -> SharedMemory:
    return pb.SharedMemory(path=file.path, size=file.size, nonce=file.nonce)


@pytest.fixture
def file() -> Iterator[FrameFile]:
    file = FrameFile(slots=3, slot_bytes=10_000)
    yield file
    file.close()


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_a_client_reads_what_a_worker_wrote(file: FrameFile) -> None:
    region = Region(map_for_writing(file.path, file.nonce), 1, file.stride)
    canvas = region.canvas(20, 30)
    canvas[...] = noise(20, 30, 3)
    extra = noise(5, 6, 3)
    offsets = region.place([canvas, extra])
    memory = present(map_for_reading(shared(file)))
    for offset, pixels in zip(offsets, (canvas, extra), strict=True):
        height, width, _ = pixels.shape
        block = pb.FrameBlock(offset=offset, stride=pixels.size, count=1, height=height, width=width, channels=3)
        assert np.array_equal(block_array(block, memory)[0], pixels)


def test_a_canvas_is_not_copied(file: FrameFile) -> None:
    region = Region(map_for_writing(file.path, file.nonce), 2, file.stride)
    canvas = region.canvas(4, 4)
    assert region.place([canvas]) == [2 * file.stride]
    before = canvas.copy()
    canvas[...] = 7
    assert not np.array_equal(before, canvas)
    assert file.memory[2 * file.stride] == 7


def test_images_beyond_the_region_are_refused_and_name_the_setting(file: FrameFile) -> None:
    region = Region(map_for_writing(file.path, file.nonce), 0, file.stride)
    for attempt in (lambda: region.place([noise(100, 100, 3)]), lambda: region.canvas(100, 100)):
        with pytest.raises(ContractError, match="--slot-bytes") as caught:
            attempt()
        assert caught.value.reason is Reason.FRAMES_TOO_LARGE


def test_forgotten_canvases_make_room_for_others(file: FrameFile) -> None:
    region = Region(map_for_writing(file.path, file.nonce), 0, file.stride)
    for size in range(20, 60):
        region.forget_canvases()
        assert region.place([region.canvas(size, size)]) == [0]


def test_a_file_that_another_has_replaced_is_not_written(file: FrameFile) -> None:
    with pytest.raises(FileNotFoundError, match="not the file of this session"):
        map_for_writing(file.path, bytes(16))


def test_nobody_can_shorten_a_file_that_others_read(file: FrameFile) -> None:
    with open(file.path, "r+b") as opened, pytest.raises(PermissionError):
        opened.truncate(10)


def test_a_file_that_cannot_be_made_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Cannot allocate"):
        FrameFile(slots=1, slot_bytes=2**61)
    assert len(os.listdir("/proc/self/fd")) <= before  # what other tests left may have been collected meanwhile


def test_strided_blocks_span_the_slots(file: FrameFile) -> None:
    memory = map_for_writing(file.path, file.nonce)
    frames = noise(3, 8, 8, 3)
    for slot in range(3):
        Region(memory, slot, file.stride).place([frames[slot]])
    block = pb.FrameBlock(stride=file.stride, count=3, height=8, width=8, channels=3)
    assert np.array_equal(block_array(block, present(map_for_reading(shared(file)))), frames)


def test_a_file_that_is_not_the_servers_is_not_mapped(file: FrameFile, tmp_path: Path) -> None:
    assert map_for_reading(shared(file)) is not None
    wrong = shared(file)
    wrong.nonce = b"x" * 16
    assert map_for_reading(wrong) is None
    assert map_for_reading(pb.SharedMemory(path="/nowhere", size=1, nonce=b"x")) is None
    assert map_for_reading(pb.SharedMemory(path="/dev/zero", size=1, nonce=b"x")) is None
    assert map_for_reading(pb.SharedMemory(path=str(tmp_path), size=1, nonce=b"x")) is None
    no_nonce = shared(file)
    no_nonce.nonce = b""
    assert map_for_reading(no_nonce) is None
    assert map_for_reading(pb.SharedMemory(path="/tmp\0/file", size=1, nonce=b"x")) is None
    not_mappable = "/sys/kernel/mm/transparent_hugepage/enabled"  # a regular file
    assert map_for_reading(pb.SharedMemory(path=not_mappable, size=4096, nonce=b"x")) is None


def test_the_stride_of_a_single_frame_may_be_any_number() -> None:
    block = pb.FrameBlock(offset=1, stride=2**63, count=1, height=1, width=2, channels=1)
    assert block_array(block, b"123").tolist() == [[[[50], [51]]]]


def test_readers_cannot_write(file: FrameFile) -> None:
    memory = present(map_for_reading(shared(file)))
    assert isinstance(memory, mmap.mmap)
    with pytest.raises(TypeError):
        memory[0] = 1


@pytest.mark.parametrize(
    "fields",
    [
        {"count": 0},
        {"count": 5},
        {"height": 0},
        {"stride": 10},
        {"offset": 999},
        {"height": 2**31, "width": 2**31},
        {"channels": 2**32 - 1},
    ],
)
def test_blocks_outside_of_the_memory_are_refused(fields: dict[str, int]) -> None:
    block = pb.FrameBlock(offset=0, stride=48, count=2, height=4, width=4, channels=3)
    assert block_array(block, bytes(96)).shape == (2, 4, 4, 3)
    for name, value in fields.items():
        setattr(block, name, value)
    with pytest.raises(ValueError, match="does not fit"):
        block_array(block, bytes(96))


def test_joined_responses_are_what_protobuf_makes() -> None:
    head = pb.StepResponse(draining=True, results=[pb.SlotResult(slot=3, reward=1.5)])
    frames = [noise(1000), noise(300)]
    whole = pb.StepResponse()
    whole.CopyFrom(head)
    whole.frames = b"".join(frame.tobytes() for frame in frames)
    whole.checksum = xxhash.xxh64_intdigest(b"/overworld.v1.EnvService/Step" + head.SerializeToString())
    data = join_response(head, [frame.data for frame in frames])
    assert data == whole.SerializeToString()
    again, packed = split_response(data, checked=True)
    again.ClearField("checksum")
    assert again == head
    assert packed == whole.frames


def test_responses_in_another_order_are_read() -> None:
    head = pb.StepResponse(draining=True)
    frames_first = pb.StepResponse(frames=b"abc").SerializeToString() + head.SerializeToString()
    for data, response, frames in (
        (frames_first, head, b"abc"),
        (head.SerializeToString(), head, b""),
        (b"", pb.StepResponse(), b""),
    ):
        again, packed = split_response(data)
        assert again == response
        assert packed == frames


@pytest.mark.parametrize("cut", [1, 20, 64, 65])
def test_broken_responses_are_refused(cut: int) -> None:
    data = join_response(pb.StepResponse(draining=True), [bytes(64)])
    with pytest.raises(ValueError, match="StepResponse"):
        split_response(data[:-cut])


def test_a_flipped_bit_is_noticed_wherever_it_is() -> None:
    """In frames the image's own hash notices it."""
    observation = pb.Observation(parts=[pb.Part(text="the number is 95")])
    head = pb.StepResponse(results=[pb.SlotResult(slot=3, reward=1.5, observation=observation)])
    for frames in ([], [b"pixels"]):
        data = join_response(head, frames)
        for bit in range(8 * (len(data) - sum(map(len, frames)))):
            spoilt = bytearray(data)
            spoilt[bit // 8] ^= 1 << bit % 8
            with pytest.raises(CorruptedError):
                split_response(bytes(spoilt), checked=True)
        response, packed = split_response(data, checked=True)
        assert (response.results[0], bytes(packed)) == (head.results[0], b"".join(frames))


def test_memory_is_used_only_where_frames_are_written() -> None:
    file = FrameFile(slots=64, slot_bytes=16 << 20)
    assert file.size > 1 << 30
    map_for_writing(file.path, file.nonce)[: mmap.PAGESIZE] = bytes(mmap.PAGESIZE)
    used = os.stat(file.path).st_blocks * 512
    assert used <= 4 * mmap.PAGESIZE
    file.close()
