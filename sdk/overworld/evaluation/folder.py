"""A folder of episodes on disk, as docs/episodes.md specifies it: read, and written.

    for episode in EpisodeFolder(path):        # one at a time, however many there are
        ...
    for decision in decisions(EpisodeFolder(path)):  # for supervised fine-tuning
        decision.messages, decision.turn.reply

What is read may come from a stranger: every size is checked before the work that it would cause.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydantic_core
from pydantic import TypeAdapter, ValidationError

from overworld.authoring.env import EnvSpec, Image, Observation, Outcome, Pixels
from overworld.authoring.runner import Result
from overworld.contract.frames import pixels_hash
from overworld.errors import EvaluationError
from overworld.evaluation.conversation import CaptionedImage, Conversation, Message, png
from overworld.evaluation.differences import differing
from overworld.evaluation.episodes import (
    MAX_FRAME_BYTES,
    VERSION,
    Episode,
    Header,
    ImageRecord,
    ObservationRecord,
    TensorRecord,
    Turn,
    action_of,
    problem,
)
from overworld.evaluation.usage import Usage

_logger = logging.getLogger(__name__)

HEADER = "header.json"
EPISODES = "episodes.jsonl"
FRAMES = "frames"
REPORT = "report.json"
RUN = "run.json"
USAGE = "usage.jsonl"
SEAL = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"

FILES = (REPORT, HEADER, EPISODES, FRAMES, RUN, USAGE, SEAL, SIGNATURE)
"""All that a folder holds."""
VARYING = (RUN, USAGE, SEAL)
"""The files that differ between two runs of the same evaluation: dates, attempts, durations, addresses, counts of
tokens, and the seal over them. All others do not."""

_MAX_HEADER_BYTES = 1 << 20
_MAX_LINE_BYTES = 16 << 20
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP)
"""What network file systems say that do not lock folders."""
_ATTEMPTS = TypeAdapter(dict[str, list[dict[str, Any]]])
_FRAME = re.compile(r"[0-9a-f]{16}\.png(\.part)?")
_BLOCK_BYTES = 1 << 20
_PNG_START = struct.Struct(">8sI4sIIBBBBB")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK = struct.Struct(">I4s")
_CRC_BYTES = 4
_PIXEL_CHUNKS = (b"IHDR", b"IDAT", b"IEND")
_PNG_EXTRA_BYTES = 1 << 16

MAX_FRAME_FILE_BYTES = MAX_FRAME_BYTES + MAX_FRAME_BYTES // 8 + _PNG_EXTRA_BYTES
"""Bound of a picture's file."""
_MAX_RUN_BYTES = 1 << 20
_MAX_USAGE_BYTES = 1024
_MAX_NAMED = 5
_MAX_SHOWN_CHARS = 100


