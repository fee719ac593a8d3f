"""Specs and options: what GetServerInfo describes, what Open grants, what the schema allows."""

from __future__ import annotations

import json

from overworld.check.case import Case, check
from overworld.check.schemas import Examined, examine
from overworld.check.session import Session
from overworld.v1 import env_pb2 as pb

_NOT_OPTIONS = ("{", "[]", "null", '"text"', "7")


@check("E6", "E1", "E2", "E3", "E5", "O7", each_env=True)
def are_those_of_the_session(case: Case) -> None:
    """With default options, and with these written out, Open describes the env as GetServerInfo does."""
    for options in ("", "{}"):
        session = case.open(options_json=options)
        listed_provenance, provenance = dict(case.spec.provenance), dict(session.spec.provenance)
        if listed_provenance.items() - provenance.items():
            case.finding(
                "E6",
                f"Open of {case.spec.id} with options {options!r}",
                came=f"provenance {provenance}",
                expected=f"{listed_provenance}, as in GetServerInfo; Open may add what is known only then",
            )
        for field in sorted(set(case.spec.DESCRIPTOR.fields_by_name) - {"provenance"}):
            listed, opened = (_field(spec, field) for spec in (case.spec, session.spec))
            if listed != opened:
                case.finding(
                    "E6",
                    f"Open of {case.spec.id} with options {options!r}",
                    came=f"{field} {opened}",
                    expected=f"{listed}, as in GetServerInfo",
                )
        case.close(session.name)


def _field(spec: pb.EnvSpec, name: str) -> str:
    copy = pb.EnvSpec()
    copy.CopyFrom(spec)
    for other in spec.DESCRIPTOR.fields_by_name:
        if other != name:
            copy.ClearField(other)
    return repr(copy.SerializeToString(deterministic=True)[:400])


@check("E4", "E7", "O7", "O14", each_env=True)
def options_fit_the_schema(case: Case) -> None:
    """The options in use satisfy the schema; those that it does not allow are refused; others have other digests."""
    session = case.open()
    schema, options = case.spec.options_schema, session.opened.options_json
    examined = examine(schema, options)
    if examined.problem:
        case.finding(
            "E4",
            f"options_schema of {case.spec.id}: {schema}",
            came=examined.problem,
            expected="a JSON Schema (draft 2020-12) of an object",
        )
    if examined.unsatisfied:
        case.finding(
            "E4",
            f"Open of {case.spec.id} with default options",
            came=f"options_json {options}, of which {examined.unsatisfied}",
            expected="options that satisfy options_schema",
        )
    if examined.missing:
        case.finding(
            "O7",
            f"Open of {case.spec.id} with default options",
            came=f"options_json {options}, without {', '.join(examined.missing)}",
            expected="the complete options, defaults filled in",
        )
    for wrong in (*_NOT_OPTIONS, *examined.wrong):
        case.refused(case.call("Open", case.request(options_json=wrong)), "O14", "OPTIONS_INVALID")
    _complete_options_give_the_same(case, session)
    _others_give_another_digest(case, session, examined)


def _complete_options_give_the_same(case: Case, session: Session) -> None:
    case.need(slots=2)
    again = case.opened(case.call("Open", case.request(options_json=session.opened.options_json)), "E4")
    if again.opened.provenance_digest != session.opened.provenance_digest:
        case.finding(
            "E7",
            f"Open with the default options, and with {session.opened.options_json}",
            came="two digests",
            expected="one digest: provenance and options are equal",
        )
    if _options(again) != _options(session):
        case.finding(
            "E4",
            f"Open with options {session.opened.options_json}",
            came=f"options_json {again.opened.options_json}",
            expected="the same options",
        )
    case.close(again.name)


def _others_give_another_digest(case: Case, session: Session, examined: Examined) -> None:
    if not examined.other:
        return
    answer = case.call("Open", case.request(options_json=examined.other))
    if answer.response is None:  # an env may refuse what the schema allows (ENV_FAILED)
        case.refused(answer, "O14", "ENV_FAILED", "OPTIONS_INVALID")
        return
    other = case.opened(answer)
    wanted = json.loads(examined.other)
    if (given := _options(other)) is not None and any(given.get(name) != value for name, value in wanted.items()):
        case.finding(
            "O7",
            answer,
            came=f"options_json {other.opened.options_json}",
            expected=f"the complete options, with {examined.other}",
        )
    elif other.opened.provenance_digest == session.opened.provenance_digest:
        case.finding("E7", answer, came="the digest of the default options", expected="another digest for others")


def _options(session: Session) -> dict[str, object] | None:
    try:
        options = json.loads(session.opened.options_json)
    except (ValueError, RecursionError):
        return None
    return options if isinstance(options, dict) else None
