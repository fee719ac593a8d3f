"""The ledger of a session: which commands its slots were given, what became of them, and what must be replayed.

It knows nothing of connections and threads. Different slots may be used from different threads at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from overworld.authoring.runner import Result, SlotError
from overworld.client.counts import ByServer, Counts, together
from overworld.client.moves import Act, Moves, Reset
from overworld.contract.replay import Episode, Idle, Lost, Playing, advance
from overworld.contract.wire import action_from_proto, action_to_proto
from overworld.errors import Reason
from overworld.v1 import env_pb2 as pb


@dataclass(slots=True, kw_only=True)
class _Slot:
    """What is known about a slot from its answers. A command may be pending in any state of the episode."""

    number: int = -1  # of the last episode that was answered
    turn: int = 0
    last_number: int = -1  # of the last episode that a command was made for, answered or not
    episode: Episode = field(default_factory=Idle)
    pending: pb.Command | None = None  # accepted, its result not collected yet
    sent: tuple[int, int] = (-1, 0)  # episode and turn of the last command that was sent
    answered: bool = True  # that one
    attempts: int = 0  # at the episode
    counts: ByServer = field(default_factory=dict)

    def count(self, server: str) -> Counts:
        """What is counted at this server."""
        counts = self.counts.get(server)
        if counts is None:
            counts = self.counts[server] = Counts()
        return counts


class Ledger:
    """The ledger of `slots` slots, of which none has played an episode yet. `server` is where they are now."""

    def __init__(self, slots: int) -> None:
        self.server = ""
        self._slots = [_Slot() for _ in range(slots)]

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        kinds = [type(slot.episode).__name__.lower() for slot in self._slots]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        return f"<Ledger of {len(self)} slots: {counts}>"

    @property
    def counts(self) -> ByServer:
        """What became of the commands, by server."""
        counts = together(slot.counts for slot in self._slots)
        waiting = sum(not slot.answered for slot in self._slots)
        if waiting:
            counts[self.server] = counts.get(self.server, Counts()) + Counts(waiting=waiting)
        return counts

    def attempts(self, index: int) -> int:
        """How often the slot's latest episode was begun: once, and once more each time that it was brought back."""
        return self._slot(index).attempts

    def number(self, moves: Moves) -> list[pb.Command]:
        """The commands that make these moves, each named by slot, episode and turn.

        A reset gets an episode number that no command had before: one whose answer was lost may have been executed.
        Raises IndexError for a slot that does not exist; then nothing is numbered.
        """
        commands = []
        for index, move in moves.items() if isinstance(moves, Mapping) else enumerate(moves):
            slot = self._slot(index)
            if isinstance(move, Reset):
                prefix = [action_to_proto(action) for action in move.prefix]
                reset = pb.Reset(seed=move.seed, split=move.split, task=move.task, prefix=prefix)
                command = pb.Command(slot=index, episode=slot.last_number + 1, turn=len(prefix), reset=reset)
            else:
                act = move if isinstance(move, Act) else Act(move)
                action = action_to_proto(act.action, act.reply)
                command = pb.Command(slot=index, episode=max(slot.number, 0), turn=slot.turn + 1, action=action)
            commands.append(command)
        for command in commands:
            slot = self._slots[command.slot]
            slot.last_number = max(slot.last_number, command.episode)
        return commands

    def pending(self, results: Sequence[Result]) -> list[pb.Command]:
        """The commands of those slots in `results` whose result has not been collected yet."""
        commands = [self._slot(result.slot).pending for result in results]
        return [command for command in commands if command is not None]

    def loss(self, command: pb.Command) -> SlotError | None:
        """Why `command` must not be sent: it is an action of an episode that was lost."""
        episode = self._slots[command.slot].episode
        if isinstance(episode, Lost) and command.HasField("action"):
            self._slots[command.slot].count(self.server).refused += 1
            return SlotError(episode.reason.name, episode.message)
        return None

    def send(self, commands: Sequence[pb.Command]) -> None:
        """Notes that the commands are being sent, perhaps not for the first time."""
        for command in commands:
            slot, name = self._slots[command.slot], (command.episode, command.turn)
            counts = slot.count(self.server)
            counts.sent += 1
            if name == slot.sent:
                counts.repeated += 1
            else:
                counts.dropped += not slot.answered
                slot.sent, slot.answered = name, False

    def note(self, command: pb.Command, result: pb.SlotResult) -> None:
        """Notes what the server answered. An answer that was noted before changes nothing."""
        slot = self._slots[command.slot]
        if result.state == pb.SLOT_STATE_PENDING:
            slot.pending = command
            return
        slot.pending = None
        if (command.episode, command.turn) > (slot.number, slot.turn):
            slot.number, slot.turn = command.episode, command.turn
            slot.answered = True
            self._count(slot, command, result)
            slot.episode = advance(slot.episode, command, result)

    def replays(self) -> list[pb.Command]:
        """The commands that bring all running episodes back in a session that was opened again."""
        return [slot.episode.replay() for slot in self._slots if isinstance(slot.episode, Playing)]

    def note_replayed(self, result: pb.SlotResult) -> None:
        """Notes what a replay led to. If that is another state than before, the episode is lost."""
        slot = self._slots[result.slot]
        assert isinstance(slot.episode, Playing)
        slot.attempts += 1
        slot.count(self.server).replayed += result.turn + 1
        if why := slot.episode.mismatch(result):
            slot.episode = Lost(Reason.REBUILD_MISMATCH, f"the episode could not be rebuilt: {why}")

    def give_up(self, replay: pb.Command, why: str) -> None:
        """Notes that the episode of this replay cannot be brought back."""
        self._slots[replay.slot].episode = Lost(Reason.REBUILD_MISMATCH, f"the episode could not be rebuilt: {why}")

    def resume_point(self, index: int) -> Reset:
        """The reset that brings a new slot to where this one is. Raises LookupError if no episode runs there."""
        episode = self._slot(index).episode
        if not isinstance(episode, Playing):
            raise LookupError(f"slot {index} plays no episode")
        reset = episode.reset
        actions = [action_from_proto(action) for action in reset.prefix]
        return Reset(reset.seed, reset.split, reset.task if reset.HasField("task") else None, actions)

    def _count(self, slot: _Slot, command: pb.Command, result: pb.SlotResult) -> None:
        counts, begins = slot.count(self.server), command.HasField("reset")
        if begins:
            slot.attempts = 1
        if result.state == pb.SLOT_STATE_FAILED:
            counts.failed += 1
        elif begins:
            counts.begun += 1
        else:
            counts.acted += 1

    def _slot(self, index: int) -> _Slot:
        if not 0 <= index < len(self._slots):
            raise IndexError(f"there is no slot {index}; the session has 0 to {len(self._slots) - 1}")
        return self._slots[index]
