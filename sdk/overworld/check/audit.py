"""What every answer must be, whatever was asked. Each function yields the faults of one message."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld.check.wire import Answer, Refusal
from overworld.contract.wire import tensor_from_proto
from overworld.errors import Reason
from overworld.v1 import env_pb2 as pb

TEXT_BYTES = 4096
"""Bound of an action's text where the env has a vocabulary."""

_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule that an answer breaks."""

    rule: str
    came: str
    expected: str


def refusal_faults(refusal: Refusal) -> Iterator[Fault]:
    """Of a refusal that has, or should have, a reason of the contract."""
    if refusal.problem:
        yield Fault("X1", f"{refusal}; {refusal.problem}", "a google.rpc.Status with one ErrorInfo of overworld.v1")
    known = Reason.__members__.get(refusal.reason)
    if known is not None and known.status != refusal.code:
        yield Fault("X2", str(refusal), f"{refusal.reason} comes with {known.status or 'SlotResult.error only'}")
    if not refusal.message.strip():
        yield Fault("X2", str(refusal), "a message: what was wrong, what was expected, what to do")


def info_faults(info: pb.GetServerInfoResponse) -> Iterator[Fault]:
    """Of GetServerInfo's response."""
    if not info.instance:
        yield Fault("I1", "instance is empty", "a random name of the process")
    if info.revision < 1:
        yield Fault("I1", f"revision is {info.revision}", "1 or more")
    if pb.TRANSPORT_INLINE not in info.transports:
        yield Fault("I2", f"transports are {_names(info.transports)}", "TRANSPORT_INLINE among them")
    for field, listed in (("transports", list(info.transports)), ("features", list(info.features))):
        if twice := [value for value, count in Counter(listed).items() if count > 1]:
            yield Fault("I2", f"{field} names {twice} twice", "each once")
    for value in info.transports:
        if value not in pb.Transport.values() or value == pb.TRANSPORT_UNSPECIFIED:
            yield Fault("G2", f"the transport {value} is offered", "a transport of env.proto")
    if not 0 <= info.slots_free <= info.slots_total or not info.slots_total:
        yield Fault(
            "I3", f"{info.slots_free} of {info.slots_total} slots are free", "at most slots_total, which is > 0"
        )
    if info.HasField("keepalive") and not _seconds(info.keepalive) > 0:
        yield Fault("I5", f"keepalive is {_seconds(info.keepalive):g} s", "more than 0 s, or not set")
    if not info.envs:
        yield Fault("E1", "no envs", "at least one env")
    for env_id, count in Counter(env.id for env in info.envs).items():
        if count > 1:
            yield Fault("E1", f"{count} envs have the id {env_id!r}", "one")
    for env in info.envs:
        yield from spec_faults(env)


def spec_faults(spec: pb.EnvSpec) -> Iterator[Fault]:
    """Of an env's description; the options are looked at elsewhere (rule E4)."""
    if not _ID.fullmatch(spec.id):
        yield Fault("E1", f"the id {spec.id!r}", "simulator/task, of letters, digits, _, - and .")
    yield from _action_spec_faults(spec)
    if spec.default_split not in spec.splits:
        yield Fault(
            "E3", f"{spec.id}: default_split is {spec.default_split!r}", f"one of the splits {sorted(spec.splits)}"
        )
    for field in ("task", "success"):
        if not getattr(spec, field).strip():
            yield Fault(
                "E5", f"{spec.id}: {field} is empty", "words for " + ("the agent", "people")[field == "success"]
            )
    if not (math.isfinite(spec.reward_min) and math.isfinite(spec.reward_max) and spec.reward_min <= spec.reward_max):
        yield Fault(
            "E5", f"{spec.id}: rewards from {spec.reward_min} to {spec.reward_max}", "finite bounds in that order"
        )


