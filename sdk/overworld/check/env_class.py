"""Checks an `Env` class in this process: what it returns, what its spec promises, what its episodes depend on."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld.authoring import catalogue
from overworld.authoring.concurrency import resolved, wait_for
from overworld.authoring.env import Action, End, Env, EnvSpec, Expert, Image, Observation, Transition
from overworld.check.audit import spec_faults
from overworld.check.author import Called, call, disturb_global_chance, located
from overworld.check.findings import Finding, shortened
from overworld.check.running import Report
from overworld.contract.frames import pixels_hash
from overworld.contract.wire import action_from_proto, action_to_proto, spec_to_proto, tensor_to_proto
from overworld.errors import OverworldError, SettingsError
from overworld.v1 import env_pb2 as pb

_TURNS = 30
_SECONDS = 3.0
"""That an episode is played at most."""
_RULES = ("P1", "P2", "P3", "P4")

Seen = tuple[Any, ...]
"""What a turn showed, in a form that can be compared."""


class _GiveUpError(Exception):
    """The env cannot be played further; the finding is recorded."""


@dataclass(slots=True)
class _Played:
    """An episode: where it began, what was done, and what was seen."""

    seed: int
    split: str
    task: int | None
    actions: list[Action | None] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    where: list[str] = field(default_factory=list)


def check_env(name: str, *, timeout: float = 20.0, on_check: Callable[[str], None] = lambda name: None) -> Report:
    """Checks the envs that `name` stands for: module:Class, a simulator, or an env id.

    A call of the author's code may take `timeout` seconds. Raises SettingsError if there is no such class.
    """
    started = time.monotonic()
    classes = load(name)
    report = Report(subject=name, envs=list(classes))
    for env_id, env_class in classes.items():
        on_check(env_id)
        _EnvCheck(name, env_id, env_class, report, timeout).run()
    report.held = set(_RULES) - {finding.rule for finding in report.findings}
    report.seconds = time.monotonic() - started
    return report


def load(name: str) -> dict[str, type[Env]]:
    """Env id -> class; modules of the current folder are found, too. Raises SettingsError."""
    try:
        return catalogue.load([name])
    except OverworldError:
        raise
    except Exception as error:
        raise SettingsError(f"{name} cannot be imported: {type(error).__name__}: {error}") from None


class _EnvCheck:
    def __init__(self, name: str, env_id: str, env_class: type[Env], report: Report, seconds: float) -> None:
        self._name, self._id, self._class, self._report, self._seconds = name, env_id, env_class, report, seconds

    def run(self) -> None:
        try:
            self._check_spec()
            first, second = self._make(), self._make()
            disturb_global_chance(0)
            played = [self._play(first, seed) for seed in (1, 2, 3)]
            self._check_splits(first)
            self._again(second, played[0], "P3", "a new instance gives another episode")
            for state in (1, 2, 3, 4):  # where there are few outcomes, one may be the same by chance
                told = "it depends on a global random generator, which the seed does not set"
                self._again(second, played[0], "P4", told, state)
            self._again(first, played[0], "P3", "after other episodes the same one is different")
            self._side_by_side(first, second, played)
            if not self._report.findings:  # else it would only be found once more
                self._in_another_process(played[0])
            self._advise(played)
            for env in (first, second):
                self._call(env.close)
        except _GiveUpError:
            pass  # what is wrong stands in the report; nothing after it could be judged
        self._report.checks += 1

    def _record(self, rule: str, where: str, sent: str, came: str, expected: str) -> None:
        target = self._report.advice if rule in ("R6", "D5") else self._report.findings
        finding = Finding(
            rule=rule, check=where, env=self._id, sent=sent, came=shortened(came), expected=shortened(expected)
        )
        if finding not in target and sum(found.rule == rule and found.env == self._id for found in target) < 5:
            target.append(finding)

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Called:
        """Calls a method of the env. What it raises is a finding, after which nothing more is asked of the env."""
        called = call(method, *arguments, seconds=self._seconds)
        if called.error is not None:
            error = called.error
            sent = f"{called.name}({', '.join(shortened(repr(argument), 60) for argument in arguments)})"
            self._record("P1", called.where, sent, f"{type(error).__name__}: {error}", "no exception")
            raise _GiveUpError
        return called

    def _make(self) -> Env:
        options = self._call(self._class.options_model).value
        env: Env = self._call(self._class, options).value
        return env

    def _check_spec(self) -> None:
        spec, where = self._class.spec, located(self._class)
        if not isinstance(spec, EnvSpec):
            self._record("P1", where, "spec", f"{spec!r}", "an EnvSpec")
            raise _GiveUpError
        try:
            message = spec_to_proto(spec)
        except (TypeError, ValueError) as error:
            self._record("P2", where, "spec", str(error), "fields as in the contract's EnvSpec")
            raise _GiveUpError from None
        for fault in spec_faults(message):
            self._record("P2", where, "spec", fault.came, fault.expected)

    def _check_splits(self, env: Env) -> None:
        for split, size in sorted(env.spec.splits.items())[:5]:
            for task in (0, size - 1) if size else (None,):
                called = self._call(env.reset, 4, split, task)
                self._check_observation(called, called.value, env.spec)

    def _play(self, env: Env, seed: int, again: _Played | None = None) -> _Played:
        """An episode with actions drawn, or with those of another one."""
        split = env.spec.default_split
        size = env.spec.splits.get(split, 0)
        played = _Played(seed, split, seed % size if size else None)
        for _ in self._turns(env, played, again):
            continue
        return played

    def _turns(self, env: Env, played: _Played, again: _Played | None = None) -> Iterator[None]:
        chance = random.Random(f"{self._id} {played.seed}")
        started = time.monotonic()
        called = self._call(env.reset, played.seed, played.split, played.task)
        look = self._check_observation(called, called.value, env.spec)
        played.seen.append(_seen(look))
        played.where.append(called.where)
        metrics: Mapping[str, float] = {}
        while True:
            yield
            turn = len(played.actions)
            if again is not None and turn == len(again.actions):
                return
            if again is None and (turn == _TURNS or time.monotonic() - started > _SECONDS):
                self._check_won(env)
                return
            if again is not None:
                action = again.actions[turn]
            else:
                action = None if turn == 1 else self._choose(env, look, chance)
            called, sent = self._move(env, action, look, metrics)
            transition = self._check_transition(called, env.spec, sent)
            if action is None:
                self._check_skipped(called, look, played.seen[-1])
            played.actions.append(action)
            look, metrics = transition.observation, transition.metrics
            played.seen.append(_turn(transition))
            played.where.append(called.where)
            if transition.end is not None:
                return

    def _choose(self, env: Env, look: Observation, chance: random.Random) -> Action:
        spec = env.spec
        if spec.has_expert:
            called = self._call(env.expert)
            if not isinstance(called.value, Expert):
                self._record("P1", called.where, called.name, _kind(called.value), "an Expert")
                raise _GiveUpError
            caption = self._call(env.caption)
            if not isinstance(caption.value, str) or (caption.value and not look.images):
                expected = "a text, empty where there are no pictures"
                self._record("P1", caption.where, caption.name, _kind(caption.value), expected)
            advice = called.value.action
            if self._call(env.resolve, advice, look).value is None:
                self._record("P2", called.where, called.name, f"it advises {advice!r}", "an admissible action")
            elif chance.random() < 0.5:
                return advice
        if spec.action.low is not None and spec.action.high is not None:
            share = chance.random()
            drawn = np.clip(spec.action.low, -1e6, None) * (1 - share) + np.clip(spec.action.high, None, 1e6) * share
            tensor: NDArray[Any] = np.clip(drawn.astype(spec.action.low.dtype), spec.action.low, spec.action.high)
            return tensor
        texts = look.admissible or spec.action.vocabulary
        return chance.choice(texts) if texts else "look"

    def _check_transition(self, called: Called, spec: EnvSpec, sent: str) -> Transition:
        transition = called.value
        if not isinstance(transition, Transition):
            self._record("P1", called.where, sent, _kind(transition), "a Transition(observation, reward, ...)")
            raise _GiveUpError
        self._check_observation(called, transition.observation, spec)
        reward = transition.reward
        if not isinstance(reward, int | float | np.number) or isinstance(reward, bool):
            self._record("P1", called.where, sent, f"the reward is {_kind(reward)}", "a number")
        elif spec.reward_min < spec.reward_max and not spec.reward_min - 1e-9 <= reward <= spec.reward_max + 1e-9:
            self._record(
                "P2",
                called.where,
                sent,
                f"a reward of {reward:g}",
                f"{spec.reward_min:g} to {spec.reward_max:g}, as the spec says",
            )
        if transition.end is not None and transition.end not in (End.TASK, End.RULE):
            self._record(
                "P2",
                called.where,
                sent,
                f"end is {transition.end!r}",
                "End.TASK or End.RULE; End.TIME_LIMIT is the host's",
            )
        if transition.end is not None and not isinstance(transition.success, bool | np.bool_):
            self._record("P1", called.where, sent, f"success is {_kind(transition.success)}", "True or False")
        for name, value in transition.metrics.items():
            if not isinstance(name, str) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
                self._record("P1", called.where, sent, f"the metric {name!r} is {value!r}", "a finite number by name")
        return transition

    def _check_observation(self, called: Called, look: Any, spec: EnvSpec) -> Observation:
        if not isinstance(look, Observation):
            self._record("P1", called.where, called.name, _kind(look), "an Observation((part, ...))")
            raise _GiveUpError
        for part in look.parts if isinstance(look.parts, tuple) else [look.parts]:
            if not isinstance(part, str | Image):
                self._record(
                    "P1", called.where, called.name, f"a part is {_kind(part)}", "parts=(text or Image, ...), a tuple"
                )
                raise _GiveUpError
        names = [image.name for image in look.images]
        if len(set(names)) != len(names):
            self._record(
                "P2", called.where, called.name, f"images have the names {names}", "a name of its own for each"
            )
        for text in look.admissible:
            if spec.action.vocabulary and text not in spec.action.vocabulary:
                self._record("P2", called.where, called.name, f"{text!r} is admissible", "an entry of the vocabulary")
        for name, array in look.tensors.items():
            try:
                tensor_to_proto(array)
            except (AttributeError, TypeError, ValueError) as error:
                self._record("P1", called.where, called.name, f"the tensor {name!r}: {error}", "a NumPy array")
                raise _GiveUpError from None
        return look

    def _move(
        self, env: Env, action: Action | None, look: Observation, metrics: Mapping[str, float]
    ) -> tuple[Called, str]:
        """Executes the action, or skips the turn if there is none or it is not admissible."""
        executed = None if action is None else self._call(env.resolve, action, look).value
        if executed is not None:
            called = self._call(env.step, executed)
            return called, f"{called.name}({executed!r})"
        if action is not None and (look.admissible or env.spec.action.vocabulary):
            where = located(type(env).resolve)
            self._record("P1", where, f"resolve({action!r}, ...)", "None", "the action: it is listed in this turn")
            raise _GiveUpError
        called = self._call(env.skip, look, metrics)
        return called, f"{called.name}(...)"

    def _check_skipped(self, called: Called, look: Observation, before: Seen) -> None:
        if look.images and _images(called.value.observation) != [
            part[2] for part in before[0] if isinstance(part, tuple)
        ]:
            came, expected = "other images than before", "the same images: the simulator is not stepped"
            self._record("P2", called.where, called.name, came, expected)

    def _check_won(self, env: Env) -> None:
        called = self._call(env.won)
        if not isinstance(called.value, bool | np.bool_):
            self._record("P1", called.where, called.name, _kind(called.value), "True or False")

    def _again(self, env: Env, first: _Played, rule: str, what: str, state: int = 0) -> None:
        """Plays the episode again, with Python's and NumPy's global generators in some state."""
        disturb_global_chance(state)
        self._compare(first, self._play(env, first.seed, again=first), rule, what)

    def _side_by_side(self, one: Env, other: Env, played: list[_Played]) -> None:
        """Two instances play in turns; each must give what it gave alone."""
        pairs = [(one, played[0]), (other, played[1])]
        now = [_Played(first.seed, first.split, first.task) for _, first in pairs]
        running = [self._turns(env, again, first) for (env, first), again in zip(pairs, now, strict=True)]
        while running:
            running = [turns for turns in running if next(turns, StopIteration) is not StopIteration]
        for (_, first), again in zip(pairs, now, strict=True):
            self._compare(first, again, "P3", "two instances that play in turns disturb each other")

    def _compare(self, first: _Played, again: _Played, rule: str, what: str) -> None:
        for turn, (one, other) in enumerate(zip(first.seen, again.seen, strict=False)):
            if one != other:
                at = "reset" if turn == 0 else f"turn {turn}"
                came, expected = _difference(other, one)
                self._record(
                    rule,
                    again.where[turn],
                    f"seed {first.seed} and the same {len(first.actions)} actions again",
                    f"{what}: at {at} {came}",
                    f"{expected}, as before",
                )
                return

    def _in_another_process(self, first: _Played) -> None:
        """Another process has another order of sets, and other globals."""
        request = {
            "name": self._name,
            "env": self._id,
            "seed": first.seed,
            "split": first.split,
            "task": first.task,
            "actions": [action_to_proto(action).SerializeToString().hex() for action in first.actions],
        }
        try:
            done = subprocess.run(
                [sys.executable, "-m", "overworld.check.replay"],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                timeout=60 + self._seconds,
                env=os.environ | {"PYTHONHASHSEED": "4242"},
            )
        except subprocess.TimeoutExpired:
            self._record("P4", located(self._class), "the same episode in another process", "it did not end", "its end")
            return
        if done.returncode:
            words = done.stderr.strip().splitlines()[-1:] or ["no words"]
            self._record(
                "P4", located(self._class), "the same episode in another process", words[0], "the same episode"
            )
            return
        seen = json.loads(done.stdout.splitlines()[-1])
        ours = [repr(turn) for turn in first.seen]
        for turn, (one, other) in enumerate(zip(ours, seen, strict=False)):
            if one != other:
                self._record(
                    "P4", first.where[turn], f"seed {first.seed} and the same actions in another process",
                    f"another {'reset' if turn == 0 else f'turn {turn}'}: {other}", one,
                )  # fmt: skip
                return

    def _advise(self, played: list[_Played]) -> None:
        spec = self._class.spec
        if spec.splits.get(spec.default_split, 0) == 0 and len({each.seen[0] for each in played}) == 1:
            expected = "different episodes, unless there is only one"
            where = located(self._class.reset)
            self._record("D5", where, f"resets with {len(played)} seeds", "one and the same start", expected)
        turns = [turn for each in played for turn in each.seen]
        sizes = {tuple(part[:2] for part in turn[0] if isinstance(part, tuple)) for turn in turns}
        if len(sizes) > 1:
            came = f"images {sorted(sizes)[:4]}"
            self._record("R6", located(self._class.step), "some episodes", came, "one size each")


def replayed(request: dict[str, Any]) -> list[str]:
    """The turns of an episode, for a comparison with another process; `request` is what `_in_another_process` sends."""
    env = load(request["name"])[request["env"]]()
    look = wait_for(resolved(env.reset(request["seed"], request["split"], request["task"])))
    metrics: Mapping[str, float] = {}
    seen: list[Seen] = [_seen(look)]
    for data in request["actions"]:
        action = action_from_proto(pb.Action.FromString(bytes.fromhex(data)))
        executed = None if action is None else env.resolve(action, look)
        transition = env.skip(look, metrics) if executed is None else wait_for(resolved(env.step(executed)))
        look = transition.observation
        metrics = transition.metrics
        seen.append(_turn(transition))
    return [repr(turn) for turn in seen]


def _turn(transition: Transition) -> Seen:
    metrics = tuple(sorted(transition.metrics.items()))
    return (*_seen(transition.observation), transition.reward, transition.end, transition.success, metrics)


def _images(look: Observation) -> list[int]:
    return [pixels_hash(image.pixels) for image in look.images]


def _seen(look: Observation) -> Seen:
    parts = tuple(
        part if isinstance(part, str) else (part.name, part.pixels.shape, pixels_hash(part.pixels))
        for part in look.parts
    )
    tensors = tuple((name, array.tobytes()) for name, array in sorted(look.tensors.items()))
    return parts, tuple(look.admissible), tensors


def _difference(one: Seen, other: Seen) -> tuple[str, str]:
    names = ("parts", "admissible", "tensors", "reward", "end", "success", "metrics")
    for name, mine, theirs in zip(names, one, other, strict=False):
        if mine != theirs:
            return f"{name} {mine!r}", f"{name} {theirs!r}"
    return "a turn of another kind", "the same turn"


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}: {shortened(repr(value), 100)}"
