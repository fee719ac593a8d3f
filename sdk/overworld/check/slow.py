"""A command that takes long enough for other calls to come while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overworld.check.case import Case
from overworld.check.play import Episode
from overworld.check.session import Session
from overworld.v1 import env_pb2 as pb


@dataclass(frozen=True, slots=True)
class SlowCommand:
    """The slowest that is known: an action of a recorded episode, or a reset that replays a whole one."""

    episode: Episode
    turn: int
    """That the action makes; 0: a reset with all actions as its prefix."""
    seconds: float
    """That it takes at least."""

    def prepare(self, session: Session, slots: Sequence[int] = (0,)) -> None:
        """Brings slots to where the command can be sent."""
        if self.turn:
            session.bring(self.episode, self.turn - 1, slots)

    def command(self, session: Session, slot: int = 0) -> pb.Command:
        """The command."""
        episode = self.episode
        if self.turn:
            return session.act(episode.actions[self.turn - 1], slot)
        reset = episode.reset
        task = reset.task if reset.HasField("task") else None
        prefix = episode.actions[: episode.playable]
        return session.reset(slot, reset.seed, split=reset.split, task=task, prefix=prefix)


def slow_command(case: Case, least: float = 0.0) -> SlowCommand:
    """The slowest command, timed twice, since a single time may be long by chance.

    Raises SkipCheckError where it takes less than `least` seconds.
    """
    episode, turn, seconds = case.slowest()
    found = SlowCommand(episode, turn, seconds)
    if "prefix" in case.info.features:
        whole = max(case.episodes(), key=lambda each: sum(each.seconds[: each.playable + 1]))
        if (total := sum(whole.seconds[: whole.playable + 1])) > seconds:
            found = SlowCommand(whole, 0, total)
    if not least:
        return found
    times = [found.seconds]
    session = case.open()
    for _ in range(2):
        if min(times) < least:
            break
        found.prepare(session)
        answer = session.send(found.command(session))
        session.ready(answer)
        times.append(answer.seconds)
    case.close(session.name)
    if min(times) < least:
        raise case.skip(f"no command took {least:g} s, so nothing can be sent while one runs")
    return SlowCommand(found.episode, found.turn, min(times))