class EpisodeFolder:
    """The episodes in the folder `path`. Raises EvaluationError if it does not hold any, or of another version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = _read_header(path)
        self.spec: EnvSpec = self.header.spec()
        """The env."""

    def __iter__(self) -> Iterator[Episode]:
        """The episodes, one after another. Raises EvaluationError for a line that is not an episode."""
        return (episode for _, episode in self.places())

    def places(self) -> Iterator[tuple[int, Episode]]:
        """The episodes, each with where it stands, for `at`. Raises EvaluationError."""
        place = 0
        for number, line in self.lines():
            yield place, self.parsed(line, f"line {number}")
            place += len(line)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The whole lines with their numbers from 1. A last one without an end was torn by a crash, and is dropped.

        Raises EvaluationError.
        """
        path = self.path / EPISODES
        with opened(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > _MAX_LINE_BYTES:
                    raise EvaluationError(f"{path}, line {number}, has more than {_MAX_LINE_BYTES:,} bytes, the bound")
                if line.endswith(b"\n"):
                    yield number, line

    def parsed(self, line: bytes, where: str) -> Episode:
        """The episode of a line, which stands `where` the error says. Raises EvaluationError."""
        try:
            return Episode.model_validate_json(line)
        except ValidationError as error:
            raise EvaluationError(f"{self.path / EPISODES}, {where}, is not an episode: {problem(error)}") from None

    def at(self, place: int) -> Episode:
        """The episode that stands at a place that `places` gave. Raises EvaluationError."""
        with opened(self.path / EPISODES) as file:
            file.seek(place)
            return self.parsed(file.readline(_MAX_LINE_BYTES), f"at byte {place}")

    def episode(self, number: int) -> Episode:
        """The episode in line `number`, counted from 0; the others are not looked at. Raises EvaluationError."""
        for found, (_, line) in enumerate(self.lines()):
            if found == number:
                return self.parsed(line, f"line {number + 1}")
        raise EvaluationError(f"{self.path} has no episode {number}: name one of 0 to {self.count() - 1}")

    def count(self) -> int:
        """How many episodes there are, without reading what is in them. Raises EvaluationError."""
        with opened(self.path / EPISODES) as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK_BYTES), b""))

    def usages(self) -> list[Usage]:
        """What each episode took, in their order. Raises EvaluationError."""
        usages = _read_usages(self.path / USAGE)
        count = self.count()
        return usages[:count] + [Usage()] * (count - len(usages))

    def pixels(self, image: ImageRecord, *, bare: bool = False) -> Pixels:
        """A picture, uint8 [height, width, channels]. Raises EvaluationError if it is not the one that was recorded.

        `bare` refuses a file that holds more than the pixels: what else may stand in a PNG can make viewers show
        something else.
        """
        path = self.path / FRAMES / f"{image.xxh64}.png"
        with opened(path) as file:
            data = file.read(image.size + image.size // 8 + _PNG_EXTRA_BYTES)
        try:
            if bare:
                _refuse_more(data)
            # Two pictures of different shapes can have the same bytes, and so the same file.
            pixels = _decoded(data, image).reshape(image.shape)
        except ValueError as error:
            raise EvaluationError(f"{path} is not a frame that was kept: {error}") from None
        digest = f"{pixels_hash(pixels):016x}"
        if digest != image.xxh64:
            raise EvaluationError(f"{path} was changed: its pixels have the hash {digest}")
        return pixels

    def observation(self, record: ObservationRecord) -> Observation:
        """What the env showed; without the tensors that are recorded by their hash. Raises EvaluationError."""
        tensors = {name: one.array() for name, one in record.tensors.items() if isinstance(one, TensorRecord)}
        return Observation(self._parts(record.parts), record.admissible, tensors)

    def seen(self, turn: Turn) -> Observation:
        """What the agent was shown. Raises EvaluationError."""
        return Observation(self._parts(turn.seen), turn.observation.admissible)

    def decisions(self, episode: Episode) -> Iterator[Decision]:
        """Every turn of an episode with the messages that it answered, rebuilt by the header's recipe.

        Raises EvaluationError.
        """
        conversation = Conversation(self.spec, self.header.recipe)
        outcome, executed = None, None
        for number, turn in enumerate(episode.turns):
            result = Result(
                slot=0,
                episode=0,
                turn=len(episode.prefix) + number,
                observation=self.seen(turn),
                outcome=outcome,
                executed=executed,
            )
            conversation.observe(result)
            yield Decision(episode, number, turn, conversation.messages())
            outcome = None if turn.outcome == "failed" else Outcome[turn.outcome.upper()]
            executed = action_of(turn.executed)

    def _parts(self, parts: Iterable[str | ImageRecord]) -> tuple[str | Image, ...]:
        return tuple(part if isinstance(part, str) else self._image(part) for part in parts)

    def _image(self, record: ImageRecord) -> Image:
        pixels, xxh64 = self.pixels(record), int(record.xxh64, 16)
        if record.caption:
            return CaptionedImage(record.name, pixels, xxh64, record.caption)
        return Image(record.name, pixels, xxh64)


class EpisodeWriter:
    """Writes a folder of episodes.

    Each episode is in the file when `append` returns, and its pictures are there before. With `resume`, what an
    interrupted evaluation of the same header left there is kept, as `episodes` and `usages`; frames and lines that are
    torn are not. `overwrite` deletes what is there. Otherwise, and where another process is writing to the folder,
    EvaluationError is raised if it holds anything. Raises OSError if it cannot be written.
    """

    def __init__(self, path: Path, header: Header, *, overwrite: bool = False, resume: bool = False) -> None:
        self.episodes: list[Episode] = []
        """Those that were taken over, in the order in which they ended."""
        self.usages: list[Usage] = []
        """What each of them took."""
        self.attempts: list[dict[str, Any]] = []
        """What run.json says of earlier attempts."""
        self._path = path
        self._digests: dict[str, str] = {}  # of each file that is complete, for the seal
        path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._lock(stack)
            if overwrite:
                _delete(path)
            elif resume and not (path / REPORT).exists():
                self._take_over(header)
            held = [name for name in FILES if (path / name).exists()]
            if held and not (resume and HEADER in self._digests):
                raise EvaluationError(
                    f"{path} already holds {', '.join(held)}: keep this evaluation in another folder, or say that what "
                    "is there may be deleted (--overwrite)"
                )
            if not held:
                (path / FRAMES).mkdir()
                self._write(HEADER, [header.to_json()])
            self._file = stack.enter_context((path / EPISODES).open("ab", buffering=0))
            self._usage: io.FileIO | None = None
            self._stack = stack.pop_all()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and (self._path / EPISODES).stat().st_size == 0:
            _delete(self._path)  # it failed before there was an episode: the folder is free for another try
        self._stack.close()

    def keep(self, images: Iterable[Image], records: Iterable[ImageRecord]) -> None:
        """Writes pictures that are not there yet, each under the name that its record says."""
        for image, record in zip(images, records, strict=True):
            name = f"{FRAMES}/{record.xxh64}.png"
            if name not in self._digests:
                self._write(name, [png(image.pixels)], durable=False)

    def begin(self, attempt: Mapping[str, Any]) -> None:
        """Notes an attempt in run.json, before anything is played."""
        self._note(attempt)
        self._usage = self._stack.enter_context((self._path / USAGE).open("ab", buffering=0))

    def append(self, episode: Episode, usage: Usage | None = None) -> None:
        """Adds an episode at the end, and what it took. Raises EvaluationError if it is too large for the format."""
        line = _line(episode)
        if self._usage is not None:  # first, so that each episode in the file has a line there
            _append(self._usage, (usage or Usage()).to_line())
        _append(self._file, line)

    def finish(
        self, played: Iterable[tuple[Episode, Usage]], report: Mapping[str, Any], attempt: Mapping[str, Any]
    ) -> None:
        """Puts the episodes in their final order, then adds what differs from run to run, the seal and the report."""
        episodes, usages = zip(*played, strict=True)
        (self._path / USAGE).unlink(missing_ok=True)  # a process that is killed here must not leave it in another order
        self._write(EPISODES, map(_line, episodes))
        self._write(USAGE, (usage.to_line() for usage in usages))
        self._note(attempt)
        figures = to_json(report)
        digests = self._digests | {REPORT: hashlib.sha256(figures).hexdigest()}
        _replace(self._path / SEAL, [f"{digest}  {name}\n".encode() for name, digest in sorted(digests.items())])
        self._write(REPORT, [figures])

    def _note(self, attempt: Mapping[str, Any]) -> None:
        self._write(RUN, [to_json({"attempts": [*self.attempts, attempt]})])

    def _write(self, name: str, chunks: Iterable[bytes], *, durable: bool = True) -> None:
        self._digests[name] = _replace(self._path / name, chunks, durable=durable)

    def _lock(self, stack: ExitStack) -> None:
        """Keeps other processes from writing to the folder; the kernel ends that with the process."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(
                f"another process is writing to {self._path}: wait for it, or keep this evaluation in another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _logger.warning("%s cannot be locked (%s): let no other process write to it", self._path, error.strerror)

    def _take_over(self, header: Header) -> None:
        """Takes over what an interrupted evaluation left, and rids the folder of all that is torn or of no episode."""
        held = {name for name in FILES if (self._path / name).exists()}
        if EPISODES not in held:
            if FRAMES in held <= {FRAMES, HEADER} and not any((self._path / FRAMES).iterdir()):
                _delete(self._path)  # it was killed before it played
            return
        if HEADER not in held:  # nobody knows what this was
            return
        folder = EpisodeFolder(self._path)
        refuse_another(self._path, folder.header, header)
        usages = folder.usages()
        whole: dict[tuple[str, int], bool] = {}
        for number, episode in enumerate(folder):
            if all(self._is_whole(folder, image, whole) for image in episode.images):
                self.episodes.append(episode)
                self.usages.append(usages[number])
        used = {f"{image.xxh64}.png" for episode in self.episodes for image in episode.images}
        for path in (self._path / FRAMES).iterdir():
            if path.name in used:
                self._digests[f"{FRAMES}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif _FRAME.fullmatch(path.name):
                path.unlink()
        for name in (SEAL, SIGNATURE):  # it was killed while it finished
            (self._path / name).unlink(missing_ok=True)
        self.attempts = _read_attempts(self._path / RUN)
        (self._path / USAGE).unlink(missing_ok=True)  # as in `finish`
        self._write(EPISODES, map(_line, self.episodes))
        self._write(USAGE, (usage.to_line() for usage in self.usages))
        self._write(HEADER, [header.to_json()])

    @staticmethod
    def _is_whole(folder: EpisodeFolder, image: ImageRecord, known: dict[tuple[str, int], bool]) -> bool:
        """Whether a picture is there: files of pictures are not flushed, so that a crash of the machine tears them."""
        key = image.xxh64, image.size
        if key not in known:
            try:
                folder.pixels(image)
                known[key] = True
            except EvaluationError:
                known[key] = False
        return known[key]


def refuse_another(path: Path, held: Header, wanted: Header) -> None:
    """Raises EvaluationError if a folder's header is not the one that is wanted."""
    if held.to_json() == wanted.to_json():
        return
    found = [
        f"{name} was {_shortened(one)}, is {_shortened(other)}"
        for name, one, other in differing(json.loads(held.to_json()), json.loads(wanted.to_json()))
    ]
    raise EvaluationError(
        f"{path} already holds another evaluation ({'; '.join(found[:_MAX_NAMED])}): keep this one in another folder, "
        "or say that what is there may be deleted (--overwrite)"
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """Turn number `number` of an episode with the messages that it answered."""

    episode: Episode
    number: int
    turn: Turn
    messages: list[Message]


def decisions(folder: EpisodeFolder) -> Iterator[Decision]:
    """Every turn of every episode, each with the messages that the model was given. Raises EvaluationError."""
    for episode in folder:
        yield from folder.decisions(episode)


def _read_header(folder: Path) -> Header:
    path = folder / HEADER
    if not path.exists() and (folder / EPISODES).exists():
        raise EvaluationError(
            f"{folder} has {EPISODES} but no {HEADER}: it was kept before the format had versions (that is, version 0) "
            f"and cannot be read or converted; evaluate again, into another folder"
        )
    with opened(path) as file:
        data = file.read(_MAX_HEADER_BYTES + 1)
    if len(data) > _MAX_HEADER_BYTES:
        raise EvaluationError(f"{path} has more than {_MAX_HEADER_BYTES:,} bytes, the bound")
    try:
        fields = pydantic_core.from_json(data, allow_inf_nan=False)
        version = fields.get("version") if isinstance(fields, dict) else None
        if isinstance(version, int) and version != VERSION:
            raise EvaluationError(
                f"{path} is of version {version} of the format; this Overworld reads version {VERSION}: use the one "
                "that wrote it, or evaluate again"
            )
        return Header.model_validate_json(data)
    except ValidationError as error:
        raise EvaluationError(f"{path} is not a header of episodes: {problem(error)}") from None
    except EvaluationError:
        raise
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON: {error}") from None


def _append(file: io.FileIO, line: bytes) -> None:
    if file.write(line) != len(line):
        raise OSError(f"{file.name!r} could not be written whole: is the disk full?")


def _read_usages(path: Path) -> list[Usage]:
    """What the episodes of a folder took, in their order, up to the first line that is torn."""
    usages: list[Usage] = []
    if path.exists():
        with opened(path) as file:
            for line in iter(lambda: file.readline(_MAX_USAGE_BYTES), b""):
                try:
                    usages.append(Usage.model_validate_json(line))
                except ValidationError:
                    break
    return usages


def _read_attempts(path: Path) -> list[dict[str, Any]]:
    """The attempts that run.json names. Raises EvaluationError."""
    if not path.exists():
        return []
    with opened(path) as file:
        data = file.read(_MAX_RUN_BYTES)
    try:
        return _ATTEMPTS.validate_json(data)["attempts"]
    except (ValidationError, KeyError) as error:
        raise EvaluationError(f"{path} does not name the attempts of an evaluation: {error}; delete it") from None


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]} ..."


