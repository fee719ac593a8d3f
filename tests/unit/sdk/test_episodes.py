"""The format of episodes on disk: what is written is what is read, and nothing else is read."""

from __future__ import annotations

import json
import math
import os
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from overworld import Image, Observation, Runner
from overworld.contract.frames import pixels_hash
from overworld.errors import EvaluationError
from overworld.evaluation import folder as folder_module
from overworld.evaluation.conversation import Recipe, png
from overworld.evaluation.episodes import (
    MAX_INLINE_BYTES,
    Episode,
    Header,
    ImageRecord,
    ModelRecord,
    ObservationRecord,
    Record,
    TensorDigest,
    TensorRecord,
    Turn,
    action_of,
    action_record,
    env_record,
)
from overworld.evaluation.folder import VARYING, EpisodeFolder, EpisodeWriter, decisions
from overworld.evaluation.usage import Usage
from pydantic import ValidationError

from tests.support.toy_env import Reach, Toy, ToyOptions

HEADER = Header(
    env=env_record(Toy.spec),
    options={"size": 32},
    fallback="SKIP",
    fallback_reward=0.0,
    expert=False,
    recipe=Recipe(),
    versions={"overworld": "0.1.0"},
)
PICTURE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
GREY = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)


def observed(*parts: str | Image, **fields: Any) -> Observation:
    return Observation(parts, **fields)


def turn(**fields: Any) -> Turn:
    given = {"observation": ObservationRecord(parts=("look",)), "outcome": "executed", "reward": 1.0}
    return Turn.model_validate(given | fields)


def episode(*turns: Turn, **fields: Any) -> Episode:
    given = {"seed": 1, "final": ObservationRecord(), "end": "TASK", "success": True}
    return Episode.model_validate(given | fields | {"turns": turns})


def written(path: Path, *episodes: Episode, header: Header = HEADER) -> EpisodeFolder:
    with EpisodeWriter(path, header) as writer:
        for one in episodes:
            writer.append(one)
    return EpisodeFolder(path)


def shown(path: Path, *pictures: np.ndarray) -> tuple[EpisodeFolder, list[ImageRecord]]:
    """A folder with these pictures, in one turn."""
    images = [Image(f"view {number}", pixels) for number, pixels in enumerate(pictures)]
    record = ObservationRecord.of(observed(*images))
    with EpisodeWriter(path, HEADER) as writer:
        writer.keep(images, record.images)
        writer.append(episode(turn(observation=record)))
    return EpisodeFolder(path), record.images


def test_what_is_written_is_read(tmp_path: Path) -> None:
    image = Image("view", PICTURE)
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "joints": np.array([0.1, -0.0, math.nan, math.inf], np.float32),
        "count": np.array(2**62, np.int64),
        "depth": np.ones((100, 100), np.float64),
    }
    texts = "line 1\nline 2\u2028\x85\x00", 'ünï "çode" \\ 手 \U0001f600', ""
    record = ObservationRecord.of(observed(texts[0], image, texts[1], admissible=("go", ""), tensors=tensors))
    first = turn(
        observation=record,
        shown=(texts[2], ImageRecord.of(Image("white", GREY))),
        actor="expert",
        reply=texts[1],
        thoughts=texts[0],
        action="grüße",
        executed=7,
        reward=0.1 + 0.2,
        metrics={"b": 5e-324, "a": -0.0, "c": 1.7976931348623157e308},
        cut=True,
        fingerprint="weights",
        sampling_seed=2**53 - 1,
        tokens=(1, 2**31),
        logprobs=(-0.1, -1e-17),
        value=1 / 3,
    )
    tensor = action_record(np.array([0.25, 1], np.float32))
    second = turn(action=tensor, executed=tensor, reward=-0.0)
    whole = episode(first, second, seed=2**64 - 1, split="four", task=3, prefix=("up", None, 2, tensor), sample=4)
    broken = episode(turn(outcome="failed"), seed=0, final=None, end=None, success=False, error="STEP_TIMEOUT: slow")
    read = written(tmp_path / "kept", whole, broken)
    assert list(read) == [whole, broken]
    assert read.header == HEADER
    assert read.spec == Toy.spec
    assert read.count() == 2
    (again, _) = read
    assert [one.reward.hex() for one in again.turns] == [(0.1 + 0.2).hex(), (-0.0).hex()]
    assert again.turns[0].metrics["a"].hex() == (-0.0).hex()
    assert again.to_line() == whole.to_line()
    joints, count, depth = (again.turns[0].observation.tensors[name] for name in tensors)
    assert isinstance(joints, TensorRecord)
    assert isinstance(count, TensorRecord)
    assert joints.array().tobytes() == tensors["joints"].tobytes()
    assert (count.array().shape, int(count.array())) == ((), 2**62)
    assert isinstance(depth, TensorDigest), f"above {MAX_INLINE_BYTES} bytes only the hash is kept"
    assert depth.xxh64 == f"{pixels_hash(np.frombuffer(tensors['depth'].tobytes(), np.uint8)):016x}"
    action = action_of(again.turns[1].action)
    assert isinstance(action, np.ndarray)
    assert (action.dtype.name, action.tolist()) == ("float32", [0.25, 1.0])


