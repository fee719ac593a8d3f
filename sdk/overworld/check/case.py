"""What a check is given: an env of the server under check, sessions on it, and a place for findings."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from overworld.check.audit import Fault, info_faults, open_faults, refusal_faults
from overworld.check.findings import Finding, ServerGoneError, SkipCheckError, StopCheckError, shortened
from overworld.check.histories import Histories
from overworld.check.play import NO_ACTION, Episode, choose
from overworld.check.session import Session
from overworld.check.wire import Answer, Wire
from overworld.errors import Reason
from overworld.service.addresses import host_of, is_loopback
from overworld.v1 import env_pb2 as pb

_MAX_HANGS = 3
_FINDINGS_PER_RULE = 5
_BASELINE_TURNS = 40
_BASELINE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Check:
    """A check: a function of a case, and the rules that hold where it finds nothing."""

    name: str
    rules: tuple[str, ...]
    about: str
    run: Callable[[Case], None]
    each_env: bool = False
    slow: bool = False


CHECKS: list[Check] = []
"""All of them, in the order in which they run."""


def check(*rules: str, each_env: bool = False, slow: bool = False) -> Callable[[Callable[[Case], None]], Any]:
    """Registers a function as a check of `rules`: once for the server, or for `each_env`; `slow` ones on request."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        theme = function.__module__.rpartition(".")[2]
        about = (function.__doc__ or "").strip().partition("\n")[0]
        CHECKS.append(Check(f"{theme}.{function.__name__}", rules, about, function, each_env, slow))
        return function

    return register


@dataclass(slots=True, eq=False)
class Run:
    """What all checks of a server share."""

    wire: Wire
    terminate: int = 0
    """Process that may be ended to see it drain; 0: none."""
    info: pb.GetServerInfoResponse = field(default_factory=pb.GetServerInfoResponse)
    findings: list[Finding] = field(default_factory=list)
    advice: list[Finding] = field(default_factory=list)
    histories: Histories = field(default_factory=Histories)
    baselines: dict[str, list[Episode]] = field(default_factory=dict)
    unequal: set[str] = field(default_factory=set)
    """Envs whose episodes cannot be repeated: further differences would say nothing."""
    draining: bool = False
    hangs: int = 0
    current: str = ""
    """The check that runs, and its env."""
    env: str = ""

    @property
    def local(self) -> bool:
        """Whether the server is reached through loopback."""
        return is_loopback(host_of(self.wire.address))

    def comparing(self, env: str) -> bool:
        """Whether results of the same history are compared."""
        return env not in self.unequal

    def record(self, rule: str, sent: str, came: str, expected: str) -> None:
        """Keeps a finding, up to a number for each rule."""
        target = self.advice if rule in ("R6", "D5") else self.findings
        same = [finding for finding in target if finding.rule == rule]
        finding = Finding(
            rule=rule,
            check=self.current,
            env=self.env,
            sent=shortened(sent, 600),
            came=shortened(came, 600),
            expected=shortened(expected, 600),
        )
        if len(same) < _FINDINGS_PER_RULE and finding not in same:
            target.append(finding)
        if rule == "D1":
            self.unequal.add(self.env)

    def inspect(self, answer: Answer) -> None:
        """Looks at an answer. Raises ServerGoneError if there will be no more."""
        refusal = answer.refusal
        if refusal is None:
            if isinstance(answer.response, pb.GetServerInfoResponse):
                for fault in info_faults(answer.response):
                    self.record(fault.rule, answer.sent, fault.came, fault.expected)
                self._see_whether_it_is_the_same(answer)
            return
        if refusal.code == "OK":
            self.record("X4", answer.sent, refusal.message, "bytes of the message")
        elif refusal.reason:
            for fault in refusal_faults(refusal):
                self.record(fault.rule, answer.sent, fault.came, fault.expected)
        elif answer.late:
            self.hangs += 1
            self.record(
                "S12",
                answer.sent,
                f"no answer within {answer.seconds:.3g} s",
                "an answer; if the simulator takes so long, check with a longer --timeout",
            )
            if self.hangs >= _MAX_HANGS:
                raise ServerGoneError(f"{self.hangs} calls were not answered")
            self._see_whether_it_lives(answer)
        elif answer.lost:
            self._see_whether_it_lives(answer)

    def _see_whether_it_lives(self, answer: Answer) -> None:
        until = time.monotonic() + min(5.0, 2 * self.wire.timeout)
        while True:
            probe = self.wire.start("GetServerInfo", pb.GetServerInfoRequest(), min(2.0, self.wire.timeout))._answer()
            if not (probe.lost or probe.late):
                break
            if time.monotonic() > until:
                self.record("S12", answer.sent, f"{answer.came}; then GetServerInfo was not answered", "an answer")
                raise ServerGoneError("the server does not answer any more")
            time.sleep(0.1)
        if probe.response is not None:
            self._see_whether_it_is_the_same(probe)

    def _see_whether_it_is_the_same(self, answer: Answer) -> None:
        if self.info.instance and answer.response.instance != self.info.instance:
            came = f"instance {answer.response.instance!r}: another process"
            self.record("I1", answer.sent, came, f"{self.info.instance!r}, as before")