def opened(path: Path) -> io.BufferedReader:
    """A regular file, to read. Raises EvaluationError."""
    try:
        # O_NONBLOCK: opening a pipe must not hang.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}); name a folder that holds episodes") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise EvaluationError(f"{path} is not a file; name a folder that holds episodes")
    return file


def _refuse_more(data: bytes) -> None:
    """Raises ValueError if a PNG file has other chunks than those of its pixels, or something after them."""
    at = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if len(data) < at + _PNG_CHUNK.size:
            raise ValueError("it ends within a chunk")
        size, kind = _PNG_CHUNK.unpack_from(data, at)
        if kind not in _PIXEL_CHUNKS:
            raise ValueError(f"it has a chunk {kind!r}, by which a viewer may show something else than its pixels")
        at += _PNG_CHUNK.size + size + _CRC_BYTES
    if at != len(data):
        raise ValueError("something follows its end")


def _decoded(data: bytes, image: ImageRecord) -> Pixels:
    """The pixels of a PNG file of 8 bits, grey or RGB, with as many bytes as `image`. Raises ValueError."""
    if len(data) < _PNG_START.size:
        raise ValueError("it is too short for a PNG file")
    signature, _, chunk, width, height, bits, colour, *_ = _PNG_START.unpack_from(data)
    channels = {0: 1, 2: 3}.get(colour)
    if (signature, chunk, bits) != (_PNG_SIGNATURE, b"IHDR", 8) or channels is None:
        raise ValueError("it is not a PNG file of 8 bits, grey or RGB")
    if width * height * channels != image.size or image.size > MAX_FRAME_BYTES:  # before anything is unpacked
        raise ValueError(f"it is {height} x {width} x {channels}; {' x '.join(map(str, image.shape))} was recorded")
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            return np.asarray(opened)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be decoded: {error}") from None