def test_the_lines_are_as_specified(tmp_path: Path) -> None:
    """What another language reads: compact JSON in UTF-8, sorted keys, defaults left out."""
    record = ObservationRecord.of(observed(Image("view", GREY), "seen: é"))
    written(
        tmp_path, episode(turn(observation=record, action="up", executed="up", reply="up!", metrics={"b": 1, "a": 2}))
    )
    (line,) = (tmp_path / "episodes.jsonl").read_text("utf-8").splitlines()
    assert line == (
        '{"end":"TASK","final":{},"seed":1,"success":true,"turns":[{"action":"up","executed":"up","metrics":{"a":2.0,'
        '"b":1.0},"observation":{"parts":[{"channels":1,"height":2,"name":"view","width":3,"xxh64":"'
        f'{pixels_hash(GREY):016x}"}},"seen: é"]}},"outcome":"executed","reply":"up!","reward":1.0}}]}}'
    )
    header = json.loads((tmp_path / "header.json").read_text("utf-8"))
    assert (header["format"], header["version"]) == ("overworld episodes", 1)
    assert header["env"]["action"]["vocabulary"][:2] == ["up", "down"]


def test_rewards_are_added_up_in_order() -> None:
    rewards = (0.1, 0.2, 0.3, 1e16, 1.0, -1e16)
    total = 0.0
    for reward in rewards:
        total += reward
    assert episode(*(turn(reward=reward) for reward in rewards)).total_reward == total != math.fsum(rewards)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(number: float) -> None:
    for field in ({"reward": number}, {"value": number}, {"metrics": {"a": number}}):
        with pytest.raises(ValueError, match="finite"):
            turn(**field)
    with pytest.raises(ValueError, match="not JSON compliant"):
        Header.model_validate(HEADER.model_dump() | {"options": {"a": [number]}, "recipe": Recipe()})


@pytest.mark.parametrize(
    "fields",
    [
        {"end": None},
        {"final": None},
        {"error": "broken"},
        {"end": None, "final": None, "error": "broken"},
        {"turns": (turn(outcome="failed"),)},
        {"turns": (turn(outcome="failed"), turn()), "end": None, "final": None, "success": False, "error": "broken"},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": 1.0},
        {"task": True},
        {"prefix": (1.5,)},
        {"prefix": (-1,)},
        {"prefix": (True,)},
        {"split": "half a pair: \ud800"},
        {"error": "x" * (2**20 + 1)},
        {"turns": (turn(),) * 100_001},
        {"colour": "red"},
    ],
)
def test_an_episode_that_contradicts_itself_or_its_bounds_is_refused(fields: dict[str, Any]) -> None:
    given = {"seed": 1, "turns": (), "final": ObservationRecord(), "end": "TASK", "success": True}
    with pytest.raises(ValueError):
        Episode.model_validate(given | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"data": "AAA"},
        {"data": "AAAA!AAAA"},
        {"data": ""},
        {"dtype": "object"},
        {"dtype": "float16"},
        {"shape": (2**31, 2**31, 2**31)},
        {"shape": (1,) * 33},
        {"shape": (-1,)},
        {"data": "A" * (2**21)},
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    good = {"dtype": "float32", "shape": (1,), "data": "AAAAAA=="}
    assert TensorRecord.model_validate(good).array().tolist() == [0.0]
    with pytest.raises(ValueError):
        TensorRecord.model_validate(good | fields)


