"""What the contract says of every command for `chain_env`: rules T1 to T10 of proto/README.md, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from overworld.authoring.env import End
from overworld.contract.frames import block_array, pixels_hash
from overworld.v1 import env_pb2 as pb

from tests.support import chain_env as chain

MAX_TURNS = 12
FALLBACK_REWARD = -0.25
EXECUTED, REPEATED = "execute", "repeat"
ENV = "toy/FrailChain"
_WORDS = (*chain.WORDS, "crash")


@dataclass(frozen=True)
class Expected:
    """A slot's result; `failed` has the reasons of which one must be given, and is empty for one that is READY."""

    state: str = ""
    reward: float = 0.0
    end: End | None = None
    outcome: int = pb.OUTCOME_UNSPECIFIED
    executed: str = ""
    failed: tuple[str, ...] = ()


@dataclass
class Slot:
    """What the client knows of a slot. `running`: its last command was not collected yet, and may be running."""

    last: pb.Command | None = None
    result: Expected | None = None
    running: bool = False

    @property
    def plays(self) -> bool:
        """Whether there is an episode to act in."""
        return self.result is not None and self.result.end is None and not self.result.failed

    def verdicts(self, command: pb.Command) -> set[str]:
        """EXECUTED, REPEATED, or the reasons with which the command can be refused."""
        last = self.last
        if last is not None:
            name, last_name = (command.episode, command.turn), (last.episode, last.turn)
            if name == last_name:
                return {REPEATED} if command == last else {"CONFLICT"}  # T1, T2
            if name < last_name:
                return {"STALE"}  # T3
        kind = command.WhichOneof("kind")
        if kind is None:
            verdicts = {"REQUEST_INVALID"}
        elif kind == "reset":
            verdicts = self._of_reset(last, command)
        else:
            verdicts = self._of_action(last, command)
        return verdicts | {"BUSY"} if self.running else verdicts  # T4

    def accept(self, command: pb.Command) -> None:
        """Notes a command that was executed."""
        if command == self.last:
            return
        self.last = pb.Command()
        self.last.CopyFrom(command)
        self.running = True
        self.result = _reset(command.reset) if command.HasField("reset") else _step(self._known(), command)

    def _known(self) -> Expected:
        assert self.result is not None
        return self.result

    @staticmethod
    def _of_reset(last: pb.Command | None, command: pb.Command) -> set[str]:
        reset = command.reset
        if last is not None and command.episode == last.episode:
            return {"REQUEST_INVALID"}  # T5
        wrong = set()
        if command.turn != len(reset.prefix):
            wrong.add("TURN_SKIPPED")  # T6
        if len(reset.prefix) > MAX_TURNS:
            wrong.add("REQUEST_INVALID")
        if reset.split not in ("", *chain.SPLITS):
            wrong.add("SPLIT_UNKNOWN")
        elif reset.HasField("task") and reset.task >= chain.SPLITS[reset.split or "endless"]:
            wrong.add("TASK_UNKNOWN")
        return wrong or {EXECUTED}  # T10

    def _of_action(self, last: pb.Command | None, command: pb.Command) -> set[str]:
        if last is None or command.episode != last.episode or self._known().failed:
            return {"NOT_RESET"}  # T7
        if self._known().end is not None:
            return {"EPISODE_ENDED"}  # T8
        if command.turn != last.turn + 1:
            return {"TURN_SKIPPED"}  # T9
        return {EXECUTED}  # T10


def check(slot: Slot, result: pb.SlotResult, response: pb.StepResponse) -> None:
    """That the result of a slot's last command is the one that it must be."""
    expected, command = slot.result, slot.last
    assert expected is not None
    assert command is not None
    assert (result.slot, result.episode, result.turn) == (command.slot, command.episode, command.turn)
    if expected.failed:
        assert result.state == pb.SLOT_STATE_FAILED, result
        assert result.error.reason in expected.failed, result.error
        return
    assert result.state == pb.SLOT_STATE_READY, result
    text, _ = result.observation.parts
    got = Expected(
        text.text, result.reward, End(result.end) if result.end else None, result.outcome, result.executed.text
    )
    assert got == expected
    assert result.HasField("success") == bool(result.end)
    assert result.success == (expected.end is End.TASK)
    assert (result.terminated, result.truncated) == (result.end == pb.END_TASK, result.end > pb.END_TASK)
    (image,) = result.observation.images
    shown = block_array(response.blocks[image.block], response.frames)[image.index]
    assert np.array_equal(shown, chain.pixels(expected.state))
    assert image.xxh64 == pixels_hash(shown)


def _reset(reset: pb.Reset) -> Expected:
    split = reset.split or "endless"
    size = chain.SPLITS[split]
    task = None if size == 0 else reset.task if reset.HasField("task") else reset.seed % size
    result = Expected(chain.first(reset.seed, split, task))
    for turn, action in enumerate(reset.prefix, 1):
        if result.end is not None:
            return Expected(failed=("PREFIX_TOO_LONG",))
        result = _acted(result, action, turn)
        if result.failed:
            return result
    return result


def _step(known: Expected, command: pb.Command) -> Expected:
    return _acted(known, command.action, command.turn)


def _acted(known: Expected, action: pb.Action, turn: int) -> Expected:
    outcome, word = _read(action)
    if word == "raise":
        return Expected(failed=("ENV_ERROR",))
    if word == "crash":
        return Expected(failed=("WORKER_DIED",))
    if not word:
        result = replace(known, reward=FALLBACK_REWARD, outcome=outcome, executed="")
    else:
        state = chain.following(known.state, word)
        result = Expected(state, chain.reward(state), chain.ENDS.get(word), outcome, word)
    if result.end is None and turn >= MAX_TURNS:
        result = replace(result, end=End.TIME_LIMIT)
    return result


def _read(action: pb.Action) -> tuple[int, str]:
    """The outcome of an action and the word that it names."""
    kind = action.WhichOneof("value")
    if kind is None:
        return pb.OUTCOME_NO_ACTION, ""
    if kind == "index":
        named: Sequence[str] = _WORDS[action.index : action.index + 1]
    else:
        named = [word for word in _WORDS if word == " ".join(action.text.split()).lower()]
    return (pb.OUTCOME_EXECUTED, named[0]) if named else (pb.OUTCOME_NOT_ADMISSIBLE, "")
