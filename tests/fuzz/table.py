"""A client that does everything in any order: the (slot, episode, turn) table over the wire, against the oracle.

Commands are right, wrong, repeated at once on two connections, cancelled, and given too little time. Whatever was
executed shows in the next state, so that nothing is executed twice, or not at all, without notice.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import Counter
from typing import Any

import grpc
import hypothesis.strategies as st
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from overworld.v1 import env_pb2 as pb
from overworld.v1.env_pb2_grpc import EnvServiceStub

from tests.fuzz.budget import AGAIN, LONG
from tests.fuzz.oracle import ENV, EXECUTED, FALLBACK_REWARD, MAX_TURNS, REPEATED, Slot, check
from tests.support.chain_env import SPLITS

SLOTS = 4
PATIENCE = 600.0
"""Seconds for an answer: on a busy machine it takes long to replace a worker."""
_TEXTS = ("a", "b", "A ", "wait", "wait", "raise", "task", "fly") * 20 + (("crash",) if LONG else ())
_INDICES = (0, 1, 2, 4, 7, 2**32 - 1)
_NAMES = ("right",) * 30 + ("next",) * 6 + ("last", "last", "new", "skipped", "older", "older episode", "far")
_DICE = st.integers(0, 2**32 - 1).map(random.Random)
"""Batches are made of a seed: to have Hypothesis draw each field takes longer than to play them."""


def _action(dice: random.Random) -> pb.Action:
    kind = dice.randrange(10)
    if kind == 0:
        return pb.Action(reply="I do not know.")
    if kind < 3:
        return pb.Action(index=dice.choice(_INDICES))
    return pb.Action(text=dice.choice(_TEXTS), reply=dice.choice(("", "", "one", "two")))


def _reset(dice: random.Random) -> pb.Reset:
    seed = dice.choice((0, 1, 7, 2**64 - 1))
    if dice.random() < 0.5:
        return pb.Reset(seed=seed)
    task = dice.choice((None, None, None, 0, 3, 4, 2**64 - 1))
    prefix = [_action(dice) for _ in range(dice.choice((0, 1, 3, 3, MAX_TURNS, MAX_TURNS + 1)))]
    return pb.Reset(seed=seed, split=dice.choice(("", "", *SPLITS, "five")), task=task, prefix=prefix)


class _Table(RuleBasedStateMachine):
    """One session and what is known of it."""

    stubs: list[EnvServiceStub]
    counts: Counter[str]

    @initialize()
    def open(self) -> None:
        self.session = str(uuid.uuid4())
        self._start()

    def teardown(self) -> None:
        self.stubs[0].Close(pb.CloseRequest(session=self.session))

    @rule(dice=_DICE)
    def step(self, dice: random.Random) -> None:
        """A batch, whether it is right or wrong, from which not all results need be waited for."""
        self._settle(self._batch(dice), dice.choice((0, 0, 1, 2, SLOTS + 1)))

    @rule(dice=_DICE)
    def step_twice(self, dice: random.Random) -> None:
        """The same batch on two connections at once: if it is right, both have the same results."""
        commands = self._right(dice)
        calls = [stub.Step.future(self._request(commands), timeout=PATIENCE) for stub in self.stubs]
        self._accept(commands)
        for call in calls:
            self._read(commands, call.result(), 0)
        self.counts["commands"] += 2 * len(commands)

    @rule(dice=_DICE, late=st.booleans())
    def step_given_up(self, dice: random.Random, late: bool) -> None:
        """A right batch whose call is cancelled, or runs out of time, and is made again."""
        commands = self._right(dice)
        after = dice.choice((0.0, 0.0005, 0.002, 0.01))
        call = self.stubs[0].Step.future(self._request(commands), timeout=after if late else PATIENCE)
        if not late:
            time.sleep(after)
            call.cancel()
        self.counts["commands"] += len(commands)
        self._settle(commands)

    @rule(dice=_DICE)
    def race(self, dice: random.Random) -> None:
        """Two commands under one name at once: exactly one of them is executed."""
        slot = dice.randrange(SLOTS)
        rivals = [self._command(slot, "right", action) for action in (pb.Action(text="a"), pb.Action(index=2))]
        if any(_allowed(self.slots, [command]) != {EXECUTED} for command in rivals) or rivals[0] == rivals[1]:
            return
        calls = [stub.Step.future(self._request([command])) for stub, command in zip(self.stubs, rivals, strict=True)]
        errors = [call.exception(PATIENCE) for call in calls]
        assert sum(error is None for error in errors) == 1, errors
        for command, call, error in zip(rivals, calls, errors, strict=True):
            if error is None:
                self._accept([command])
                self._read([command], call.result(), 0)
            else:
                assert reason(error) == "CONFLICT"
        self.counts["commands"] += 2
        self.counts["CONFLICT"] += 1

    @rule()
    def open_again(self) -> None:
        """A repeat of Open, which changes nothing."""
        self.stubs[1].Open(self._opening())

    @rule(dice=_DICE)
    def reopen(self, dice: random.Random) -> None:
        """The session closed now and then, and its name used for a new one."""
        if dice.random() < 0.1:
            self._start()

    def _start(self) -> None:
        self.stubs[0].Close(pb.CloseRequest(session=self.session))
        self.slots = [Slot() for _ in range(SLOTS)]
        self.stubs[0].Open(self._opening())

    def _opening(self) -> pb.OpenRequest:
        return pb.OpenRequest(
            session=self.session,
            env_id=ENV,
            slots=SLOTS,
            options_json=json.dumps({"max_turns": MAX_TURNS}),
            fallback_reward=FALLBACK_REWARD,
        )

    def _batch(self, dice: random.Random) -> list[pb.Command]:
        """Mostly right commands."""
        slots = dice.sample(range(SLOTS), dice.randint(0, SLOTS))
        if dice.random() < 0.05:
            slots.append(dice.choice((*range(SLOTS), SLOTS, 2**32 - 1)))
        return [self._any(slot, dice) for slot in slots]

    def _any(self, slot: int, dice: random.Random) -> pb.Command:
        last = self.slots[slot].last if slot < SLOTS else None
        if last is not None and dice.random() < 0.1:
            return last
        kind = dice.randrange(20)
        what = _reset(dice) if kind < 2 else None if kind == 2 and dice.random() < 0.3 else _action(dice)
        return self._command(slot, dice.choice(_NAMES), what)

    def _right(self, dice: random.Random) -> list[pb.Command]:
        """A batch of commands that must be accepted: those of the slots that surely do not run."""
        batch = [self._any(slot, dice) for slot in dice.sample(range(SLOTS), dice.randint(1, SLOTS))]
        return [command for command in batch if _allowed(self.slots, [command]) == {EXECUTED}]

    def _command(self, index: int, name: str, what: pb.Reset | pb.Action | None) -> pb.Command:
        last = self.slots[index].last if index < SLOTS else None
        episode, turn = (last.episode, last.turn) if last is not None else (0, 0)
        if name == "right":
            name = "next"
            if index < SLOTS and not self.slots[index].plays and not isinstance(what, pb.Reset):
                what = pb.Reset(seed=turn)
        resets = isinstance(what, pb.Reset)
        first = len(what.prefix) if isinstance(what, pb.Reset) else 0
        new = episode + 1 if last is not None else episode
        episode, turn = {
            "next": (new, first) if resets else (episode, turn + 1),
            "last": (episode, turn),
            "new": (new, first),
            "skipped": (episode, turn + 2),
            "older": (episode, max(turn - 1, 0)),
            "older episode": (max(episode - 1, 0), turn + 1),
            "far": (min(episode + 2**40, 2**64 - 1), first),
        }[name]
        command = pb.Command(slot=index, episode=min(episode, 2**64 - 1), turn=turn)
        if isinstance(what, pb.Reset):
            command.reset.CopyFrom(what)
        elif what is not None:
            command.action.CopyFrom(what)
        return command

    def _request(self, commands: list[pb.Command], min_ready: int = 0) -> pb.StepRequest:
        return pb.StepRequest(session=self.session, commands=commands, min_ready=min_ready)

    def _settle(self, commands: list[pb.Command], min_ready: int = 0) -> None:
        """Sends a batch; what comes back must be allowed."""
        allowed = _allowed(self.slots, commands)
        self.counts["commands"] += len(commands)
        try:
            response = self.stubs[0].Step(self._request(commands, min_ready), timeout=PATIENCE)
        except grpc.RpcError as error:
            why = reason(error)
            assert why in allowed, f"{why}: {error.details()}; {allowed} were expected"
            self.counts[why] += 1
            return
        assert EXECUTED in allowed, f"executed; {allowed} were expected"
        self._accept(commands)
        self._read(commands, response, min_ready)

    def _accept(self, commands: list[pb.Command]) -> None:
        for command in commands:
            slot = self.slots[command.slot]
            self.counts[REPEATED if command == slot.last else EXECUTED] += 1
            slot.accept(command)

    def _read(self, commands: list[pb.Command], response: pb.StepResponse, min_ready: int) -> None:
        assert len(response.results) == len(commands)
        pending = 0
        for command, result in zip(commands, response.results, strict=True):
            if result.state == pb.SLOT_STATE_PENDING:
                pending += 1
                continue
            slot = self.slots[command.slot]
            slot.running = False
            check(slot, result, response)
        assert len(commands) - pending >= (min(min_ready, len(commands)) or len(commands))


def play(stubs: list[EnvServiceStub], number: int, counts: Counter[str]) -> None:
    """Ten sessions of a hundred rules each, made of the seed `number`, on two connections to one server."""
    machine = type("Table", (_Table,), {"stubs": stubs, "counts": counts})
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=10,
            stateful_step_count=100,
            deadline=None,
            database=None,
            phases=(Phase.generate, *([Phase.shrink] if AGAIN else [])),  # that takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


def _allowed(slots: list[Slot], commands: list[pb.Command]) -> set[str]:
    """EXECUTED if the whole batch may be accepted, and every reason for which it may be refused."""
    indices = [command.slot for command in commands]
    reasons: set[str] = {"SLOT_REPEATED"} if len(set(indices)) < len(indices) else set()
    possible = not reasons
    for command in commands:
        verdicts = slots[command.slot].verdicts(command) if command.slot < SLOTS else {"SLOT_UNKNOWN"}
        accepted = verdicts & {EXECUTED, REPEATED}
        possible = possible and bool(accepted)
        reasons |= verdicts - accepted
    return reasons | {EXECUTED} if possible else reasons


def reason(error: Any) -> str:
    """The reason of a refusal."""
    metadata = {entry.key: entry.value for entry in error.trailing_metadata()}
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason
