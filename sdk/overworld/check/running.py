"""Runs the checks on a server, whatever it does, and sums up which rules hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from overworld.check.case import CHECKS, Case, Check, Run
from overworld.check.findings import Finding, ServerGoneError, SkipCheckError, StopCheckError, shortened
from overworld.check.rules import RULES
from overworld.check.wire import Wire
from overworld.client.endpoint import Endpoint
from overworld.errors import MissingExtraError, ServerError
from overworld.service.credentials import Credentials
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Report:
    """What the checks of a server, or of an env in this process, gave."""

    subject: str
    envs: list[str]
    findings: list[Finding] = field(default_factory=list)
    advice: list[Finding] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    """Rules that were checked and not found broken."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Rule that was not checked -> why."""
    checks: int = 0
    seconds: float = 0.0

    @property
    def broken(self) -> list[str]:
        """Rules that were broken, in order."""
        found = {finding.rule for finding in self.findings}
        return [rule for rule in RULES if rule in found]

    @property
    def conforms(self) -> bool:
        """Whether rules were checked, and none was found broken."""
        return bool(self.held) and not self.findings


def check_server(
    address: str,
    env: str = "",
    *,
    credentials: Credentials | None = None,
    timeout: float = 20.0,
    slow: bool = False,
    terminate: int = 0,
    only: Sequence[str] = (),
    on_check: Callable[[str], None] = lambda name: None,
) -> Report:
    """Checks the server at "host:port", with one of its envs or all.

    It is connected to as clients do, so with TLS beyond loopback unless `credentials` say otherwise. A call may take
    `timeout` seconds. `slow` checks take minutes. `terminate` is a process to send SIGTERM at the end. `only` selects
    checks by the beginnings of their names. `on_check` is told what runs. Raises ServerError if there is nothing to
    check.
    """
    from overworld.check import themes  # noqa: F401 - they register themselves

    started = time.monotonic()
    endpoint = Endpoint(address, credentials or Credentials())
    wire = Wire(endpoint, endpoint.token, timeout)
    run = Run(wire, terminate)
    wire.inspect = run.inspect
    chosen = [each for each in CHECKS if (slow or not each.slow) and (not only or each.name.startswith(tuple(only)))]
    try:
        specs = _begin(run, env)
        report = Report(subject=address, envs=[spec.id for spec in specs], findings=run.findings, advice=run.advice)
        outcomes = _Outcomes()
        try:
            for each in chosen:
                for spec in specs if each.each_env else specs[:1]:
                    on_check(f"{each.name} {spec.id}")
                    _run(run, each, spec, outcomes)
                    report.checks += 1
            run.current = "the end"
            if run.draining == run.info.draining:  # else it may have ended
                run.wire.call("GetServerInfo", pb.GetServerInfoRequest())  # by the same process as at first
        except ServerGoneError as error:
            outcomes.gone(chosen, str(error))
    finally:
        wire.close()
    broken = {finding.rule for finding in run.findings}
    report.held = outcomes.passed - broken
    report.skipped = {rule: why for rule, why in outcomes.skipped.items() if rule not in report.held | broken}
    if not slow:
        report.skipped |= {
            rule: "takes minutes: --slow"
            for each in CHECKS
            if each.slow
            for rule in each.rules
            if rule not in report.held | broken
        }
    report.seconds = time.monotonic() - started
    return report


@dataclass(slots=True)
class _Outcomes:
    passed: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)

    def gone(self, checks: Sequence[Check], why: str) -> None:
        """Notes that the rest was not checked."""
        for each in checks:
            for rule in each.rules:
                if rule not in self.passed:
                    self.skipped.setdefault(rule, why)


def _run(run: Run, each: Check, spec: pb.EnvSpec, outcomes: _Outcomes) -> None:
    run.current, run.env = each.name, spec.id
    case = Case(run, spec)
    try:
        each.run(case)
        outcomes.passed.update(each.rules)
    except SkipCheckError as error:
        outcomes.skipped.update(dict.fromkeys(each.rules, f"{spec.id}: {error}"))
    except StopCheckError:
        outcomes.skipped.update(dict.fromkeys(each.rules, f"{spec.id}: {each.name} was cut short"))
    except (MissingExtraError, ServerGoneError):  # neither of which the server's answers are to blame for
        raise
    except Exception as error:  # what a server may send is not bounded by what a check was written for
        _logger.debug("%s", each.name, exc_info=True)
        run.record(
            each.rules[0],
            f"the calls of {each.name}",
            f"answers that the check cannot use ({type(error).__name__}: {error})",
            "answers as the contract describes them",
        )
    finally:
        case.finish()


def _begin(run: Run, env: str) -> list[pb.EnvSpec]:
    """The specs of the envs to check. Raises ServerError."""
    run.current = "handshake"
    wire = run.wire
    answer = wire.start("GetServerInfo", pb.GetServerInfoRequest())._answer()
    if answer.response is None:
        assert answer.refusal is not None
        tokens, name = wire.endpoint.credentials.tokens, wire.endpoint.name
        if answer.lost and (why := wire.endpoint.diagnose(answer.refusal.message)):
            raise ServerError(why)
        hint = {
            "UNAVAILABLE": "is the server running, and is the address right?",
            "UNAUTHENTICATED": f"check the line `{name}: token` in {tokens.path}"
            if tokens
            else "give its token in OVERWORLD_TOKEN or --token",
            "UNIMPLEMENTED": f"something else listens there, which does not have the service {pb.DESCRIPTOR.package}",
        }.get(answer.refusal.code, "nothing could be checked")
        raise ServerError(f"{wire.address} answered GetServerInfo with {answer.refusal}: {hint}")
    run.inspect(answer)
    run.info.CopyFrom(answer.response)
    run.draining = run.info.draining
    specs = {spec.id: spec for spec in run.info.envs}
    run.histories.hashless = {spec.id for spec in specs.values() if spec.pixels_reproducible == "never"}
    if env and env not in specs:
        known = ", ".join(shortened(name, 60) for name in sorted(specs)[:50])
        raise ServerError(f"{wire.address} has no env {env!r}; it has {known or 'none'}")
    if not specs:
        raise ServerError(f"{wire.address} has no envs: there is nothing to check")
    return [specs[env]] if env else list(specs.values())