def _action_spec_faults(spec: pb.EnvSpec) -> Iterator[Fault]:
    action = spec.action
    kinds = {
        "vocabulary": bool(action.vocabulary),
        "max_text_bytes": action.max_text_bytes > 0,
        "low and high": action.HasField("low") or action.HasField("high"),
    }
    if sum(kinds.values()) != 1:
        described = [kind for kind, present in kinds.items() if present]
        yield Fault("E2", f"{spec.id}: actions are described by {described}", f"exactly one of {list(kinds)}")
    for text, count in Counter(map(folded, action.vocabulary)).items():
        if count > 1 or not text or len(text.encode()) > TEXT_BYTES:
            what = f"{count} entries that read {text!r}" if text else "a blank entry"
            yield Fault("E2", f"{spec.id}: the vocabulary has {what}", f"distinct texts of up to {TEXT_BYTES} bytes")
    if kinds["low and high"]:
        try:
            low, high = _array(action.low), _array(action.high)
            fits = (low.dtype, low.shape) == (high.dtype, high.shape) and bool(np.all(low <= high))
        except ValueError as error:
            yield Fault("E2", f"{spec.id}: {error}", "low and high of one dtype and shape")
            return
        if not fits:
            yield Fault(
                "E2",
                f"{spec.id}: low {low.dtype}{list(low.shape)}, high {high.dtype}{list(high.shape)}",
                "one dtype and shape, and low <= high",
            )


def open_faults(request: pb.OpenRequest, response: pb.OpenResponse, offered: Sequence[int]) -> Iterator[Fault]:
    """Of Open's response."""
    if response.spec.id != request.env_id:
        yield Fault("O7", f"the spec of {response.spec.id!r}", f"that of {request.env_id!r}")
    yield from spec_faults(response.spec)
    try:
        options = json.loads(response.options_json)
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        yield Fault("O7", f"options_json is {response.options_json[:100]!r}", "the complete options, a JSON object")
    lease = _seconds(response.lease)
    if not lease > 0:
        yield Fault("O6", f"a lease of {lease:g} s", "more than 0 s")
    elif request.HasField("lease") and lease > _seconds(request.lease) + 0.0011:
        yield Fault("O6", f"a lease of {lease:g} s", f"at most the {_seconds(request.lease):g} s that were asked for")
    allowed = [transport for transport in request.transports or (pb.TRANSPORT_INLINE,) if transport in offered]
    if response.transport not in allowed:
        yield Fault("O2", f"transport {response.transport}", f"one that was listed and is offered: {_names(allowed)}")
    if response.HasField("shared") != (response.transport == pb.TRANSPORT_SHARED_MEMORY):
        yield Fault(
            "F4",
            f"shared is {'' if response.HasField('shared') else 'not '}set with transport {response.transport}",
            "set with TRANSPORT_SHARED_MEMORY only",
        )
    if not response.provenance_digest:
        yield Fault("E7", "provenance_digest is empty", "a hash over provenance and options")


