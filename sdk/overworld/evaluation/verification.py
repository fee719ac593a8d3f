"""Verifying a kept evaluation without its model: the seal, the records, a replay on any server, and the figures.

    verification = verify(Path("runs/mine/eval"), ["127.0.0.1:50051"])
    verification.status  # VERIFIED, DIFFERS or UNCHECKED

docs/verify.md says what that proves and what it does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import pydantic_core

from overworld.client.fleet import Fleet
from overworld.errors import EvaluationError, OverworldError
from overworld.evaluation.blank import BLANK_FRAMES, white_record
from overworld.evaluation.conversation import read_as
from overworld.evaluation.differences import differing
from overworld.evaluation.episodes import (
    Episode,
    Header,
    ImageRecord,
    ObservationRecord,
    Turn,
    action_record,
    env_record,
)
from overworld.evaluation.excerpts import excerpt, excerpt_of
from overworld.evaluation.folder import EPISODES, FRAMES, HEADER, REPORT, SEAL, EpisodeFolder, opened, to_json
from overworld.evaluation.game import noise_of
from overworld.evaluation.provenance import draws_the_same, other_provenance
from overworld.evaluation.replay import Replay, fleet_of, replayed
from overworld.evaluation.report import Tally
from overworld.evaluation.seal import broken, digest_of
from overworld.evaluation.substitution import is_known, is_repaired
from overworld.registry import Registry
from overworld.service.credentials import Credentials

_MAX_REPORT_BYTES = 4 << 20
_MAX_LISTED = 1000
_UNCOMPARED = ("provenance", "options_schema")
"""Fields of an env that are not compared as the others: the first decides what can be, the second is documentation."""


class Status(IntEnum):
    """What came out; the numbers are the exit statuses of `overworld verify`."""

    VERIFIED = 0
    DIFFERS = 1
    UNCHECKED = 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that does not fit: in a file, or in an episode (its line from 0), or in a turn of one (from 0).

    What was recorded and what was found stand there as JSON, shortened.
    """

    file: str
    field: str
    recorded: str
    found: str
    episode: int | None = None
    seed: int | None = None
    turn: int | None = None


@dataclass(slots=True)
class Verification:
    """What a verification found.

    seal                   SHA-256 of the seal: it names the evaluation, byte for byte.
    replayed               Episodes that were replayed, of `episodes`; of a difference in a turn, up to that turn.
    frames_confirmed       Pictures that the server drew again, and
    frames_not_comparable  those that this server's renderer cannot be expected to draw to the bit.
    differences            The first thousand, of `differing`.
    prefixed               Episodes that begin after actions that were replayed first, and count in no figure.
    unrepeatable           Episodes with a failure that the replay lacks, or the other way round, which may be chance.
    unchecked              Why the replay was not made or broke off; empty if it was made.
    """

    folder: str
    seal: str = ""
    episodes: int = 0
    turns: int = 0
    replayed: int = 0
    frames_confirmed: int = 0
    frames_not_comparable: int = 0
    prefixed: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    unrepeatable: list[str] = field(default_factory=list)
    unchecked: str = ""
    servers: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """What to think of the folder."""
        if self.differing:
            return Status.DIFFERS
        return Status.UNCHECKED if self.unchecked or self.unrepeatable else Status.VERIFIED

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"status": self.status.name, **asdict(self)}

    def add(self, difference: Difference) -> None:
        """Counts a difference."""
        self.differing += 1
        if len(self.differences) < _MAX_LISTED:
            file, field, recorded, found = map(
                excerpt, (difference.file, difference.field, difference.recorded, difference.found)
            )
            self.differences.append(replace(difference, file=file, field=field, recorded=recorded, found=found))


