"""Plays an agent in an env and counts: success with its interval, returns, replies without an action.

Every episode that is started counts, one that crashes as a failure. Replies without an admissible action skip the turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from overworld.authoring.env import EnvSpec
from overworld.client.counts import since
from overworld.client.fleet import Fleet
from overworld.client.moves import Move, Reset
from overworld.client.results import Results
from overworld.errors import ContractError, EvaluationError, ModelChangedError, Reason
from overworld.evaluation.blank import BLANK_FRAMES
from overworld.evaluation.conversation import Conversation, Recipe
from overworld.evaluation.differences import differing
from overworld.evaluation.episodes import Episode, Header, ModelRecord, action_record
from overworld.evaluation.folder import REPORT, EpisodeFolder, EpisodeWriter, refuse_another
from overworld.evaluation.game import Game, Opening
from overworld.evaluation.model import Agent, Answer, Baseline, ConcurrentModel
from overworld.evaluation.recording import header_of
from overworld.evaluation.report import Report, report_of
from overworld.evaluation.usage import Usage

_MAX_CALLS = 8
"""Calls to a fleet that are under way at a time."""

Key = tuple[Any, ...]


def evaluate(
    agent: Agent,
    fleet: Fleet,
    tasks: Sequence[Reset],
    *,
    recipe: Recipe,
    samples: Sequence[int] = (0,),
    blank_frames: bool = False,
    keep: Path | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
    on_episode: Callable[[Episode, Usage], None] = lambda episode, usage: None,
    opening: Opening | None = None,
) -> tuple[Report, list[Episode]]:
    """Plays each sample of each task once, as many at a time as the fleet has slots.

    `samples` number the noise of sampling, which is keyed by the task, the sample and the turn: neither the number of
    slots nor the order matters, and other samples have other noise. `blank_frames` shows white pictures instead, as a
    control. With `keep`, episodes, pictures and the report are written to that folder (docs/episodes.md). Episodes that
    this evaluation left there when it was interrupted are not played again; those of another one are refused, unless
    `overwrite` says to delete them. `on_progress` is told how many episodes are finished, `on_episode` of each when it
    is, and what it took. `opening` gives the conversation that a task's first result continues, an empty one where it
    is not passed. Raises what agent, fleet and `opening` raise, ModelChangedError, EvaluationError and OSError.
    """
    plays = {_key(task, sample): (task, sample) for task in tasks for sample in samples}
    if not plays:
        raise EvaluationError("there is nothing to play: name seeds or a split")
    if len(plays) < len(tasks) * len(samples):
        raise EvaluationError("a task is named twice and would count twice: name each seed, task and sample once")
    header = _header(agent, fleet, recipe, BLANK_FRAMES if blank_frames else "")
    if keep is not None and not overwrite and (keep / REPORT).exists():
        return _finished(keep, header, plays, on_episode)
    started, clock, counted = datetime.now(UTC), time.monotonic(), fleet.counts
    ended: dict[Key, tuple[Episode, Usage]] = {}
    with ExitStack() as stack:
        writer = None
        if keep is not None:
            writer = stack.enter_context(EpisodeWriter(keep, header, overwrite=overwrite, resume=True))
            ended = {one.key: (one, usage) for one, usage in zip(writer.episodes, writer.usages, strict=True)}
            _refuse_others(keep, ended, plays)
            for episode, usage in ended.values():
                on_episode(episode, usage)
        attempt = {
            "agent_url": getattr(agent, "url", ""),
            "episodes_before": len(ended),
            "servers": fleet.addresses,
            "slots": len(fleet),
            "started": started.isoformat(timespec="seconds"),
        }
        if writer is not None:
            writer.begin(attempt)
        games = (
            Game(
                task, sample, opening or (lambda task, result: Conversation(fleet.spec, recipe)),
                blank=blank_frames, keep=None if writer is None else writer.keep,
            )
            for key, (task, sample) in plays.items() if key not in ended
        )  # fmt: skip
        table = Table(agent, fleet, {turn.fingerprint for one, _ in ended.values() for turn in one.turns})
        on_progress(len(ended))
        # Closed before all else: calls that are under way must not continue while others use the fleet.
        for over in stack.enter_context(closing(table.play(games))):
            for episode, usage in over:
                if writer is not None:  # as they end: what comes later may fail
                    writer.append(episode, usage)
                ended[episode.key] = episode, usage
                on_episode(episode, usage)
            on_progress(len(ended))
        _refuse_mixed(fleet.specs)  # a server may have been replaced
        played = [ended[key] for key in plays]
        episodes = [episode for episode, _ in played]
        report = report_of(header, episodes)
        if writer is not None:
            ledger = {address: counts.to_json() for address, counts in since(counted, fleet.counts).items()}
            took = {"seconds": round(time.monotonic() - clock, 3), "ledger": ledger}
            writer.finish(played, report.to_json(), attempt | took)
    return report, episodes


def tasks_of_split(splits: Mapping[str, int], split: str, seed: int = 0) -> list[Reset]:
    """Each task of a finite split once. Raises ContractError for an unknown or endless one."""
    if not splits.get(split):
        finite = sorted(name for name, size in splits.items() if size)
        raise ContractError(
            Reason.SPLIT_UNKNOWN, f"{split!r} is not a finite split; choose one of {finite}, or name seeds"
        )
    return [Reset(seed=seed, split=split, task=task) for task in range(splits[split])]


class Table:
    """Where games are played: each continues as soon as it can, whatever the others wait for."""

    def __init__(self, agent: Agent, fleet: Fleet, fingerprints: set[str]) -> None:
        self._agent = agent
        self._fleet = fleet
        self._fingerprints = fingerprints
        self._seats: dict[int, Game] = {}
        self._calls: set[Future[Results]] = set()
        self._replies: dict[Future[Answer], int] = {}

    def play(self, games: Iterable[Game]) -> Generator[list[tuple[Episode, Usage]]]:
        """Plays all, and gives those that are over as they end; now and then, none."""
        waiting = iter(games)
        free = deque(range(len(self._fleet)))
        moves: dict[int, Move] = {}
        try:
            while True:
                while free and (game := next(waiting, None)) is not None:
                    slot = free.popleft()
                    self._seats[slot] = game
                    moves[slot] = game.begin()
                if moves and len(self._calls) < _MAX_CALLS:
                    self._calls.add(self._fleet.submit(moves))
                    moves = {}
                if not self._calls and not self._replies:
                    return
                pending: list[Future[Any]] = [*self._calls, *self._replies]
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                moves |= self._take_replies([one for one in self._replies if one in done])
                observing, over = self._take_results([one for one in self._calls if one in done])
                moves |= self._ask(observing)
                free.extend(over)
                yield [(over[slot], self._usage(slot, self._seats.pop(slot))) for slot in over]
        finally:
            for reply in self._replies:
                reply.cancel()
            wait(self._calls)  # the fleet may be used again

    def _usage(self, slot: int, game: Game) -> Usage:
        return game.usage.model_copy(update={"attempts": self._fleet.attempts(slot)})

    def _take_results(self, calls: Sequence[Future[Results]]) -> tuple[list[int], dict[int, Episode]]:
        """The slots whose agent is to choose, and the episodes that are over by their slots."""
        observing, over = [], {}
        for call in calls:
            self._calls.remove(call)
            for result in call.result():
                game = self._seats[result.slot]
                game.take(result)
                if game.episode is None:
                    observing.append(result.slot)
                else:
                    over[result.slot] = game.episode
        return observing, over

    def _take_replies(self, replies: Sequence[Future[Answer]]) -> dict[int, Move]:
        """What the replies say is to be done, by slot."""
        moves = {}
        for reply in replies:
            slot, answer = self._replies.pop(reply), reply.result()
            moves[slot] = self._read(slot, answer)
        return moves

    def _ask(self, slots: Sequence[int]) -> dict[int, Move]:
        """Has the agent choose; what is to be done where it has chosen at once."""
        agent = self._agent
        if not slots:
            return {}
        if isinstance(agent, Baseline):
            return {slot: self._seats[slot].ask(agent) for slot in slots}
        prompts = [self._seats[slot].prompt() for slot in slots]
        if isinstance(agent, ConcurrentModel):
            self._replies |= {agent.submit(prompt): slot for slot, prompt in zip(slots, prompts, strict=True)}
            return {}
        answers = zip(slots, agent.answer_all(prompts), strict=True)
        return {slot: self._read(slot, answer) for slot, answer in answers}

    def _read(self, slot: int, answer: Answer) -> Move:
        self._fingerprints.add(answer.fingerprint)
        if len(self._fingerprints) > 1:
            raise ModelChangedError(
                f"{self._agent.name} changed in the middle of the evaluation: {sorted(self._fingerprints)}"
            )
        return self._seats[slot].read(answer)


def _header(agent: Agent, fleet: Fleet, recipe: Recipe, substitution: str) -> Header:
    record = None
    if not isinstance(agent, Baseline):
        record = ModelRecord(name=agent.name, temperature=agent.temperature, max_tokens=agent.max_tokens)
    _refuse_mixed(fleet.specs)
    return header_of(fleet, recipe, record, substitution)


def _refuse_mixed(specs: Mapping[str, EnvSpec]) -> None:
    """One header describes all episodes, and their bytes must not depend on which server played which."""
    (first, spec), *others = specs.items()
    for address, other in others:
        for name, one, another in differing(dict(spec.provenance), dict(other.provenance)):
            raise EvaluationError(
                f"the servers of {spec.id} are not the same: {name} is {one!r} at {first} and {another!r} at "
                f"{address}; name servers of one provenance"
            )


def _finished(
    keep: Path, header: Header, plays: Mapping[Key, object], on_episode: Callable[[Episode, Usage], None]
) -> tuple[Report, list[Episode]]:
    """What a folder holds, if it is the evaluation that was asked for."""
    folder = EpisodeFolder(keep)
    refuse_another(keep, folder.header, header)
    episodes = list(folder)
    _refuse_others(keep, {episode.key: None for episode in episodes}, plays)
    if len(episodes) < len(plays):
        raise EvaluationError(
            f"{keep} already holds an evaluation of {len(episodes)} of these {len(plays)} episodes: keep this one in "
            "another folder, or say that what is there may be deleted (--overwrite)"
        )
    for episode, usage in zip(episodes, folder.usages(), strict=True):
        on_episode(episode, usage)
    return report_of(header, episodes), episodes


def _refuse_others(keep: Path, held: Mapping[Key, object], plays: Mapping[Key, object]) -> None:
    others = [key for key in held if key not in plays]
    if others:
        raise EvaluationError(
            f"{keep} already holds {len(others)} episodes that are not to be played now, the first of seed "
            f"{others[0][0]}: keep this evaluation in another folder, or say that what is there may be deleted "
            "(--overwrite)"
        )


def _key(task: Reset, sample: int) -> Key:
    """`Episode.key` of a task's sample."""
    return task.seed, task.split, task.task, tuple(action_record(action) for action in task.prefix), sample