class Case:
    """A check on one env. Its sessions are closed when it ends."""

    def __init__(self, run: Run, spec: pb.EnvSpec) -> None:
        self.run = run
        self.spec = spec
        self.chance = random.Random(f"{spec.id} {run.current}")
        self._sessions: list[Session] = []

    @property
    def info(self) -> pb.GetServerInfoResponse:
        """What the server said first."""
        return self.run.info

    def finding(self, rule: str, answer: Answer | str, *, expected: str, came: str = "") -> None:
        """Records a broken rule; `came` is the answer if it is not given."""
        if isinstance(answer, Answer):
            if answer.lost or answer.late:
                return  # recorded as S12
            came = came or answer.came
        self.run.record(rule, answer.sent if isinstance(answer, Answer) else answer, came, expected)

    def fault(self, fault: Fault, answer: Answer) -> None:
        """Records what an audit found in an answer."""
        self.run.record(fault.rule, answer.sent, fault.came, fault.expected)

    def skip(self, why: str) -> SkipCheckError:
        """Raise what this returns where a check does not apply."""
        return SkipCheckError(why)

    def need(self, *, feature: str = "", slots: int = 0) -> None:
        """Raises SkipCheckError where the server lacks something."""
        if feature and feature not in self.info.features:
            raise self.skip(f"the server does not have the feature {feature!r}")
        if slots > self.info.slots_free:
            raise self.skip(f"it takes {slots} free slots; the server has {self.info.slots_free}")

    def call(self, method: str, request: Any, timeout: float | None = None) -> Answer:
        """Any call."""
        return self.run.wire.call(method, request, timeout)

    def server_info(self) -> pb.GetServerInfoResponse:
        """GetServerInfo, which has to succeed for the check to continue."""
        answer = self.call("GetServerInfo", pb.GetServerInfoRequest())
        if answer.response is None:
            self.finding("I4", answer, expected="a response")
            raise StopCheckError
        return answer.response  # type: ignore[no-any-return]

    def request(self, slots: int = 1, **fields: Any) -> pb.OpenRequest:
        """An Open of a new session."""
        message: dict[str, Any] = {"session": str(uuid.uuid4()), "env_id": self.spec.id, "slots": slots} | fields
        return pb.OpenRequest(**message)

    def open(self, slots: int = 1, **fields: Any) -> Session:
        """Opens a session, which has to succeed for the check to continue."""
        self.need(slots=slots)
        return self.opened(self.call("Open", self.request(slots, **fields)))

    def opened(self, answer: Answer, rule: str = "O3") -> Session:
        """The session of an Open that has to have succeeded."""
        assert isinstance(answer.request, pb.OpenRequest)
        if answer.response is None:
            self.finding(rule, answer, expected="a session")
            raise StopCheckError
        self.examine_open(answer)
        session = Session(self, answer.request, answer.response)
        self._sessions.append(session)
        return session

    def examine_open(self, answer: Answer) -> None:
        """Looks at the answer of an Open."""
        assert isinstance(answer.request, pb.OpenRequest)
        if answer.response is not None:
            for fault in open_faults(answer.request, answer.response, self.info.transports):
                self.fault(fault, answer)

    def refused(self, answer: Answer, rule: str, *reasons: str, codes: Collection[str] = ()) -> bool:
        """Whether the call was refused for one of the reasons; records a finding if it was not."""
        named = " or ".join(f"{reason} ({Reason[reason].status})" for reason in reasons) or " or ".join(codes)
        if answer.refusal is None:
            self.finding(rule, answer, expected=f"refused with {named}")
            if answer.method == "Open":
                assert isinstance(answer.request, pb.OpenRequest)
                self.close(answer.request.session)
            return False
        if answer.late or answer.lost:
            return False
        if codes and answer.refusal.code in codes:
            return True
        if not answer.refusal.reason:
            problem = answer.refusal.problem or "its ErrorInfo has no reason"
            self.finding("X1", answer, came=f"{answer.refusal}; {problem}", expected=f"an ErrorInfo with {named}")
            allowed = {Reason[reason].status for reason in reasons}
            if answer.refusal.code in allowed:
                return False
        if answer.refusal.reason not in reasons:
            self.finding(rule, answer, expected=named)
            return False
        return True

    def close(self, session: str) -> Answer:
        """Close."""
        return self.call("Close", pb.CloseRequest(session=session))

    def finish(self) -> None:
        """Closes what was opened."""
        for session in self._sessions:
            session.forget_file()
            self.close(session.name)

    def episodes(self) -> list[Episode]:
        """Some episodes of the env with default options, of which other checks play parts again."""
        found = self.run.baselines.get(self.spec.id)
        if found is None:
            found = self.run.baselines[self.spec.id] = self._record()
        return found

    def episode(self, turns: int) -> Episode:
        """An episode of at least `turns` actions that do not end it: where possible, one in which much is seen."""
        fitting = [episode for episode in self.episodes() if episode.playable >= turns]
        if not fitting:
            raise self.skip(f"no episode was found that lasts {turns} turns")
        return max(fitting, key=lambda episode: min(episode.telling, turns))

    def ended(self) -> Episode:
        """An episode that came to its end."""
        found = [episode for episode in self.episodes() if episode.ended]
        if not found:
            found = self.run.baselines.setdefault(f"{self.spec.id} ended", self._record_a_short_one())
        if not found:
            raise self.skip(f"no episode ended within {_BASELINE_TURNS} turns")
        return min(found, key=lambda episode: len(episode.actions))

    def slowest(self) -> tuple[Episode, int, float]:
        """An early turn whose action took about as long as any: the episode, the turn, and the seconds."""
        timed = [
            (episode.seconds[turn], number, turn)
            for number, episode in enumerate(self.episodes())
            for turn in range(1, episode.playable + 1)
        ]
        if not timed:
            raise self.skip("no episode was found that lasts a turn")
        longest = max(timed)[0]
        turn, number, seconds = min((turn, number, took) for took, number, turn in timed if took >= 0.8 * longest)
        return self.episodes()[number], turn, seconds

    def _record(self) -> list[Episode]:
        session = self.open()
        chance = random.Random(self.spec.id)
        started = time.monotonic()
        episodes = [self._play(session, seed, chance, 0) for seed in range(3)]
        for seed in range(3, 12):
            enough = any(episode.ended for episode in episodes) and any(episode.playable > 3 for episode in episodes)
            if enough or time.monotonic() - started > _BASELINE_SECONDS:
                break
            episodes.append(self._play(session, seed, chance, 0))
        if not any(episode.playable > 3 for episode in episodes):  # turns that are skipped end fewer episodes
            episodes.append(self._play(session, 12, chance, 6))
        self.close(session.name)
        if not any(episode.ended and episode.results[-1].end == pb.END_TASK for episode in episodes):
            episodes += self._follow_the_expert()
        return episodes

    def _follow_the_expert(self) -> list[Episode]:
        """An episode that the expert plays, which is how most come to their end; none where there is no expert."""
        if not (self.spec.has_expert and "expert" in self.info.features):
            return []
        answer = self.call("Open", self.request(expert=True))
        if answer.response is None:
            return []
        session = self.opened(answer)
        episode = self._play(session, 1, random.Random(self.spec.id), 0, advised=1.0)
        self.close(session.name)
        return [episode]

    def options(self) -> dict[str, Any]:
        """The properties of the options' schema."""
        try:
            properties = json.loads(self.spec.options_schema)["properties"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return {}
        return properties if isinstance(properties, dict) else {}

    def _record_a_short_one(self) -> list[Episode]:
        """An episode that the option max_turns ends, where there is one."""
        if "max_turns" not in self.options():
            return []
        options = json.dumps({"max_turns": 4})
        answer = self.call("Open", self.request(options_json=options))
        if answer.response is None:
            return []
        session = self.opened(answer)
        episode = self._play(session, 1, random.Random(self.spec.id), 0)
        episode.options_json = options
        return [episode] if episode.ended else []

    def _play(
        self, session: Session, seed: int, chance: random.Random, skipped: int, *, advised: float = 0.7
    ) -> Episode:
        """An episode of `skipped` turns without action, or of actions, the share `advised` from the expert if any."""
        command = session.reset(0, seed)
        episode = Episode(reset=command.reset)
        started = time.monotonic()
        while True:
            answer = session.send(command)
            episode.results += session.ready(answer)
            episode.seconds.append(answer.seconds)
            last = episode.results[-1]
            turns = len(episode.actions)
            late = time.monotonic() - started > _BASELINE_SECONDS / 3 and turns >= 4
            if last.end or turns == (skipped or _BASELINE_TURNS) or late:
                return episode
            if skipped:
                action = NO_ACTION
            else:
                action = choose(session.spec, last, chance, advised)
                # Try each entry of a small vocabulary early: one of them may be slow, or end the episode.
                vocabulary = session.spec.action.vocabulary
                if seed == 1 and advised < 1 and turns < len(vocabulary) and not last.observation.admissible:
                    action = pb.Action(text=vocabulary[turns])
            episode.actions.append(action)
            command = session.act(action)