def verify(
    path: Path,
    servers: Registry | Sequence[str],
    *,
    slots: int = 16,
    credentials: Credentials | None = None,
    compress: bool = False,
    timeout: float = 60.0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Verification:
    """Verifies the evaluation in a folder, as many episodes at a time as `slots` says.

    What stands in the way of that, such as a server that is of another provenance, ends up in `unchecked`; the records
    and figures are checked nevertheless. `on_progress` is told how many episodes are done. Raises OSError.
    """
    verification = Verification(str(path))
    try:
        for file, what in broken(path):
            verification.add(Difference(file, "SHA-256", "", what))
        verification.seal = digest_of(path / SEAL)
        folder = EpisodeFolder(path)
        _refuse_repeated((path / HEADER).read_bytes(), HEADER, verification)
        for name, one, other in differing(folder.header.env, env_record(folder.spec)):
            # proto3's JSON has two spellings of a name and several of a number, so a field may be there twice.
            verification.add(_file_difference(HEADER, f"env.{name}", one, other))
        report = _read_report(path)
        count = folder.count()
    except EvaluationError as error:
        verification.unchecked = excerpt(str(error))
        return verification
    records = _Records(folder, verification, on_progress)
    with ExitStack() as stack:
        try:
            fleet = stack.enter_context(
                fleet_of(
                    folder, servers, max(1, min(slots, count)),
                    credentials=credentials, compress=compress, timeout=timeout, copy=False,
                )
            )  # fmt: skip
            comparable = _comparable(folder, fleet, verification)
            for replay in replayed(fleet, (Replay(*one, frames_comparable=comparable) for one in records)):
                _note(replay, verification, comparable=comparable)
        except OverworldError as error:
            verification.unchecked = excerpt(str(error))
            for _ in records:  # the others are not replayed
                pass
    _check_figures(report, records.tally, verification)
    return verification


class _Records:
    """The episodes of a folder with their numbers; each is counted, and what can be seen without a server checked."""

    def __init__(self, folder: EpisodeFolder, verification: Verification, on_progress: Callable[[int], None]) -> None:
        self.tally = Tally(folder.header)
        self._folder = folder
        self._verification = verification
        self._on_progress = on_progress
        self._agent: tuple[str, str] | None = None
        self._keys: dict[tuple[Any, ...], int] = {}
        self._frames: set[tuple[str, int]] = set()
        self._episodes = self._read()

    def __iter__(self) -> Iterator[tuple[int, Episode]]:
        return self._episodes

    def _read(self) -> Iterator[tuple[int, Episode]]:
        found = self._verification
        size = 0
        try:
            for number, (_, line) in enumerate(self._folder.lines()):
                size += len(line)
                where = f"line {number + 1}"
                _refuse_repeated(line, f"{EPISODES}, {where}", found)
                episode = self._folder.parsed(line, where)
                found.episodes += 1
                found.turns += len(episode.turns)
                found.prefixed += bool(episode.prefix)
                self.tally.add(episode)
                self._check(number, episode)
                yield number, episode
                self._on_progress(found.episodes)
            if (self._folder.path / EPISODES).stat().st_size != size:
                found.add(Difference(EPISODES, "", "", "the last line has no end, in an evaluation that was finished"))
        except EvaluationError as error:
            found.add(Difference(EPISODES, "", "an episode", str(error)))
        self._find_strays()

    def _check(self, number: int, episode: Episode) -> None:
        """Whether the replies say what was done, and the pictures are there."""
        header = self._folder.header
        spec = self._folder.spec.action

        def differs(turn: int, field: str, recorded: Any, found: Any) -> None:
            self._verification.add(_difference(number, episode, turn, field, recorded, found))

        first = self._keys.setdefault(episode.key, number)
        if first != number:
            differs(0, "task", "another than those before", f"that of episode {first}")
        for index, turn in enumerate(episode.turns):
            if turn.actor == "model":
                reply = read_as(turn.reply, spec, header.recipe)
                action = action_record(reply.action)
                if (turn.action, turn.thoughts) != (action, reply.thoughts):
                    said = {"action": action, "thoughts": reply.thoughts}
                    differs(index, "reply", {"action": turn.action, "thoughts": turn.thoughts}, said)
            if self._agent is None:
                self._agent = turn.actor if header.model is None else "model", turn.fingerprint
            actor, fingerprint = self._agent
            repaired = turn.actor == "expert" and is_repaired(header.substitution)
            if turn.actor != actor and not repaired:
                differs(index, "actor", turn.actor, actor)
            if turn.fingerprint != fingerprint:
                differs(index, "fingerprint", turn.fingerprint, fingerprint)
            noise = noise_of(episode.seed, episode.split, episode.task, len(episode.prefix) + index, episode.sample)
            if turn.sampling_seed not in (None, noise):
                differs(index, "sampling_seed", turn.sampling_seed, noise)
            if self._check_frames(turn.observation, index, differs) and turn.shown != _shown(turn, header):
                differs(index, "shown", turn.shown, _shown(turn, header))
            if turn.shown is not None:
                self._check_frames(ObservationRecord(parts=turn.shown), index, differs)
        if episode.final is not None:
            self._check_frames(episode.final, len(episode.turns), differs)

    def _check_frames(
        self, observation: ObservationRecord, turn: int, differs: Callable[[int, str, Any, Any], None]
    ) -> bool:
        """Whether the pictures' files hold them; each different picture is unpacked once."""
        for image in observation.images:
            if (image.xxh64, image.size) in self._frames:
                continue
            try:
                self._folder.pixels(image, bare=True)
            except EvaluationError as error:
                differs(turn, f"{FRAMES}/{image.xxh64}.png", "a picture", str(error))
                return False
            self._frames.add((image.xxh64, image.size))
        return True

    def _find_strays(self) -> None:
        if self._verification.differing:
            return  # what is not read has pictures, too
        used = {name for name, _ in self._frames}
        for path in sorted((self._folder.path / FRAMES).glob("*")):
            if path.stem not in used:
                self._verification.add(Difference(f"{FRAMES}/{path.name}", "", "", "no episode shows it"))


def _shown(turn: Turn, header: Header) -> tuple[str | ImageRecord, ...] | None:
    """What the agent was shown in place of the observation, by the header."""
    if header.substitution != BLANK_FRAMES:
        return turn.shown if header.substitution else None
    return tuple(white_record(part) if isinstance(part, ImageRecord) else part for part in turn.observation.parts)


def _comparable(folder: EpisodeFolder, fleet: Fleet, verification: Verification) -> bool:
    """Whether frames can be compared. Raises EvaluationError if nothing can, since a server is of another provenance.

    Anything else that the header says of the env, and that a server of its provenance does not, is a difference.
    """
    header, recorded = folder.header, folder.spec
    if not is_known(header.substitution):
        raise EvaluationError(
            f"{folder.path / HEADER} has the substitution {excerpt_of(header.substitution)}, which this Overworld "
            "does not know: use the one that wrote it"
        )
    verification.servers = {address: dict(spec.provenance) for address, spec in fleet.specs.items()}
    for address, spec in fleet.specs.items():
        if other := other_provenance(recorded, spec):
            raise EvaluationError(
                f"the server {address} is of another provenance than the evaluation ({excerpt(other)}): its episodes "
                "may differ without anything having been changed; verify on a server of the recorded provenance"
            )
    first = next(iter(fleet.specs.values()))
    there = env_record(first)
    claimed = env_record(recorded)
    for name in sorted((there.keys() | claimed.keys()).difference(_UNCOMPARED)):
        if claimed.get(name) != there.get(name):
            verification.add(_file_difference(HEADER, f"env.{name}", claimed.get(name), there.get(name)))
    for name, one, other in differing(header.options, fleet.options):
        verification.add(_file_difference(HEADER, f"options.{name}", one, other))
    return all(draws_the_same(recorded, spec) for spec in fleet.specs.values())


def _note(replay: Replay, verification: Verification, *, comparable: bool) -> None:
    verification.replayed += 1
    if comparable:
        wrong = sum(
            isinstance(one.recorded, ImageRecord) and isinstance(one.replayed, ImageRecord) for one in replay.mismatches
        )
        verification.frames_confirmed += replay.frames - wrong
    else:
        verification.frames_not_comparable += replay.frames
    if replay.unrepeatable:
        where = f"episode {replay.number} (seed {replay.episode.seed})"
        verification.unrepeatable.append(f"{where}: {excerpt(replay.unrepeatable)}")
    for one in replay.mismatches:
        verification.add(_difference(replay.number, replay.episode, one.turn, one.field, one.recorded, one.replayed))


def _refuse_repeated(data: bytes, where: str, verification: Verification) -> None:
    """Notes a name that an object of JSON has twice, since readers differ in which of the two counts."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            verification.add(Difference(where, excerpt_of(twice), "", "is there twice"))

    with suppress(ValueError, RecursionError):  # what is not JSON is told where it is read
        json.loads(data, object_pairs_hook=check)


def _read_report(path: Path) -> bytes:
    if not (path / REPORT).exists():
        raise EvaluationError(f"{path} has no {REPORT}: the evaluation was not finished, so there is nothing to verify")
    with opened(path / REPORT) as file:
        data = file.read(_MAX_REPORT_BYTES + 1)
    if len(data) > _MAX_REPORT_BYTES:
        raise EvaluationError(f"{path / REPORT} has more than {_MAX_REPORT_BYTES:,} bytes, the bound")
    return data


def _check_figures(report: bytes, tally: Tally, verification: Verification) -> None:
    try:
        computed = to_json(tally.report().to_json())
    except (EvaluationError, ValueError) as error:
        verification.add(Difference(REPORT, "", "figures", f"the episodes have none: {error}"))
        return
    if report == computed:
        return
    try:
        recorded = pydantic_core.from_json(report, allow_inf_nan=False)
    except ValueError as error:
        verification.add(Difference(REPORT, "", "figures", f"is not JSON: {error}"))
        return
    # Not byte by byte: an evaluation that was made before a report had a field, which is null then, is no less true.
    _refuse_repeated(report, REPORT, verification)
    for name, one, other in differing(recorded, json.loads(computed)):
        verification.add(_file_difference(REPORT, name, one, other))


def _difference(number: int, episode: Episode, turn: int, field: str, recorded: Any, found: Any) -> Difference:
    return Difference(
        EPISODES, field, excerpt_of(recorded), excerpt_of(found), episode=number, seed=episode.seed, turn=turn
    )


def _file_difference(file: str, field: str, recorded: Any, found: Any) -> Difference:
    return Difference(file, field, excerpt_of(recorded), excerpt_of(found))