def test_logprobs_go_with_tokens() -> None:
    for fields in ({"logprobs": (0.0,)}, {"logprobs": (0.0,), "tokens": (1, 2)}):
        with pytest.raises(ValueError, match="logprobs"):
            turn(**fields)


def test_a_last_line_that_was_torn_is_dropped(tmp_path: Path) -> None:
    folder = written(tmp_path, *(episode(turn(), seed=seed) for seed in range(3)))
    path = tmp_path / "episodes.jsonl"
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert [one.seed for one in folder] == [0, 1]
        assert folder.count() == 2
    path.write_bytes(b"")
    assert (list(folder), folder.count()) == ([], 0)


def test_a_full_disk_loses_no_episode_that_was_kept(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EpisodeWriter(tmp_path, HEADER) as writer:
        writer.append(episode(turn(), seed=0))
        room = (tmp_path / "episodes.jsonl").stat().st_size + 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(OSError, match="is the disk full"):
                writer.append(episode(turn(), seed=1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "episodes.jsonl").stat().st_size == room
    with EpisodeWriter(tmp_path, HEADER, resume=True) as writer:
        assert [one.seed for one in writer.episodes] == [0]
        writer.append(episode(turn(), seed=1))
    assert [one.seed for one in EpisodeFolder(tmp_path)] == [0, 1]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"seed":1}',
        b'{"seed":1,"turns":[{}],"error":"x"}',
        b'{"seed":1,"turns":5,"error":"x"}',
        b'{"seed":"1","turns":[],"error":"x"}',
        b'{"seed":1,"turns":[],"error":"x","more":1}',
        b'{"seed":1,"turns":[],"error":"\\ud800"}',
        b'{"seed":1,"turns":[{"observation":{},"outcome":"executed","reward":NaN}],"error":"x"}',
        b'{"seed":1,"turns":[{"observation":{},"outcome":"executed","reward":1e999}],"error":"x"}',
        b'{"seed":1,"turns":[{"observation":{},"outcome":"flown","reward":1}],"error":"x"}',
        b'{"seed":' + b"9" * 100_000 + b',"turns":[],"error":"x"}',
        b"[" * 1_000_000,
        b'{"turns":' * 100_000,
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes) -> None:
    folder = written(tmp_path, episode(turn()))
    with (tmp_path / "episodes.jsonl").open("ab") as file:
        file.write(line + b"\n" + episode(turn()).to_line())
    read = iter(folder)
    assert next(read).seed == 1
    with pytest.raises(EvaluationError, match=r"episodes\.jsonl, line 2, is not an episode"):
        next(read)


_TURN = b'{"observation":{%s},"outcome":"executed","reward":0%s}'
_MEMBERS = b",".join(b'"%x":""' % number for number in range(50_000))


@pytest.mark.parametrize(
    "line",
    [
        b'{"seed":1,"turns":[' + b"0," * 50_000 + b'0],"error":"x"}',
        b"{" + _MEMBERS + b"}",
        b'{"seed":1,"turns":[%s],"error":"x"}' % (_TURN % (b"", b"," + _MEMBERS)),
        b'{"seed":1,"turns":[%s],"error":"x"}' % (_TURN % (b"", b',"metrics":{%s}' % _MEMBERS)),
        b'{"seed":1,"turns":[%s],"error":"x"}' % (_TURN % (b"", b',"logprobs":[' + b'"",' * 50_000 + b"0]")),
        b'{"seed":1,"turns":[%s],"error":"x"}' % (_TURN % (b'"tensors":{%s}' % _MEMBERS, b"")),
        b'{"seed":1,"turns":[%s],"error":"x"}' % (_TURN % (b'"parts":[{%s}]' % _MEMBERS, b"")),
        b'{"seed":1,"turns":[%s],"error":"x"}' % (_TURN % (b'"parts":[' + b"0," * 50_000 + b"0]", b"")),
        b'{"seed":1,"turns":[%s],"error":"x"}' % (_TURN % (b'"admissible":[' + b"0," * 50_000 + b'""]', b"")),
    ],
)
def test_a_line_of_many_wrong_things_costs_no_more_than_one(line: bytes) -> None:
    """Pydantic would make an error of a kilobyte for each: 16 GB for a line of 32 MB."""
    with pytest.raises(ValidationError) as refused:
        Episode.model_validate_json(line)
    assert refused.value.error_count() < 20