def _line(episode: Episode) -> bytes:
    line = episode.to_line()
    if len(line) > _MAX_LINE_BYTES:
        raise EvaluationError(
            f"the episode of seed {episode.seed} takes {len(line):,} bytes; the bound is {_MAX_LINE_BYTES:,}: play "
            "shorter episodes, or keep none"
        )
    return line


def to_json(fields: Mapping[str, Any]) -> bytes:
    """A file of JSON as the writer writes it. Raises ValueError for numbers that are not finite."""
    return json.dumps(fields, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"


def _replace(path: Path, chunks: Iterable[bytes], *, durable: bool = True) -> str:
    """Writes a file so that there is either all of it or none; its SHA-256."""
    part = path.with_name(path.name + ".part")
    digest = hashlib.sha256()
    with part.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)
    return digest.hexdigest()


def _delete(folder: Path) -> None:
    """Deletes the episodes that a folder holds, and nothing else. The report first: without it they are incomplete."""
    for name in (REPORT, HEADER, EPISODES, RUN, USAGE, SEAL, SIGNATURE):
        (folder / name).unlink(missing_ok=True)
    frames = folder / FRAMES
    if frames.is_dir():
        for path in frames.iterdir():
            if _FRAME.fullmatch(path.name):
                path.unlink()
        frames.rmdir()
