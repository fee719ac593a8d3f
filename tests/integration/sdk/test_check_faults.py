"""The checker finds what is wrong with a server: faults are planted into the reference host, one at a time.

Each has to be found under a rule that names it. Only the check that finds it runs, which keeps this fast.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from overworld.check.running import check_server
from overworld.contract import checksum
from overworld.contract.status import status_code
from overworld.errors import ContractError, Reason
from overworld.host import server as host_server
from overworld.host.session import HostedSession
from overworld.host.slot import HostedSlot
from overworld.v1 import env_pb2 as pb

from tests.support.checked_env import SLOW_WALK, WALK
from tests.support.lying_server import Lies, LyingServer

Plant = Callable[[Lies], object]


@dataclass(frozen=True)
class Fault:
    name: str
    rules: str
    checks: str
    plant: Plant
    timeout: float = 10.0
    env: str = "checked/Walk"


SLOW = "checked/SlowWalk"
SEEDS, OPENING, SPECS = "determinism.of_a_seed", "opening.", "specs."
PLAYED = "order.actions_need_an_episode"
"""The cheapest check that plays whole episodes, which is where every answer is looked at."""


def infos(change: Callable[[pb.GetServerInfoResponse], object]) -> Plant:
    return lambda lies: setattr(lies, "info", change)


def specs(change: Callable[[pb.EnvSpec], object]) -> Plant:
    """Of the env, in GetServerInfo and Open."""

    def plant(lies: Lies) -> None:
        lies.info = lambda info: change(info.envs[0])
        lies.open = lambda request, response: change(response.spec)

    return plant


def opens(change: Callable[[pb.OpenResponse], object]) -> Plant:
    return lambda lies: setattr(lies, "open", lambda request, response: change(response))


def open_requests(change: Callable[[pb.OpenRequest], object]) -> Plant:
    return lambda lies: setattr(lies, "open_request", change)


def results(change: Callable[[pb.SlotResult], object]) -> Plant:
    return lambda lies: setattr(lies, "step", lambda request, response: [change(result) for result in response.results])


def responses(change: Callable[[pb.StepResponse], object]) -> Plant:
    return lambda lies: setattr(lies, "step", lambda request, response: change(response))


def commands(change: Callable[[pb.Command], object]) -> Plant:
    """Of what is executed; results keep the names that were sent."""

    def plant(lies: Lies) -> None:
        def rename(request: pb.StepRequest, response: pb.StepResponse) -> None:
            for command, result in zip(request.commands, response.results, strict=True):
                result.slot, result.episode, result.turn = command.slot, command.episode, command.turn

        lies.step_request = lambda request: [change(command) for command in request.commands]
        lies.step = rename

    return plant


def refusals(reason: str, instead: str, method: str = "") -> Plant:
    """Another reason in the place of the right one."""
    return lambda lies: setattr(
        lies,
        "refusal",
        lambda called, error: (
            ContractError(Reason[instead], error.message)
            if error.reason.name == reason and method in ("", called)
            else error
        ),
    )


def images(change: Callable[[pb.Image], object]) -> Plant:
    return results(lambda result: [change(image) for image in result.observation.images])


def blocks(change: Callable[[pb.FrameBlock], object]) -> Plant:
    return responses(lambda response: [change(block) for block in response.blocks])


def put(path: str, value: Any) -> Callable[[Any], None]:
    """Sets a dotted field."""

    def change(message: Any) -> None:
        *owners, name = path.split(".")
        for owner in owners:
            message = message[int(owner)] if owner.isdigit() else getattr(message, owner)
        field = getattr(message, name)
        if isinstance(field, Message):
            field.CopyFrom(value)
        elif hasattr(field, "extend"):
            del field[:]
            field.extend(value)
        else:
            setattr(message, name, value)

    return change


def when(condition: Callable[[Any], object], change: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda message: change(message) if condition(message) else None


def clear(*names: str) -> Callable[[Any], object]:
    return lambda message: [message.ClearField(name) for name in names]


def ended(result: pb.SlotResult) -> bool:
    return bool(result.end)


def is_reset(result: pb.SlotResult) -> bool:
    return result.turn == 0


def acted(result: pb.SlotResult) -> bool:
    return result.turn > 0 and result.state == pb.SLOT_STATE_READY


def skipped(result: pb.SlotResult) -> bool:
    return result.outcome in (pb.OUTCOME_NO_ACTION, pb.OUTCOME_NOT_ADMISSIBLE)


def counted(lies: Lies, key: Any) -> int:
    """0, 1, 2, ... by key."""
    lies.memory[key] = lies.memory.get(key, -1) + 1
    return int(lies.memory[key])


def once(lies: Lies, key: Any, make: Callable[[], Any]) -> Any:
    if key not in lies.memory:
        lies.memory[key] = make()
    return lies.memory[key]


# What needs more than a line.


def connections_own_their_sessions(lies: Lies) -> None:
    """Sessions end when one of their calls is hung up, or when more than one call of theirs was a repeat."""

    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        if counted(lies, (request.session, request.SerializeToString(deterministic=True))) and request.commands:
            raise ContractError(Reason.SESSION_UNKNOWN, "the session is that of another connection")
        return await execute()

    lies.around_step = around


def whole_batches_are_cached(lies: Lies) -> None:
    """Only the very request of before is a repeat."""

    def request(message: pb.StepRequest) -> None:
        session = lies.front._sessions[message.session]
        data = message.SerializeToString(deterministic=True)
        if lies.memory.get(message.session) != data:
            for command in message.commands:
                slot = session.slots[command.slot] if command.slot < len(session.slots) else None
                if slot is not None and slot.command is not None and slot.repeats(command):
                    raise ContractError(Reason.STALE, "the slot is past this turn")
        lies.memory[message.session] = data

    lies.step_request = request


def prefixes_pass_over_skipped_turns(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.HasField("reset") and any(not action.ByteSize() for action in command.reset.prefix):
            acted_on = [action for action in command.reset.prefix if action.ByteSize()]
            kept = [pb.Action.FromString(action.SerializeToString()) for action in acted_on]
            del command.reset.prefix[:]
            command.reset.prefix.extend(kept)
            command.turn = len(kept)

    commands(change)(lies)


def sessions_share_their_slots(lies: Lies) -> None:
    """A seed depends on how many sessions are open."""

    def change(command: pb.Command) -> None:
        if command.HasField("reset") and len(lies.front._sessions) > 1:
            shift(command.reset, len(lies.front._sessions))

    commands(change)(lies)


def another_instance_each_time(lies: Lies) -> None:
    lies.info = lambda info: put("instance", str(uuid.uuid4()))(info)


def slots_are_not_counted(lies: Lies) -> None:
    lies.info = put("slots_free", 16)


def info_forgets_the_expert(lies: Lies) -> None:
    lies.info = lambda info: put("envs.0.has_expert", counted(lies, "calls") % 2 == 0)(info)


def a_refused_open_takes_slots(lies: Lies) -> None:
    def refusal(method: str, error: ContractError) -> ContractError:
        counted(lies, "leaked")
        return error

    lies.refusal = refusal
    lies.info = lambda info: put("slots_free", max(info.slots_free - lies.memory.get("leaked", -1) - 1, 0))(info)


def no_conflict_at_open(lies: Lies) -> None:
    lies.patch.setattr("overworld.host.front._same_but_transports", lambda one, other: True)


def conflict_with_the_options_only(lies: Lies) -> None:
    lies.patch.setattr(
        "overworld.host.front._same_but_transports",
        lambda one, other: (one.env_id, one.slots, one.fallback) == (other.env_id, other.slots, other.fallback),
    )


def no_repeat_of_open(lies: Lies) -> None:
    lies.patch.setattr("overworld.host.front._same_but_transports", lambda one, other: False)


def a_repeated_open_starts_again(lies: Lies) -> None:
    def request(message: pb.OpenRequest) -> None:
        session = lies.front._sessions.get(message.session)
        if session is not None:
            lies.front._end(session)

    lies.open_request = request


def close_frees_nothing(lies: Lies) -> None:
    lies.close = lambda request: True


def close_of_nothing_fails(lies: Lies) -> None:
    def close(request: pb.CloseRequest) -> bool:
        if request.session not in lies.front._sessions:
            raise ContractError(Reason.SESSION_UNKNOWN, "there is no such session")
        return False

    lies.close = close


def any_name_will_do(lies: Lies) -> None:
    def request(message: pb.OpenRequest) -> None:
        try:
            uuid.UUID(message.session)
        except ValueError:
            message.session = str(uuid.uuid5(uuid.NAMESPACE_URL, message.session))

    lies.open_request = request


def another_env_is_opened(lies: Lies) -> None:
    lies.open_request = when(lambda request: "/" in request.env_id, put("env_id", "checked/Walk"))


def advice_leaks(lies: Lies) -> None:
    lies.step = lambda request, response: [
        put("expert.action.text", "wait")(result)
        for result in response.results
        if result.state == pb.SLOT_STATE_READY and not result.end
    ]


def repeats_are_executed(lies: Lies) -> None:
    """A command that was sent before is another turn of the simulator."""
    extra: dict[Any, int] = {}
    last: dict[Any, int] = {}

    def request(message: pb.StepRequest) -> None:
        for command in message.commands:
            key = (message.session, command.slot, command.episode)
            if command.WhichOneof("kind") == "action":
                if last.get(key) == command.turn:
                    extra[key] = extra.get(key, 0) + 1
                last[key] = command.turn
                command.turn += extra.get(key, 0)

    def answer(message: pb.StepRequest, response: pb.StepResponse) -> None:
        for command, result in zip(message.commands, response.results, strict=True):
            result.turn = command.turn

    lies.step_request, lies.step = request, answer


def repeats_count_their_calls(lies: Lies) -> None:
    lies.step = lambda request, response: [
        result.metrics.update({"calls": counted(lies, (request.session, result.slot, result.episode, result.turn))})
        for result in response.results
    ]


def repeats_lose_the_observation(lies: Lies) -> None:
    def answer(request: pb.StepRequest, response: pb.StepResponse) -> None:
        for result in response.results:
            if counted(lies, (request.session, result.slot, result.episode, result.turn)):
                result.observation.parts.add(text="again")

    lies.step = answer


def content_is_not_compared(lies: Lies) -> None:
    lies.patch.setattr(HostedSlot, "repeats", lambda slot, command: True)


def replies_are_not_compared(lies: Lies) -> None:
    def repeats(slot: HostedSlot, command: pb.Command) -> bool:
        copy = pb.Command()
        copy.CopyFrom(command)
        copy.action.ClearField("reply")
        return slot.command is not None and (slot.command == copy or command.HasField("reset"))

    lies.patch.setattr(HostedSlot, "repeats", repeats)


def stale_commands_get_the_last_result(lies: Lies) -> None:
    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            data = await execute()
        except ContractError as error:
            if error.reason is not Reason.STALE:
                raise
            response = pb.StepResponse.FromString(lies.memory[request.session])
            for result, command in zip(response.results, request.commands, strict=True):
                result.episode, result.turn = command.episode, command.turn
            return response.SerializeToString()
        lies.memory[request.session] = data
        return data

    lies.around_step = around


def busy_slots_queue(lies: Lies) -> None:
    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        while True:
            try:
                return await execute()
            except ContractError as error:
                if error.reason is not Reason.BUSY:
                    raise
                await asyncio.sleep(0.002)

    lies.around_step = around


def batches_are_executed_up_to_the_fault(lies: Lies) -> None:
    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            return await execute()
        except ContractError as error:
            whole = list(request.commands)
            if error.reason is Reason.TURN_SKIPPED and len(whole) > 1:
                for number in range(len(whole)):
                    del request.commands[:]
                    request.commands.append(whole[number])
                    try:
                        await execute()
                    except ContractError:
                        continue
            raise

    lies.around_step = around


def one_step_at_a_time(lies: Lies) -> None:
    running: dict[str, int] = {}

    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        if running.get(request.session):
            raise ContractError(Reason.BUSY, "the session has a Step under way")
        running[request.session] = 1
        try:
            return await execute()
        finally:
            running[request.session] = 0

    lies.around_step = around


def steps_wait_for_each_other(lies: Lies) -> None:
    lock = asyncio.Lock()

    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        async with lock:
            return await execute()

    lies.around_step = around


def overtaken_calls_get_what_there_is(lies: Lies) -> None:
    lies.patch.setattr(HostedSession, "check_current", lambda session, commands: None)


def hang_ups_end_the_session(lies: Lies) -> None:
    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            return await execute()
        except asyncio.CancelledError:
            session = lies.front._sessions.get(request.session)
            if session is not None:
                lies.front._end(session)
            raise

    lies.around_step = around


def hang_ups_are_not_forgiven(lies: Lies) -> None:
    """What was given up is executed once more when it is repeated: its seed changes."""
    given_up: set[bytes] = set()

    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        names = b"".join(command.SerializeToString(deterministic=True) for command in request.commands)
        if names in given_up:
            data = pb.StepResponse.FromString(await execute())
            for result in data.results:
                result.reward -= 0.1
            return data.SerializeToString()
        try:
            return await execute()
        except asyncio.CancelledError:
            given_up.add(names)
            raise

    lies.around_step = around


def empty_steps_hang(lies: Lies) -> None:
    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        if not request.commands:
            await asyncio.sleep(3600)
        return await execute()

    lies.around_step = around


def resets_leak_the_last_episode(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.HasField("reset"):
            command.reset.seed = (command.reset.seed + command.episode) % 2**64

    commands(change)(lies)


def slots_share_their_seed(lies: Lies) -> None:
    commands(when(lambda command: command.HasField("reset"), lambda command: shift(command.reset, command.slot)))(lies)


def shift(reset: pb.Reset, by: int) -> None:
    reset.seed = (reset.seed + by) % 2**64


def seeds_are_floats(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.HasField("reset"):
            command.reset.seed = min(int(float(command.reset.seed)), 2**64 - 1)

    commands(change)(lies)


def episodes_are_floats(lies: Lies) -> None:
    commands(lambda command: put("episode", min(int(float(command.episode)), 2**64 - 1))(command))(lies)


def seeds_choose_no_task(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        reset = command.reset
        if command.HasField("reset") and reset.split == "ten" and not reset.HasField("task"):
            reset.task = (reset.seed + 1) % 10

    commands(change)(lies)


def prefixes_lose_an_action(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.HasField("reset") and len(command.reset.prefix) > 1:
            command.reset.prefix[-1].CopyFrom(pb.Action(text="wait"))

    commands(change)(lies)


def replies_are_read(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.WhichOneof("kind") == "action" and '"action"' in command.action.reply:
            command.action.text = "wait"

    commands(change)(lies)


def empty_steps_renew_nothing(lies: Lies) -> None:
    renew = HostedSession.renew
    lies.patch.setattr(HostedSession, "renew", lambda session: None if lies.memory.get("empty") else renew(session))
    lies.step_request = lambda request: lies.memory.update(empty=not request.commands)


def open_renews_nothing(lies: Lies) -> None:
    renew = HostedSession.renew
    opened = set()

    def renew_at_first(session: HostedSession) -> None:
        if not lies.memory.get("opening") or session.key not in opened:
            renew(session)
        opened.add(session.key)

    lies.patch.setattr(HostedSession, "renew", renew_at_first)
    lies.open_request = lambda request: lies.memory.update(opening=request.session in lies.front._sessions)
    lies.open = lambda request, response: lies.memory.update(opening=False)


def tasks_are_ignored(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.HasField("reset") and command.reset.split == "ten":
            command.reset.task = command.reset.seed % 10

    commands(change)(lies)


def leases_never_end(lies: Lies) -> None:
    lies.patch.setattr("overworld.check.themes.leases._MARGIN", 0.3)
    lies.patch.setattr(HostedSession, "expired", property(lambda session: False))


def leases_end_early(lies: Lies) -> None:
    lies.patch.setattr(HostedSession, "renew", lambda session: setattr(session, "_expires", 0.0))


def leases_end_while_a_call_waits(lies: Lies) -> None:
    lies.patch.setattr("overworld.host.front._REAP_SECONDS", 0.01)
    lies.patch.setattr(
        HostedSession, "expired", property(lambda session: session._expires < time.monotonic()), raising=True
    )


def unknown_sessions_are_opened_again(lies: Lies) -> None:
    requests: dict[str, pb.OpenRequest] = {}

    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        if request.session not in lies.front._sessions and request.session in requests:
            await lies.front.open(requests[request.session], *lies.memory["opened with"])
        return await execute()

    def note(request: pb.OpenRequest, response: pb.OpenResponse) -> None:
        requests[request.session] = request

    lies.open, lies.around_step = note, around


def unknown_fields_are_refused(lies: Lies) -> None:
    parsed = host_server._parsed

    def parse(request_type: Any, data: bytes) -> Any:
        if b"hello" in data:
            raise ContractError(Reason.REQUEST_INVALID, "there is no field 7144")
        return parsed(request_type, data)

    lies.patch.setattr(host_server, "_parsed", parse)


def broken_bytes_are_taken(lies: Lies) -> None:
    parsed = host_server._parsed

    def parse(request_type: Any, data: bytes) -> Any:
        try:
            return parsed(request_type, data)
        except ContractError:
            return request_type()

    lies.patch.setattr(host_server, "_parsed", parse)


def checksums_are_not_read(lies: Lies) -> None:
    lies.patch.setattr(host_server, "_check", lambda method, data, context: None)


def errors_are_grpcs_own(lies: Lies) -> None:
    lies.patch.setattr(host_server, "trailing_metadata", lambda error: ())


def errors_of_another_domain(lies: Lies) -> None:
    lies.patch.setattr("overworld.contract.status.DOMAIN", "example.org")


def errors_with_another_status(lies: Lies) -> None:
    lies.patch.setattr(
        host_server,
        "status_code",
        lambda reason: grpc.StatusCode.INTERNAL if reason is Reason.SLOT_UNKNOWN else status_code(reason),
    )


def errors_that_contradict_themselves(lies: Lies) -> None:
    lies.patch.setattr(host_server, "status_code", lambda reason: grpc.StatusCode.INVALID_ARGUMENT)


def drawn_by_a_die(lies: Lies) -> None:
    """The random fallback depends on how often it was asked."""

    def change(command: pb.Command) -> None:
        if command.WhichOneof("kind") == "action" and command.action.WhichOneof("value") is None:
            command.action.text = ("wait", "go east", "go south")[next(dice) % 3]

    dice = itertools.count()
    commands(change)(lies)
    rename = lies.step

    def answer(request: pb.StepRequest, response: pb.StepResponse) -> None:
        rename(request, response)
        for result in response.results:
            if result.turn:
                result.outcome = pb.OUTCOME_NO_ACTION

    lies.step = answer


def skipped_turns_are_stepped(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.WhichOneof("kind") == "action" and command.action.WhichOneof("value") is None:
            command.action.text = "wait"

    commands(change)(lies)
    rename = lies.step

    def answer(request: pb.StepRequest, response: pb.StepResponse) -> None:
        rename(request, response)
        for command, result in zip(request.commands, response.results, strict=True):
            if command.WhichOneof("kind") == "action" and command.action.WhichOneof("value") is None:
                result.outcome = pb.OUTCOME_NO_ACTION
                result.ClearField("executed")

    lies.step = answer


def final_observations_are_the_next_episodes(lies: Lies) -> None:
    def answer(request: pb.StepRequest, response: pb.StepResponse) -> None:
        for result in response.results:
            key = (request.session, result.slot)
            if result.turn == 0:
                lies.memory[key] = pb.Observation.FromString(result.observation.SerializeToString())
                lies.memory[key, "frames"] = frames_of(response, result)
            elif result.end and key in lies.memory:
                looks = lies.memory[key]
                for image, first, pixels in zip(
                    result.observation.images, looks.images, lies.memory[key, "frames"], strict=True
                ):
                    block = response.blocks[image.block]
                    start = block.offset + image.index * block.stride
                    response.frames = response.frames[:start] + pixels + response.frames[start + len(pixels) :]
                    image.xxh64 = first.xxh64
                for part, first_part in zip(result.observation.parts, looks.parts, strict=True):
                    part.CopyFrom(first_part)

    lies.step = answer


def frames_of(response: pb.StepResponse, result: pb.SlotResult) -> list[bytes]:
    found = []
    for image in result.observation.images:
        block = response.blocks[image.block]
        start = block.offset + image.index * block.stride
        found.append(response.frames[start : start + block.height * block.width * block.channels])
    return found


def draws_into_the_neighbours_memory(lies: Lies) -> None:
    """A command of one slot overwrites the frames of another one."""

    def answer(request: pb.StepRequest, response: pb.StepResponse) -> None:
        session = lies.front._sessions[request.session]
        if session.transport == pb.TRANSPORT_SHARED_MEMORY and [command.slot for command in request.commands] == [1]:
            session.frames.memory[0:64] = bytes(64)

    lies.step = answer


def fail_every_third_turn(result: pb.SlotResult) -> None:
    if result.turn % 3 == 2:
        result.state = pb.SLOT_STATE_FAILED
        result.error.reason = "ENV_ERROR"
        for name in ("observation", "reward", "end", "success", "outcome", "executed", "terminated", "truncated"):
            result.ClearField(name)


def spelled_as_sent(lies: Lies) -> None:
    lies.step = lambda request, response: [
        put("executed.text", command.action.text)(result)
        for command, result in zip(request.commands, response.results, strict=True)
        if result.executed.text and command.action.text
    ]


def a_result_twice(response: pb.StepResponse) -> None:
    if response.results:
        response.results.append(response.results[0])


def in_the_wrong_order(response: pb.StepResponse) -> None:
    turned = [pb.SlotResult.FromString(result.SerializeToString()) for result in reversed(response.results)]
    del response.results[:]
    response.results.extend(turned)


def pending_without_need(lies: Lies) -> None:
    def answer(request: pb.StepRequest, response: pb.StepResponse) -> None:
        for result in response.results:
            if counted(lies, (request.session, result.slot, result.episode, result.turn)) == 0 and result.turn:
                name = (result.slot, result.episode, result.turn)
                result.Clear()
                result.slot, result.episode, result.turn = name
                result.state = pb.SLOT_STATE_PENDING

    lies.step = answer


def pending_shows_the_last_observation(lies: Lies) -> None:
    lies.step = lambda request, response: [
        result.observation.parts.add(text="soon")
        for result in response.results
        if result.state == pb.SLOT_STATE_PENDING
    ]


def the_limit_is_a_rule(result: pb.SlotResult) -> None:
    if result.end == pb.END_TIME_LIMIT:
        result.end = pb.END_RULE


def there_is_no_limit(result: pb.SlotResult) -> None:
    if result.end == pb.END_TIME_LIMIT:
        clear("end", "success", "truncated")(result)


def texts_are_cut(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        for action in (command.action, *command.reset.prefix) if command.HasField("reset") else (command.action,):
            if len(action.text) > 1000:
                action.text = action.text[:1000]
            if len(action.reply) > 1000:
                action.reply = action.reply[:1000]

    def safe(command: pb.Command) -> None:
        if command.WhichOneof("kind") is not None:
            change(command)

    commands(safe)(lies)


def bounds_count_characters(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.WhichOneof("kind") == "action" and "é" in command.action.text and len(command.action.text) <= 4096:
            command.action.text = "cut"

    commands(change)(lies)


def long_replies_are_refused(lies: Lies) -> None:
    def request(message: pb.StepRequest) -> None:
        if any(len(command.action.reply) > 10_000 for command in message.commands if command.HasField("action")):
            raise ContractError(Reason.ACTION_TOO_LARGE, "the reply is longer than 10,000 bytes")

    lies.step_request = request


def upper_case_is_not_understood(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.WhichOneof("kind") == "action" and command.action.text.isupper():
            command.action.text = "?"

    commands(change)(lies)


def part_of_a_text_will_do(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.WhichOneof("kind") == "action" and ", please" in command.action.text:
            command.action.text = command.action.text.replace(", please", "")

    commands(change)(lies)


def tensors_are_ignored(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.WhichOneof("kind") == "action" and command.action.WhichOneof("value") == "tensor":
            command.action.ClearField("tensor")

    commands(change)(lies)


def unknown_splits_are_the_default(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.HasField("reset") and command.reset.split not in ("", "endless", "ten"):
            command.reset.split = ""

    commands(change)(lies)


def tasks_go_round(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.HasField("reset") and command.reset.split == "ten" and command.reset.HasField("task"):
            command.reset.task %= 10

    commands(change)(lies)


def prefixes_are_cut(lies: Lies) -> None:
    async def around(request: pb.StepRequest, execute: Callable[[], Awaitable[bytes]]) -> bytes:
        response = pb.StepResponse.FromString(await execute())
        for result in response.results:
            if result.error.reason == "PREFIX_TOO_LONG":
                result.error.reason = "ENV_ERROR"
        return response.SerializeToString()

    lies.around_step = around


def resets_need_no_turn(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.HasField("reset"):
            command.turn = len(command.reset.prefix)

    commands(change)(lies)


def skipped_turns_are_made_up(lies: Lies) -> None:
    def change(command: pb.Command) -> None:
        if command.WhichOneof("kind") == "action" and command.turn == 2**31:
            command.turn = 1

    commands(change)(lies)


def slots_go_round(lies: Lies) -> None:
    commands(lambda command: put("slot", command.slot % 2)(command))(lies)


def the_last_of_a_slot_counts(lies: Lies) -> None:
    def request(message: pb.StepRequest) -> None:
        chosen = {command.slot: command for command in message.commands}
        if len(chosen) < len(message.commands):
            kept = [pb.Command.FromString(command.SerializeToString()) for command in chosen.values()]
            del message.commands[:]
            message.commands.extend(kept)

    lies.step_request = request


def only_shared_memory_lies(change: Callable[[pb.SharedMemory], object]) -> Plant:
    return opens(lambda response: change(response.shared) if response.HasField("shared") else None)


FAULTS = [
    # Server information and specs
    Fault("no instance", "I1", "handshake.passes_over_what_it_does_not_know", infos(clear("instance"))),
    Fault("another instance each time", "I1", "handshake.says_the_same_twice", another_instance_each_time),
    Fault("revision 0", "I1", "handshake.says_the_same_twice", infos(clear("revision"))),
    Fault(
        "inline is not offered",
        "I2",
        "handshake.says_the_same_twice",
        infos(put("transports", [pb.TRANSPORT_SHARED_MEMORY])),
    ),
    Fault("a feature twice", "I2", "handshake.says_the_same_twice", infos(lambda info: info.features.append("prefix"))),
    Fault(
        "an unknown transport is offered",
        "G2",
        "handshake.says_the_same_twice",
        infos(put("transports", [pb.TRANSPORT_INLINE, 9])),
    ),
    Fault("more slots are free than there are", "I3", "handshake.says_the_same_twice", infos(put("slots_free", 99))),
    Fault("slots are not counted", "I3", "handshake.counts_its_slots", slots_are_not_counted),
    Fault("GetServerInfo changes", "I4", "handshake.says_the_same_twice", info_forgets_the_expert),
    Fault("keepalive of 0", "I5", "handshake.passes_over_what_it_does_not_know", infos(put("keepalive.seconds", 0))),
    Fault("an env twice", "E1", "handshake.counts_its_slots", infos(lambda info: info.envs.append(info.envs[0]))),
    Fault(
        "an id without simulator",
        "E1",
        "handshake.passes_over_what_it_does_not_know",
        infos(put("envs.1.id", "SlowWalk")),
    ),
    Fault("two kinds of action", "E2", "handshake.says_the_same_twice", specs(put("action.max_text_bytes", 8))),
    Fault("no kind of action", "E2", "handshake.says_the_same_twice", specs(put("action.vocabulary", []))),
    Fault(
        "an action twice",
        "E2",
        "handshake.passes_over_what_it_does_not_know",
        specs(lambda spec: spec.action.vocabulary.append(" WAIT")),
    ),
    Fault("a default split that is none", "E3", "handshake.says_the_same_twice", specs(put("default_split", "train"))),
    Fault("a schema that is not JSON", "E4", SPECS, specs(put("options_schema", "{"))),
    Fault("a schema that is none", "E4", SPECS, specs(put("options_schema", '{"type": 7}'))),
    Fault(
        "a schema of numbers", "E4", "specs.options_fit_the_schema", specs(put("options_schema", '{"type": "number"}'))
    ),
    Fault(
        "options that break their schema",
        "E4",
        "specs.options_fit_the_schema",
        specs(put("options_schema", '{"required": ["x"], "type": "object"}')),
    ),
    Fault("bounds of rewards in the wrong order", "E5", "handshake.says_the_same_twice", specs(put("reward_min", 9.0))),
    Fault("a task without words", "E5", "handshake.says_the_same_twice", specs(clear("task"))),
    Fault(
        "GetServerInfo has another limit", "E6", "specs.are_those_of_the_session", infos(put("envs.0.max_turns", 41))
    ),
    Fault(
        "GetServerInfo has other provenance",
        "E6",
        "specs.are_those_of_the_session",
        infos(lambda info: info.envs[0].provenance.update(rules="0")),
    ),
    Fault("one digest for all", "E7", "specs.options_fit_the_schema", opens(put("provenance_digest", "x"))),
    Fault(
        "a digest for each session",
        "E7",
        SPECS,
        lambda lies: setattr(
            lies, "open", lambda request, response: put("provenance_digest", request.session)(response)
        ),
    ),
    # Open
    Fault("the spec of another env", "O7", "opening.opens_once_at_a_time", opens(put("spec.id", "checked/Run"))),
    Fault("options that are a list", "O7", "specs.are_those_of_the_session", opens(put("options_json", "[]"))),
    Fault("options are not completed", "O7 E4", "specs.options_fit_the_schema", opens(put("options_json", "{}"))),
    Fault("a lease of 0", "O6", "opening.opens_once_at_a_time", opens(clear("lease"))),
    Fault("a longer lease", "O6", "leases.end_sessions_that_are_silent", opens(put("lease.seconds", 3600))),
    Fault(
        "a transport that was not listed",
        "O2",
        "opening.refuses_what_is_out_of_bounds",
        opens(put("transport", pb.TRANSPORT_SHARED_MEMORY)),
    ),
    Fault(
        "inline where nothing fits",
        "O2",
        "opening.grants_a_transport_that_was_listed",
        open_requests(lambda request: request.transports.append(pb.TRANSPORT_INLINE)),
    ),
    Fault("no conflict at Open", "O3", "opening.conflicts_with_another_of_the_name", no_conflict_at_open),
    Fault(
        "half a conflict at Open", "O3", "opening.conflicts_with_another_of_the_name", conflict_with_the_options_only
    ),
    Fault("no repeat of Open", "O3", "opening.opens_once_at_a_time", no_repeat_of_open),
    Fault(
        "a repeated Open starts again", "O3", "opening.conflicts_with_another_of_the_name", a_repeated_open_starts_again
    ),
    Fault("any name will do", "O5", "opening.refuses_what_is_out_of_bounds", any_name_will_do),
    Fault(
        "0 slots are 1",
        "O11",
        "opening.refuses_what_is_out_of_bounds",
        open_requests(when(lambda request: not request.slots, put("slots", 1))),
    ),
    Fault(
        "leases of 0 are the default",
        "O11",
        "opening.refuses_what_is_out_of_bounds",
        open_requests(when(lambda request: request.lease.seconds <= 0, clear("lease"))),
    ),
    Fault(
        "unknown fallbacks are the default",
        "O11",
        "opening.refuses_what_is_out_of_bounds",
        open_requests(when(lambda request: request.fallback > 2, clear("fallback"))),
    ),
    Fault(
        "rewards that are no numbers",
        "O11",
        "opening.refuses_what_is_out_of_bounds",
        open_requests(
            when(lambda request: request.fallback_reward != request.fallback_reward, clear("fallback_reward"))
        ),
    ),
    Fault(
        "too many slots are a wrong request",
        "O9",
        "opening.refuses_more_slots_than_there_are",
        refusals("NO_FREE_SLOTS", "REQUEST_INVALID"),
    ),
    Fault(
        "as many slots as there are",
        "O9",
        "opening.refuses_more_slots_than_there_are",
        open_requests(lambda request: put("slots", min(request.slots, 14))(request)),
    ),
    Fault("another env for an unknown one", "O12", "opening.refuses_unknown_envs", another_env_is_opened),
    Fault(
        "required features are not read",
        "O13",
        "opening.grants_features_that_it_lists",
        open_requests(clear("required_features")),
    ),
    Fault(
        "a listed feature is missing",
        "O13",
        "opening.grants_features_that_it_lists",
        infos(lambda info: info.features.append("teleport")),
    ),
    Fault(
        "wrong options are ignored",
        "O14",
        SPECS,
        open_requests(when(lambda request: "max_turns" not in request.options_json, clear("options_json"))),
    ),
    Fault(
        "wrong options fail the env", "O14", "specs.options_fit_the_schema", refusals("OPTIONS_INVALID", "ENV_FAILED")
    ),
    Fault("refused Opens take slots", "O16", "opening.refuses_what_is_out_of_bounds", a_refused_open_takes_slots),
    Fault("Close frees nothing", "O15", "handshake.counts_its_slots", close_frees_nothing),
    Fault("Close of nothing fails", "O15", "handshake.counts_its_slots", close_of_nothing_fails),
    Fault(
        "random actions are refused",
        "O17",
        "opening.grants_random_actions_where_they_are_listed",
        lambda lies: setattr(lies, "open_request", refuse_random),
    ),
    Fault(
        "random actions are skipped",
        "A9",
        "actions.that_cannot_be_executed_are_drawn",
        open_requests(when(lambda request: request.fallback == pb.FALLBACK_RANDOM, put("fallback", pb.FALLBACK_SKIP))),
    ),
    Fault("the expert is not given", "R9", "opening.gives_expert_advice_where_it_has_it", results(clear("expert"))),
    Fault("the expert is given to all", "R9", PLAYED, advice_leaks),
    Fault(
        "the expert advises nonsense",
        "R9",
        "opening.gives_expert_advice_where_it_has_it",
        results(when(lambda result: result.HasField("expert"), put("expert.action.text", "fly"))),
    ),
    Fault(
        "a caption comes now and then",
        "R14",
        "opening.gives_expert_advice_where_it_has_it",
        results(when(lambda result: result.HasField("expert") and result.turn == 1, put("expert.caption", "A ball."))),
    ),
    Fault(
        "the expert is refused",
        "O8",
        "opening.gives_expert_advice_where_it_has_it",
        lambda lies: lies.patch.setattr(lies.front, "_allow_expert", False),
    ),
    # The table of commands
    Fault("repeats are executed", "T1", "idempotence.repeats_give_the_same_result", repeats_are_executed),
    Fault("repeats have other metrics", "T1", "idempotence.repeats_give_the_same_result", repeats_count_their_calls),
    Fault("repeats have other texts", "T1", "idempotence.repeats_give_the_same_result", repeats_lose_the_observation),
    Fault("whole batches are cached", "T1", "idempotence.parts", whole_batches_are_cached),
    Fault("prefixes pass over skipped turns", "D2", "determinism.of_a_prefix_with", prefixes_pass_over_skipped_turns),
    Fault("sessions share their slots", "D1", "determinism.of_two", sessions_share_their_slots),
    Fault("connections own their sessions", "K3", "connections.sessions_outlive_them", connections_own_their_sessions),
    Fault("content is not compared", "T2", "idempotence.other_content_is_a_conflict", content_is_not_compared),
    Fault("replies are not compared", "T2", "idempotence.other_content_is_a_conflict", replies_are_not_compared),
    Fault("conflicts are stale", "T2", "idempotence.other_content_is_a_conflict", refusals("CONFLICT", "STALE")),
    Fault(
        "stale commands get the last result", "T3", "order.older_names_are_stale", stale_commands_get_the_last_result
    ),
    Fault("stale commands are conflicts", "T3", "order.older_names_are_stale", refusals("STALE", "CONFLICT")),
    Fault("busy slots queue", "T4", "overlap.a_running", busy_slots_queue, env=SLOW),
    Fault("busy slots skip turns", "T4", "overlap.a_running", refusals("BUSY", "TURN_SKIPPED"), env=SLOW),
    Fault(
        "a reset of the running episode is a conflict",
        "T5",
        "order.resets_need_a_new_episode_and_their_turn",
        refusals("REQUEST_INVALID", "CONFLICT", "Step"),
    ),
    Fault("resets need no turn", "T6", "order.resets_need_a_new_episode_and_their_turn", resets_need_no_turn),
    Fault(
        "actions without an episode are unknown",
        "T7",
        "order.actions_need_an_episode",
        refusals("NOT_RESET", "EPISODE_ENDED"),
    ),
    Fault(
        "actions after the end are not reset",
        "T8",
        "order.ended_episodes_take_only_a_reset",
        refusals("EPISODE_ENDED", "NOT_RESET"),
    ),
    Fault("skipped turns are made up", "T9", "order.turns_are_not_skipped", skipped_turns_are_made_up),
    Fault("episodes are floats", "T10 T2", "determinism.of_large", episodes_are_floats),
    # Steps
    Fault(
        "results in the wrong order",
        "S8",
        "batches.results_are_in_the_order_of_the_commands",
        responses(in_the_wrong_order),
    ),
    Fault(
        "a result is missing",
        "S8",
        "batches.results_are_in_the_order_of_the_commands",
        responses(lambda response: response.results and response.results.pop()),
    ),
    Fault(
        "results of another turn",
        "S8",
        PLAYED,
        results(when(acted, lambda result: put("turn", result.turn + 1)(result))),
    ),
    Fault(
        "a result twice",
        "S8",
        "batches.results_are_in_the_order_of_the_commands",
        responses(a_result_twice),
    ),
    Fault("PENDING without need", "S5", PLAYED, pending_without_need),
    Fault("PENDING with an observation", "R10", "overlap.stragglers", pending_shows_the_last_observation, env=SLOW),
    Fault("the next command's result", "S5 S8", "overlap.a_batch", overtaken_calls_get_what_there_is, env=SLOW),
    Fault("responses above their bound", "S6", PLAYED, infos(put("max_response_bytes", 300))),
    Fault(
        "batches are executed up to the fault",
        "S9",
        "batches.a_refused_batch_changes_nothing",
        batches_are_executed_up_to_the_fault,
    ),
    Fault("slots go round", "S10", "batches.a_refused_batch_changes_nothing", slots_go_round),
    Fault("the last of a slot counts", "S10", "batches.a_refused_batch_changes_nothing", the_last_of_a_slot_counts),
    Fault(
        "unknown sessions are invalid",
        "S10",
        "batches.unknown_sessions_are_refused",
        refusals("SESSION_UNKNOWN", "REQUEST_INVALID"),
    ),
    Fault("one Step at a time", "S3", "overlap.steps_on", one_step_at_a_time),
    Fault("Steps wait for each other", "S3", "overlap.a_slow", steps_wait_for_each_other, env=SLOW),
    Fault("hang-ups end the session", "S4", "overlap.steps_finish", hang_ups_end_the_session, env=SLOW),
    Fault("hang-ups change the result", "S4", "overlap.steps_finish", hang_ups_are_not_forgiven, env=SLOW),
    Fault(
        "a smaller request than announced",
        "S7",
        "limits.requests_up_to_the_bound_are_read",
        infos(put("max_request_bytes", 20 << 20)),
    ),
    Fault(
        "a larger request than announced",
        "S7",
        "limits.requests_up_to_the_bound_are_read",
        infos(put("max_request_bytes", 1 << 20)),
    ),
    Fault("empty Steps are never answered", "S12", "batches.results", empty_steps_hang, timeout=0.5),
    Fault("draining all the time", "S11", PLAYED, responses(put("draining", True))),
    # Leases
    Fault("no lease is left", "L2", PLAYED, responses(clear("lease_left"))),
    Fault("more is left than was granted", "L2", PLAYED, responses(put("lease_left.seconds", 3600))),
    Fault("leases never end", "L1", "leases.end", leases_never_end),
    Fault("leases end early", "L2 L4 O3", "leases.end", leases_end_early),
    Fault("empty Steps renew nothing", "L2", "leases.end", empty_steps_renew_nothing),
    Fault("Open renews nothing", "L2", "leases.end", open_renews_nothing),
    Fault("leases end while a call waits", "L3", "leases.wait", leases_end_while_a_call_waits, env=SLOW),
    Fault("unknown sessions are opened again", "L4", "handshake.counts_its_slots", unknown_sessions_are_opened_again),
    # Determinism
    Fault("resets leak the last episode", "D1", SEEDS, resets_leak_the_last_episode),
    Fault("seeds depend on the slot", "D1", SEEDS, slots_share_their_seed),
    Fault("seeds are floats", "D1 D3", "determinism.of_a_task", seeds_are_floats),
    Fault("the seed chooses another task", "D3", "determinism.of_a_task", seeds_choose_no_task),
    Fault("tasks are ignored", "D3", "determinism.of_other", tasks_are_ignored),
    Fault("prefixes lose an action", "D2", "determinism.of_a_prefix_with_skipped_turns", prefixes_lose_an_action),
    Fault("replies are read", "D4", "determinism.of_replies", replies_are_read),
    # Actions
    Fault("tensors are ignored", "A1", "actions.tensors_are_checked", tensors_are_ignored),
    Fault("upper case is not understood", "A2 A7", "actions.mean", upper_case_is_not_understood),
    Fault("part of a text will do", "A7", "actions.mean", part_of_a_text_will_do),
    Fault("executed is spelled as it was sent", "A3", "actions.mean", spelled_as_sent),
    Fault("executed is not said", "A3", PLAYED, results(clear("executed"))),
    Fault("unknown splits are the default", "A4", "determinism.of_a_task", unknown_splits_are_the_default),
    Fault("tasks go round", "A4", "determinism.of_a_task", tasks_go_round),
    Fault("long prefixes are errors of the env", "A5", "ends.prefixes_reach_the_end_and_not_further", prefixes_are_cut),
    Fault("texts are cut", "A6", "actions.texts", texts_are_cut),
    Fault("bounds count characters", "A6", "actions.texts", bounds_count_characters),
    Fault("long replies are refused", "A6", "actions.texts", long_replies_are_refused),
    Fault(
        "all actions are executed",
        "A7",
        "actions.that_cannot_be_executed_are_skipped",
        results(when(skipped, put("outcome", pb.OUTCOME_EXECUTED))),
    ),
    Fault("no outcome", "A7", PLAYED, results(clear("outcome"))),
    Fault("skipped turns are stepped", "A8", "actions.that_cannot_be_executed_are_skipped", skipped_turns_are_stepped),
    Fault(
        "skipped turns are free",
        "A8",
        "actions.that_cannot_be_executed_are_skipped",
        results(when(skipped, clear("reward"))),
    ),
    Fault(
        "skipped turns say what was executed",
        "A8",
        "actions.that_cannot_be_executed_are_skipped",
        results(when(skipped, put("executed.text", "wait"))),
    ),
    Fault("random actions come from a die", "A9", "actions.that_cannot_be_executed_are_drawn", drawn_by_a_die),
    # Results
    Fault("no success at the end", "R1", PLAYED, results(clear("success"))),
    Fault("success before the end", "R1", PLAYED, results(when(acted, put("success", False)))),
    Fault("a reward that is no number", "R1", PLAYED, results(when(acted, put("reward", float("nan"))))),
    Fault(
        "an infinite metric", "R1", PLAYED, results(when(acted, lambda result: result.metrics.update(x=float("inf"))))
    ),
    Fault("READY without an observation", "R1", PLAYED, results(when(acted, clear("observation")))),
    Fault("FAILED without a reason", "R1", "order.a_failed_episode_takes_only_a_reset", results(clear("error"))),
    Fault("an image that no part names", "R2", PLAYED, results(lambda result: result.observation.parts.pop())),
    Fault("an empty part", "R2", PLAYED, results(lambda result: result.observation.parts.add())),
    Fault(
        "an admissible action of no vocabulary",
        "R3",
        PLAYED,
        results(lambda result: result.observation.admissible.append("fly")),
    ),
    Fault("a reward for a reset", "R4", PLAYED, results(when(is_reset, put("reward", 1.0)))),
    Fault("an outcome of a reset", "R4", PLAYED, results(when(is_reset, put("outcome", pb.OUTCOME_EXECUTED)))),
    Fault("a reward out of bounds", "R5", PLAYED, results(when(ended, put("reward", 7.0)))),
    Fault(
        "both flags",
        "R7",
        PLAYED,
        results(when(ended, lambda result: (put("terminated", True)(result), put("truncated", True)(result)))),
    ),
    Fault("no flags", "R7", PLAYED, results(clear("terminated", "truncated"))),
    Fault("the limit is a rule", "R8", "ends.a_shorter_limit_ends_episodes_as_they_are", results(the_limit_is_a_rule)),
    Fault("there is no limit", "R8", "ends.the_limit_of_turns_is_kept", results(there_is_no_limit)),
    Fault("every end is a limit", "R8", PLAYED, results(when(ended, put("end", pb.END_TIME_LIMIT)))),
    Fault("READY with an error", "R10", PLAYED, results(put("error.reason", "ENV_ERROR"))),
    Fault("every third turn fails", "R11", PLAYED, results(fail_every_third_turn)),
    Fault(
        "half a tensor", "R12", PLAYED, results(lambda result: put("data", b"x")(result.observation.tensors["place"]))
    ),
    Fault(
        "a tensor of objects",
        "R12",
        PLAYED,
        results(lambda result: put("dtype", "object")(result.observation.tensors["place"])),
    ),
    Fault(
        "the last observation is the next first",
        "R13",
        "ends.a_shorter_limit_ends_episodes_as_they_are",
        final_observations_are_the_next_episodes,
    ),
    Fault("an unknown end", "G2", PLAYED, results(when(ended, put("end", 9)))),
    Fault("an unknown state", "G2", PLAYED, results(put("state", 9))),
    Fault("an unknown outcome", "G2", PLAYED, results(put("outcome", 9))),
    # Frames
    Fault(
        "another hash", "F6", "frames.are_the_same_inline", images(lambda image: put("xxh64", image.xxh64 ^ 1)(image))
    ),
    Fault(
        "another image's pixels",
        "F6",
        "frames.are_the_same_inline",
        responses(lambda response: put("frames", response.frames[::-1])(response)),
    ),
    Fault(
        "the neighbour's pixels",
        "F6",
        "frames.are_the_same_in_shared_memory",
        images(lambda image: put("index", 0)(image)),
    ),
    Fault(
        "blocks beyond the frames",
        "F7",
        "frames.are_the_same_inline",
        blocks(lambda block: put("offset", block.offset + 10**7)(block)),
    ),
    Fault("two channels", "F7", "frames.are_the_same_inline", blocks(put("channels", 2))),
    Fault("a stride of 1", "F7", "frames.are_the_same_inline", blocks(put("stride", 1))),
    Fault("huge blocks", "F7", "frames.are_the_same_inline", blocks(put("height", 2**32 - 1))),
    Fault("an image of no block", "F7", "frames.are_the_same_inline", images(put("block", 77))),
    Fault("images of one name", "F8", PLAYED, images(put("name", "view"))),
    Fault(
        "frames beside shared memory",
        "F4",
        "frames.are_the_same_in_shared_memory",
        responses(lambda response: put("frames", b"x" * 10)(response)),
    ),
    Fault(
        "a nonce that differs",
        "F4",
        "frames.are_the_same_in_shared_memory",
        only_shared_memory_lies(put("nonce", b"x" * 16)),
    ),
    Fault(
        "a file that is not there",
        "F4",
        "frames.are_the_same_in_shared_memory",
        only_shared_memory_lies(put("path", "/nowhere")),
    ),
    Fault(
        "a file of another size",
        "F4",
        "frames.are_the_same_in_shared_memory",
        only_shared_memory_lies(put("size", 2**40)),
    ),
    Fault("shared memory is not described", "F4", "frames.are_the_same_in_shared_memory", opens(clear("shared"))),
    Fault("compressed frames", "F4", "frames.are_the_same_inline", blocks(put("compressed_size", 4))),
    Fault(
        "a slot draws over its neighbour",
        "F5",
        "frames.are_the_same_in_shared_memory",
        draws_into_the_neighbours_memory,
    ),
    # Checksums
    Fault(
        "a checksum of other bytes",
        "C1",
        "checksums.responses_have_checksums",
        lambda lies: setattr(lies, "raw", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    ),
    Fault(
        "no checksums",
        "C2",
        "checksums.responses_have_checksums",
        lambda lies: setattr(lies, "raw", lambda data: data[: -checksum.SIZE]),
    ),
    Fault(
        "wrong checksums are taken", "C3", "checksums.requests_with_wrong_checksums_do_nothing", checksums_are_not_read
    ),
    # Errors and the rest
    Fault("errors of gRPC alone", "X1", "order.older_names_are_stale", errors_are_grpcs_own),
    Fault("errors of another domain", "X1", "order.older_names_are_stale", errors_of_another_domain),
    Fault("errors with another status", "X2", "batches.a_refused_batch_changes_nothing", errors_with_another_status),
    Fault(
        "errors that contradict themselves",
        "X1 X2",
        "batches.a_refused_batch_changes_nothing",
        errors_that_contradict_themselves,
    ),
    Fault(
        "errors without words",
        "X2",
        "order.older_names_are_stale",
        lambda lies: setattr(lies, "refusal", lambda method, error: ContractError(error.reason, "")),
    ),
    Fault("broken bytes are taken", "X3", "limits.bytes_that_are_no_message", broken_bytes_are_taken),
    Fault("answers that are no messages", "X4", PLAYED, lambda lies: setattr(lies, "raw", lambda data: b"\xff\xff")),
    Fault(
        "unknown fields are refused", "G1", "handshake.passes_over_what_it_does_not_know", unknown_fields_are_refused
    ),
    Fault(
        "unknown transports are refused",
        "G1",
        "handshake.passes_over_what_it_does_not_know",
        lambda lies: setattr(lies, "open_request", refuse_unknown_transports),
    ),
]


def refuse_random(request: pb.OpenRequest) -> None:
    if request.fallback == pb.FALLBACK_RANDOM:
        raise ContractError(Reason.FEATURE_MISSING, "no random actions here")


def refuse_unknown_transports(request: pb.OpenRequest) -> None:
    if any(value not in pb.Transport.values() for value in request.transports):
        raise ContractError(Reason.REQUEST_INVALID, "there is no such transport")


@pytest.fixture(scope="module")
def server() -> Iterator[LyingServer]:
    server = LyingServer(WALK, SLOW_WALK, workers=2)  # a slow slot does not hold up its neighbour
    yield server
    server.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
def test_a_fault_is_found(server: LyingServer, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.lying(monkeypatch) as lies:
        fault.plant(lies)
        report = check_server(server.address, fault.env, only=fault.checks.split(), timeout=fault.timeout)
    assert set(report.broken) & set(fault.rules.split()), (
        report.broken,
        [replace(finding, sent=finding.sent[:200]) for finding in report.findings[:3]],
    )


def test_nothing_is_found_where_nothing_was_planted(server: LyingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.lying(monkeypatch):
        report = check_server(server.address, SLOW, only=("overlap.", "leases."))
    assert report.findings == []
    assert {"L1", "L2", "L3", "S3", "S4", "S5", "S8", "T4"} <= report.held