def test_the_error_says_what_is_wrong_within_a_picture(tmp_path: Path) -> None:
    folder, _ = shown(tmp_path, PICTURE)
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"height":5', b'"height":-5'))
    with pytest.raises(EvaluationError, match=r"turns\.0\.observation\.parts\.0\.height: Input should be greater"):
        list(folder)


def test_a_line_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path, episode(turn(reply="x" * 5000)))
    monkeypatch.setattr(folder_module, "_MAX_LINE_BYTES", 4000)
    with pytest.raises(EvaluationError, match="line 1, has more than 4,000 bytes"):
        list(folder)
    with (
        EpisodeWriter(tmp_path / "other", HEADER) as writer,
        pytest.raises(EvaluationError, match="the bound is 4,000"),
    ):
        writer.append(episode(turn(reply="x" * 5000)))


SOUND = episode(
    turn(
        observation=ObservationRecord.of(
            observed(Image("view", GREY), "text", admissible=("up",), tensors={"a": np.zeros(2, np.int32)})
        ),
        action=action_record(np.zeros(3, np.float64)),
        tokens=(1, 2),
        logprobs=(-1.5, -2.5),
        metrics={"a": 1.0},
    ),
    prefix=("up", 1, None),
).to_line()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SOUND) - 2),
            st.integers(0, 3),
            st.one_of(st.binary(max_size=4), st.sampled_from([b"null", b"-1", b"1e400", b"{}", b'""', b"[[", b"true"])),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_the_bytes_the_answer_is_an_episode_or_an_error_with_its_line(
    tmp_path: Path, changes: list[tuple[int, int, bytes]]
) -> None:
    line = SOUND[:-1]
    for at, cut, put in changes:
        line = line[:at] + put.replace(b"\n", b" ") + line[at + cut :]
    path = tmp_path / "kept"
    folder = EpisodeFolder(path) if path.exists() else written(path)
    (path / "episodes.jsonl").write_bytes(line + b"\n")
    try:
        (one,) = folder
    except EvaluationError as error:
        assert "line 1" in str(error)
    else:
        assert Episode.model_validate_json(one.to_line()) == one


def test_a_frame_is_kept_once(tmp_path: Path) -> None:
    again = PICTURE.copy()
    folder, records = shown(tmp_path, PICTURE, GREY, again, PICTURE[::-1], np.asfortranarray(PICTURE))
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert len(names) == 3
    assert names == sorted({f"{record.xxh64}.png" for record in records})
    for record, pixels in zip(records, (PICTURE, GREY, again, PICTURE[::-1], PICTURE), strict=True):
        assert np.array_equal(folder.pixels(record), pixels)


def test_pictures_of_equal_bytes_and_different_shapes_keep_their_shapes(tmp_path: Path) -> None:
    white = [np.full(shape, 255, np.uint8) for shape in ((4, 6, 3), (6, 4, 3), (8, 9, 1))]
    folder, records = shown(tmp_path, *white)
    assert len(list((tmp_path / "frames").iterdir())) == 1
    assert [folder.pixels(record).shape for record in records] == [(4, 6, 3), (6, 4, 3), (8, 9, 1)]


