"""JSON Schemas of strangers, examined in a process of their own: one that is made to take for ever ends with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from overworld.service.extras import needs_extra

_SECONDS = 15.0
_MAX_WRONG = 8
_STRANGE: tuple[Any, ...] = (None, [], {}, "no such value, says the checker", -1_000_000_007, 0.5, True)
_UNKNOWN = "no_such_option_says_the_checker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What a schema says about options."""

    problem: str = ""
    """What is wrong with the schema; empty if nothing is."""
    unsatisfied: str = ""
    """Where the options in use do not satisfy it."""
    missing: tuple[str, ...] = ()
    """Options that have a default in the schema and are not among those in use."""
    wrong: tuple[str, ...] = ()
    """Options that it refuses, as JSON."""
    other: str = ""
    """Options that it allows and that differ from those in use, as JSON; empty if none were found."""


def examine(schema: str, options: str) -> Examined:
    """Examines a schema and the options that are in use under it."""
    request = json.dumps({"schema": schema, "options": options})
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=request,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return Examined(problem=f"it cannot be evaluated within {_SECONDS:g} s")
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().splitlines()[-1:] or [f"status {error.returncode}"]
        if "pip install" in words[0]:
            with needs_extra("check"):
                import jsonschema  # noqa: F401 - raises what the child said
        return Examined(problem=f"it cannot be evaluated: {words[0][:200]}")
    return Examined(
        problem=answer.get("problem", ""),
        unsatisfied=answer.get("unsatisfied", ""),
        wrong=tuple(answer.get("wrong", ())),
        other=answer.get("other", ""),
        missing=tuple(answer.get("missing", ())),
    )


def _examine(schema_text: str, options_text: str) -> dict[str, Any]:
    with needs_extra("check"):
        import jsonschema
        import referencing
    try:
        schema = json.loads(schema_text)
    except ValueError as error:
        return {"problem": f"it is not JSON: {error}"}
    if not isinstance(schema, dict):
        return {"problem": f"it is a JSON {type(schema).__name__}, not an object"}
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        return {"problem": error.message[:300]}
    # With a registry of its own it fetches nothing from the network.
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())

    def fits(value: Any) -> bool:
        return next(validator.iter_errors(value), None) is None

    if fits([]) or fits("text"):
        return {"problem": "it allows options that are not an object"}
    try:
        options = json.loads(options_text or "{}")
    except ValueError:
        options = None
    answer: dict[str, Any] = {}
    if (wrong_one := next(validator.iter_errors(options), None)) is not None:
        where = ".".join(map(str, wrong_one.absolute_path)) or "options"
        answer["unsatisfied"] = f"{where}: {wrong_one.message}"[:300]
    if not isinstance(options, dict):
        options = {}
    properties = schema.get("properties", {})
    candidates = [{_UNKNOWN: 1}, *({name: value} for name in sorted(properties) for value in _STRANGE)]
    wrong: dict[str, Any] = {}  # one of each option
    for candidate in candidates:
        (name,) = candidate
        if name not in wrong and not fits(candidate):
            wrong[name] = candidate
    answer["missing"] = [
        name
        for name, about in properties.items()
        if isinstance(about, dict) and "default" in about and name not in options
    ]
    answer["wrong"] = [json.dumps(value) for value in list(wrong.values())[:_MAX_WRONG]]
    for candidate in _others(properties, options):
        if fits(candidate):
            answer["other"] = json.dumps(candidate)
            break
    return answer


def _others(properties: dict[str, Any], options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Options that may be allowed and differ from those in use in one value."""
    for name, value in options.items():
        if isinstance(value, bool):
            yield {name: not value}
        elif isinstance(value, int):
            yield {name: value + 1}
            yield {name: value - 1}
        elif isinstance(properties.get(name), dict):
            for choice in properties[name].get("enum", ()):
                if choice != value:
                    yield {name: choice}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(_examine(asked["schema"], asked["options"])))