def step_faults(
    answer: Answer, *, lease: float, max_response_bytes: int, draining: bool, min_ready_works: bool
) -> Iterator[Fault]:
    """Of Step's response as a whole; `result_faults` looks at each result."""
    request, response = answer.request, answer.response
    assert isinstance(request, pb.StepRequest)
    asked = [_name(command) for command in request.commands]
    given = [_name(result) for result in response.results]
    if asked != given:
        yield Fault("S8", f"results of {given[:8]}", f"of {asked[:8]} (slot, episode, turn)")
    pending = sum(result.state == pb.SLOT_STATE_PENDING for result in response.results)
    wanted = min(request.min_ready or len(asked), len(asked)) if min_ready_works else len(asked)
    if len(given) - pending < wanted and len(asked) == len(given):
        yield Fault("S5", f"{pending} of {len(given)} are PENDING", f"at least {wanted} results")
    if max_response_bytes and answer.size > max_response_bytes:
        yield Fault("S6", f"{answer.size:,} bytes", f"at most max_response_bytes, {max_response_bytes:,}")
    left = _seconds(response.lease_left)
    if not 0 < left <= lease + 0.0011:
        yield Fault("L2", f"lease_left is {left:g} s", f"above 0 and at most the lease of {lease:g} s")
    if response.draining and not draining:
        yield Fault("S11", "draining is set", "not set, as GetServerInfo says")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What is known about the turn that a result is about."""

    spec: pb.EnvSpec
    command: pb.Command
    fallback: int
    expert: bool
    before: pb.SlotResult | None
    """The result of the turn before, where it is known."""

    @property
    def action(self) -> pb.Action | None:
        """The action that the result is of; None for a reset without prefix."""
        if self.command.WhichOneof("kind") == "action":
            return self.command.action
        prefix = self.command.reset.prefix
        return prefix[-1] if prefix else None


def result_faults(turn: Turn, result: pb.SlotResult) -> Iterator[Fault]:
    """Of one result, frames aside."""
    for field, enum in (("state", pb.SlotState), ("end", pb.End), ("outcome", pb.Outcome)):
        if (value := getattr(result, field)) not in enum.values() or (field == "state" and not value):
            yield Fault("G2", f"{field} is {value}", f"a value of {enum.DESCRIPTOR.name} in env.proto")
    if result.state == pb.SLOT_STATE_PENDING:
        yield from _pending_faults(result)
    elif result.state == pb.SLOT_STATE_FAILED:
        if not result.error.reason:
            yield Fault("R1", "FAILED without a reason", "error.reason, e.g. ENV_ERROR")
        known = Reason.__members__.get(result.error.reason)
        if known is not None and known.status is not None:
            yield Fault("X2", f"error.reason {result.error.reason}", "a reason of slots; this one is for calls")
    else:
        if result.HasField("error"):
            yield Fault("R10", "error is set in a READY result", "with SLOT_STATE_FAILED only")
        yield from _ready_faults(result)
        yield from _observation_faults(turn.spec, result.observation)
        yield from _end_faults(turn, result)
        yield from _action_faults(turn, result)
        yield from _advice_faults(turn, result)


def _pending_faults(result: pb.SlotResult) -> Iterator[Fault]:
    extra = [field.name for field, _ in result.ListFields() if field.name not in ("slot", "episode", "turn", "state")]
    if extra:
        yield Fault("R10", f"a PENDING result with {extra}", "slot, episode, turn and state only")


def _ready_faults(result: pb.SlotResult) -> Iterator[Fault]:
    if not result.HasField("observation"):
        yield Fault("R1", "READY without an observation", "what the agent sees now")
    if not math.isfinite(result.reward):
        yield Fault("R1", f"a reward of {result.reward}", "a finite number")
    for name, value in result.metrics.items():
        if not math.isfinite(value):
            yield Fault("R1", f"the metric {name!r} is {value}", "a finite number")
    if result.HasField("success") != bool(result.end):
        yield Fault(
            "R1",
            f"end is {result.end}, success is {'' if result.HasField('success') else 'not '}set",
            "both at an episode's end, before it neither",
        )
    flags = (result.terminated, result.truncated)
    allowed = {
        pb.END_UNSPECIFIED: [(False, False)],
        pb.END_TASK: [(True, False)],
        pb.END_TIME_LIMIT: [(False, True)],
    }.get(result.end, [(True, False), (False, True)])
    if flags not in allowed:
        yield Fault("R7", f"end is {result.end}, terminated and truncated are {flags}", f"one of {allowed}")


def _observation_faults(spec: pb.EnvSpec, look: pb.Observation) -> Iterator[Fault]:
    named = [part.image for part in look.parts if part.WhichOneof("kind") == "image"]
    if any(part.WhichOneof("kind") is None for part in look.parts):
        yield Fault("R2", "a part is empty", "a text or the index of an image")
    if sorted(named) != list(range(len(look.images))):
        yield Fault("R2", f"the parts name the images {named[:20]} of {len(look.images)}", "each once, and no other")
    names = [image.name for image in look.images]
    if len(set(names)) != len(names) or "" in names:
        yield Fault("F8", f"images have the names {names}", "a name each, unique in the observation")
    vocabulary = set(spec.action.vocabulary)
    if vocabulary:
        for text in look.admissible:
            if text not in vocabulary:
                yield Fault("R3", f"{text!r} is admissible", "an entry of the vocabulary, spelled as there")
    for name, tensor in look.tensors.items():
        try:
            tensor_from_proto(tensor)
        except ValueError as error:
            yield Fault("R12", f"the tensor {name!r}: {error}", "elements of a known dtype, as many as shape says")


def _end_faults(turn: Turn, result: pb.SlotResult) -> Iterator[Fault]:
    limit = turn.spec.max_turns
    if limit and (result.turn > limit or (result.turn == limit and not result.end)):
        yield Fault(
            "R8", f"turn {result.turn} with end {result.end}", f"an end at turn {limit} (max_turns) at the latest"
        )
    if result.end == pb.END_TIME_LIMIT and result.turn != limit:
        yield Fault(
            "R8", f"END_TIME_LIMIT at turn {result.turn}", f"at turn {limit} (max_turns)" if limit else "no limit"
        )


def _action_faults(turn: Turn, result: pb.SlotResult) -> Iterator[Fault]:
    action = turn.action
    if action is None:
        if result.reward != 0 or result.outcome or result.HasField("executed"):
            yield Fault(
                "R4",
                f"a reset with the reward {result.reward:g}, outcome {result.outcome} and "
                f"{'an' if result.HasField('executed') else 'no'} executed action",
                "0, and none of both",
            )
        return
    allowed = meant(turn.spec, turn.before, action)
    if allowed is not None and result.outcome != allowed[0]:
        yield Fault("A7", f"{_action(action)} had outcome {_outcome(result.outcome)}", _outcome(allowed[0]))
    elif not result.outcome:
        yield Fault("A7", f"{_action(action)} had no outcome", "EXECUTED, NO_ACTION or NOT_ADMISSIBLE")
    choices = turn.before.observation.admissible if turn.before is not None else ()
    choices = choices or turn.spec.action.vocabulary
    executed = result.executed if result.HasField("executed") else None
    if result.outcome == pb.OUTCOME_EXECUTED:
        yield from _executed_faults(action, executed, allowed[1] if allowed is not None else None, choices)
    elif turn.fallback == pb.FALLBACK_RANDOM:
        if choices and (executed is None or executed.text not in choices):
            yield Fault("A9", f"executed is {_action(executed)}", f"one of {list(choices)[:20]}")
    else:
        if executed is not None:
            yield Fault("A8", f"executed is {_action(executed)}", "not set, since the turn was skipped")
        if turn.before is not None and turn.before.HasField("observation"):
            was, now = (
                [(image.name, image.xxh64) for image in look.observation.images] for look in (turn.before, result)
            )
            if was != now:
                yield Fault("A8", "the images changed in a skipped turn", "those of the turn before")
    spec = turn.spec
    stepped = result.outcome == pb.OUTCOME_EXECUTED or executed is not None
    if stepped and spec.reward_min < spec.reward_max:
        slack = 1e-6 * max(1.0, abs(spec.reward_min), abs(spec.reward_max))
        if math.isfinite(result.reward) and not spec.reward_min - slack <= result.reward <= spec.reward_max + slack:
            yield Fault("R5", f"a reward of {result.reward:g}", f"{spec.reward_min:g} to {spec.reward_max:g}")


def _executed_faults(
    action: pb.Action, executed: pb.Action | None, meant_text: str | None, choices: Sequence[str]
) -> Iterator[Fault]:
    if executed is None or executed.WhichOneof("value") is None:
        yield Fault("A3", "outcome EXECUTED and no executed action", "the action that was executed")
    elif action.WhichOneof("value") == "tensor":
        if executed.tensor != action.tensor:
            yield Fault("A3", "executed is another tensor than the one that was sent", "the same tensor")
    elif meant_text is not None and executed.text != meant_text:
        yield Fault("A3", f"executed is {_action(executed)} for {_action(action)}", f"{meant_text!r}, as it is listed")
    elif choices and executed.text not in choices:
        yield Fault("A3", f"executed is {_action(executed)}", f"one of {list(choices)[:20]}")


def _advice_faults(turn: Turn, result: pb.SlotResult) -> Iterator[Fault]:
    given = result.HasField("expert")
    if given != (turn.expert and not result.end):
        when = "at an episode's end" if result.end else f"in a session opened with{'' if turn.expert else 'out'} expert"
        yield Fault("R9", f"{'' if given else 'no '}advice {when}", "no advice" if given else "advice")
    elif given:
        kind, text = result.expert.action.WhichOneof("value"), result.expert.action.text
        choices = result.observation.admissible or turn.spec.action.vocabulary
        if kind != "text" or (choices and not any(folded(text) == folded(choice) for choice in choices)):
            yield Fault("R9", f"the expert advises {_action(result.expert.action)}", "an admissible text")
        yield from _caption_faults(turn, result)


def _caption_faults(turn: Turn, result: pb.SlotResult) -> Iterator[Fault]:
    caption, before = result.expert.caption, turn.before
    if not result.observation.images:
        if caption:
            yield Fault("R14", f"the caption {caption[:100]!r} and no images", "no caption")
    elif (
        before is not None
        and before.HasField("expert")
        and before.observation.images
        and bool(caption) != bool(before.expert.caption)
    ):
        given, missing = ("this turn", "the one before") if caption else ("the turn before", "this one")
        yield Fault("R14", f"a caption in {given} and none in {missing}", "captions in both or in neither")


def meant(spec: pb.EnvSpec, before: pb.SlotResult | None, action: pb.Action) -> tuple[int, str | None] | None:
    """The outcome that the contract asks for, and the text that is executed where it is known.

    None where the outcome is the server's own choice, or depends on a turn that is not known.
    """
    kind = action.WhichOneof("value")
    if kind is None:
        return pb.OUTCOME_NO_ACTION, None
    vocabulary = spec.action.vocabulary
    if kind == "tensor":
        return (pb.OUTCOME_EXECUTED if _within(spec.action, action.tensor) else pb.OUTCOME_NOT_ADMISSIBLE), None
    if kind == "index":
        if action.index >= len(vocabulary):
            return pb.OUTCOME_NOT_ADMISSIBLE, None
        text = vocabulary[action.index]
    else:
        text = action.text
    if before is None and not vocabulary:
        return None
    if before is None:  # the vocabulary may be narrowed
        known = any(folded(text) == folded(entry) for entry in vocabulary)
        return None if known or not text.isascii() else (pb.OUTCOME_NOT_ADMISSIBLE, None)
    choices = before.observation.admissible or vocabulary
    if not choices:
        return None
    found = [choice for choice in choices if choice == text] or [
        choice for choice in choices if folded(choice) == folded(text)
    ]
    if found:
        return pb.OUTCOME_EXECUTED, found[0]
    return (pb.OUTCOME_NOT_ADMISSIBLE, None) if text.isascii() else None


def folded(text: str) -> str:
    """`text` as actions are compared: trimmed, runs of white space as one space, ASCII letters in lower case."""
    return re.sub(r"[A-Z]+", lambda letters: letters[0].lower(), " ".join(text.split()))


def _within(spec: pb.ActionSpec, tensor: pb.Tensor) -> bool:
    try:
        low, high, value = (_array(each) for each in (spec.low, spec.high, tensor))
    except ValueError:
        return False
    return (value.dtype, value.shape) == (low.dtype, low.shape) and bool(np.all((low <= value) & (value <= high)))


def _array(tensor: pb.Tensor) -> NDArray[Any]:
    return tensor_from_proto(tensor)


def _name(message: pb.Command | pb.SlotResult) -> tuple[int, int, int]:
    return message.slot, message.episode, message.turn


def _names(transports: Sequence[int]) -> list[str]:
    known = pb.Transport.values()
    return [pb.Transport.Name(value) if value in known else str(value) for value in transports]


def _outcome(value: int) -> str:
    return pb.Outcome.Name(value) if value in pb.Outcome.values() else str(value)


def _action(action: pb.Action | None) -> str:
    if action is None or action.WhichOneof("value") is None:
        return "no action"
    kind = action.WhichOneof("value")
    return f"the {kind} {getattr(action, kind)!r:.100}" if kind != "tensor" else "a tensor"


def _seconds(duration: object) -> float:
    return getattr(duration, "seconds", 0) + getattr(duration, "nanos", 0) / 1e9
