"""What client and host keep of an episode in order to replay it, in the same words on both sides.

*Replay*: a reset whose prefix holds the episode's actions so far, which must lead to the state that is known.
*Rebuild*: make a session again where it was lost, and replay its episodes. *Lost*: an episode whose replay failed.
"""

from __future__ import annotations

from dataclasses import dataclass

from overworld.errors import Reason
from overworld.v1 import env_pb2 as pb


@dataclass(frozen=True, slots=True)
class Idle:
    """No episode runs: none was started, the last one ended, or it failed. There is nothing to replay."""


@dataclass(slots=True, eq=False)
class Playing:
    """An episode runs: `reset`, with all actions since in its prefix, leads to the result `known`.

    The actions are kept without replies, which are long and do not matter to a replay, and all in one message: each in
    one of its own takes seven times the memory.
    """

    reset: pb.Reset
    known: pb.SlotResult

    def __repr__(self) -> str:
        return f"Playing(seed={self.reset.seed}, turn={self.known.turn})"

    def replay(self) -> pb.Command:
        """The command that leads to `known` again, under the same name (slot, episode, turn)."""
        known = self.known
        command = pb.Command(slot=known.slot, episode=known.episode, turn=known.turn)
        command.reset.CopyFrom(self.reset)
        return command

    def mismatch(self, replayed: pb.SlotResult) -> str:
        """Why `replayed`, the result of a replay, is not the state that is known; empty if it is."""
        if replayed.state == pb.SLOT_STATE_FAILED:
            return replayed.error.message
        return "" if _comparable(replayed) == _comparable(self.known) else "its replay led to another state"


@dataclass(frozen=True, slots=True)
class Lost:
    """The episode cannot be replayed. The next action fails for this reason; a reset helps."""

    reason: Reason
    message: str


Episode = Idle | Playing | Lost


def advance(episode: Episode, command: pb.Command, result: pb.SlotResult) -> Episode:
    """Where a slot's episode is after `command` gave `result`, which is not pending.

    A `Playing` is moved on in place: an episode may have many turns.
    """
    if result.state == pb.SLOT_STATE_FAILED or result.end:
        return Idle()
    if command.HasField("reset"):
        reset = pb.Reset()
        reset.CopyFrom(command.reset)
        for action in reset.prefix:
            action.ClearField("reply")
        return Playing(reset, result)
    if isinstance(episode, Playing):
        action = pb.Action()
        action.CopyFrom(command.action)
        action.ClearField("reply")
        episode.reset.prefix.append(action)
        episode.known = result
    return episode


def _comparable(result: pb.SlotResult) -> bytes:
    """What two runs of the same episode must agree in: the result without its images' places and its duration."""
    state = pb.SlotResult()
    state.CopyFrom(result)
    state.micros = 0
    for image in state.observation.images:
        image.block = image.index = 0
    return state.SerializeToString(deterministic=True)