def test_a_picture_that_was_changed_or_is_not_one_is_refused(tmp_path: Path) -> None:
    folder, (record,) = shown(tmp_path, PICTURE)
    path = tmp_path / "frames" / f"{record.xxh64}.png"
    good = path.read_bytes()
    other = PICTURE.copy()
    other[0, 0, 0] ^= 1
    deep = Path(tmp_path / "deep.png")
    PIL.Image.fromarray(np.zeros((5, 7), np.uint16)).save(deep)
    palette = Path(tmp_path / "palette.png")
    PIL.Image.fromarray(PICTURE).convert("P").save(palette)
    for data, says in (
        (png(other), "was changed"),
        (png(PICTURE[:4]), "5 x 7 x 3 was recorded"),
        (b"", "too short"),
        (good[:40], "cannot be decoded"),
        (good[: len(good) // 2], "cannot be decoded"),
        (deep.read_bytes(), "8 bits"),
        (palette.read_bytes(), "8 bits"),
        (b"GIF89a" + good, "not a PNG"),
    ):
        path.write_bytes(data)
        with pytest.raises(EvaluationError, match=says) as refused:
            folder.pixels(record)
        assert path.name in str(refused.value)
    path.unlink()
    with pytest.raises(EvaluationError, match="No such file"):
        folder.pixels(record)
    os.mkfifo(path)
    with pytest.raises(EvaluationError, match="is not a file"):
        folder.pixels(record)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 5), st.binary(max_size=6))
def test_whatever_a_picture_holds_it_is_the_right_one_or_refused(tmp_path: Path, at: int, cut: int, put: bytes) -> None:
    path = tmp_path / "kept"
    if not path.exists():
        shown(path, PICTURE)
    record = ImageRecord.of(Image("view", PICTURE))
    good = png(PICTURE)
    at %= len(good)
    (path / "frames" / f"{record.xxh64}.png").write_bytes(good[:at] + put + good[at + cut :])
    try:
        pixels = EpisodeFolder(path).pixels(record)
    except EvaluationError:
        return
    assert np.array_equal(pixels, PICTURE)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """Its header, not its size, says what it would become; the record says how much that may be."""
    folder, (record,) = shown(tmp_path, PICTURE)
    path = tmp_path / "frames" / f"{record.xxh64}.png"
    for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (7, 2**20)):
        start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        rows = chunk(b"IDAT", zlib.compress(bytes(10_000_000)))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + start + rows + chunk(b"IEND", b""))
        with pytest.raises(EvaluationError, match="5 x 7 x 3 was recorded"):
            folder.pixels(record)
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 5, 8, 2, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + start + text + png(PICTURE)[33:])
    with pytest.raises(EvaluationError, match="cannot be decoded"):
        folder.pixels(record)
    with pytest.raises(ValueError, match=r"the bound is"):
        ImageRecord(name="", xxh64="0" * 16, height=60_000, width=60_000, channels=3)


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "0" * 15, "0" * 17, "0" * 15 + "G", "A" * 16, "0" * 16 + "\n", "..", ""]
)
def test_a_frames_name_is_16_hex_digits(name: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        ImageRecord(name="view", xxh64=name, height=1, width=1, channels=3)
    with pytest.raises(ValueError, match="pattern"):
        TensorDigest(dtype="uint8", shape=(1,), xxh64=name)


def test_a_kept_folder_is_not_overwritten_unasked(tmp_path: Path) -> None:
    shown(tmp_path / "kept", PICTURE)
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.raises(EvaluationError, match=r"already holds .*episodes\.jsonl.* another folder"):
        EpisodeWriter(tmp_path / "kept", HEADER)
    assert EpisodeFolder(tmp_path / "kept").count() == 1
    with EpisodeWriter(tmp_path / "kept", HEADER, overwrite=True):
        assert EpisodeFolder(tmp_path / "kept").count() == 0
    assert list((tmp_path / "kept" / "frames").iterdir()) == []
    assert (tmp_path / "kept" / "notes.txt").read_text() == "mine", "only what the format names is deleted"


def test_other_versions_and_other_files_are_told_apart(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "episodes.jsonl").write_text('{"seed": 1, "split": "", "task": null, "turns": []}\n')
    with pytest.raises(EvaluationError, match="version 0"):
        EpisodeFolder(old)
    with pytest.raises(EvaluationError, match="No such file"):
        EpisodeFolder(tmp_path / "nowhere")
    written(tmp_path / "kept")
    path = tmp_path / "kept" / "header.json"
    fields = json.loads(path.read_text())
    for change, says in (
        ({"version": 2, "colour": "red"}, "version 2"),
        ({"version": "1"}, "version"),
        ({"format": "something"}, "format"),
        ({"colour": "red"}, "colour"),
        ({"env": {"id": 5}}, "EnvSpec"),
        ({"env": {"unknown": "x"}}, "EnvSpec"),
        ({"env": {"id": "a/b"}}, "ActionSpec"),
        ({"env": fields["env"] | {"default_split": "x"}}, "default_split"),
        ({"recipe": {"history": 0}}, "history"),
    ):
        path.write_text(json.dumps(fields | change))
        with pytest.raises(EvaluationError, match=says) as refused:
            EpisodeFolder(tmp_path / "kept")
        assert "header.json" in str(refused.value)
    for text in ("", "{", "[]", "[" * 100_000, '{"version": NaN}', "\udcff"):
        path.write_text(text, errors="surrogateescape")
        with pytest.raises(EvaluationError, match=r"header\.json"):
            EpisodeFolder(tmp_path / "kept")
    path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(EvaluationError, match="1,048,576"):
        EpisodeFolder(tmp_path / "kept")


def test_the_bytes_depend_on_nothing_but_the_episodes(tmp_path: Path) -> None:
    one, other = (episode(turn(metrics={"a": 1.0, "b": 2.0}), seed=seed) for seed in (1, 2))
    with EpisodeWriter(tmp_path / "a", HEADER) as writer:
        for each in (one, other):
            writer.append(each)
        writer.finish([(one, Usage()), (other, Usage())], {"x": 1, "y": 2}, {"seconds": 1.0})
    turned = other.model_copy(update={"turns": (turn(metrics={"b": 2.0, "a": 1.0}),)})
    with EpisodeWriter(tmp_path / "b", HEADER) as writer:
        for each in (turned, one):
            writer.append(each)
        writer.finish([(one, Usage()), (turned, Usage(seconds=1.0))], {"y": 2, "x": 1}, {"seconds": 2.0})
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {"header.json", "episodes.jsonl", "report.json"}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in VARYING)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_an_episode_of_tensor_actions_is_replayed(tmp_path: Path) -> None:
    """In process: the actions on disk lead to the same rewards."""
    runner = Runner(Reach())
    runner.reset(seed=5)
    actions = [np.array(pair, np.float32) for pair in ((0.1, 0.7), (0.3, 0.3), (2, 0))]
    turns = []
    for action in actions:
        result = runner.step(action)
        assert result.outcome is not None
        fields = {"action": action_record(action), "executed": action_record(result.executed), "reward": result.reward}
        turns.append(turn(outcome=result.outcome.name.lower(), **fields))
    header = HEADER.model_copy(update={"env": env_record(Reach.spec)})
    folder = written(tmp_path, episode(*turns, seed=5), header=header)
    (read,) = folder
    assert [one.outcome for one in read.turns] == ["executed", "executed", "not_admissible"]
    low = folder.spec.action.low
    assert low is not None
    assert low.dtype == np.float32
    replayed = Runner(Reach())
    for number, one in enumerate(read.turns, 1):
        reset = read.reset_at(number)
        again = replayed.reset(reset.seed, split=reset.split, task=reset.task, prefix=reset.prefix)
        assert (again.turn, again.reward) == (number, one.reward)
    with pytest.raises(IndexError):
        read.reset_at(4)


def test_episodes_are_read_one_at_a_time(tmp_path: Path) -> None:
    """The second is not looked at before it is asked for."""
    folder = written(tmp_path, episode(turn()))
    with (tmp_path / "episodes.jsonl").open("ab") as file:
        file.write(b"not JSON\n" * 1000)
    assert next(iter(folder)).seed == 1
    assert folder.count() == 1001
    runner = Runner(Toy(ToyOptions()))
    assert next(decisions(folder)).messages[0]["content"][-1]["text"].startswith(runner.spec.task)


@pytest.mark.parametrize(
    "record", [Episode, Turn, ObservationRecord, ImageRecord, TensorRecord, TensorDigest, Header, ModelRecord]
)
def test_the_specification_names_every_field(record: type[Record]) -> None:
    specification = (Path(__file__).parents[3] / "docs" / "episodes.md").read_text()
    assert [name for name in record.model_fields if f"`{name}`" not in specification] == []
