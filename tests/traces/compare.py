"""What differs between a trace and its replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tests.traces.wire import Line, remove

_SHOWN = 120

_DRAWN_BY = {"miniworld": "renderer"}
"""The part of a spec's provenance that names what the machine draws with: OpenGL; elsewhere Pillow."""


def drawn_by(simulator: str, lines: Sequence[Line]) -> list[str]:
    """What drew the frames of a trace, from the specs of its sessions."""
    key = _DRAWN_BY.get(simulator, "pillow")
    opened = [line["response"] for line in lines if line["method"] == "Open" and "response" in line]
    return sorted({response["spec"]["provenance"][key] for response in opened})


def without_pixels(simulator: str, line: Line) -> Line:
    """The line without what depends on that: hashes of pixels, the name itself, the digest over it. Changes `line`."""
    key = _DRAWN_BY.get(simulator, "pillow")
    for field in (
        "response.results.*.observation.images.*.xxh64",
        "response.frames.xxh64",
        f"response.envs.*.provenance.{key}",
        f"response.spec.provenance.{key}",
        "response.provenance_digest",
    ):
        remove(line, field)
    return line


def differences(simulator: str, recorded: Sequence[Line], replayed: Sequence[Line]) -> list[str]:
    """A sentence for each field that differs, with simulator, call and field."""
    found = []
    for before, now in zip(recorded, replayed, strict=True):
        old, new = dict(_leaves(before)), dict(_leaves(now))
        for field in dict.fromkeys((*old, *new)):
            one, other = old.get(field, _Absent), new.get(field, _Absent)
            if one != other or type(one) is not type(other):
                found.append(
                    f"{simulator}, call {before['call']} ({before['method']}), {field}: "
                    f"recorded {_excerpt(one, other)}, replayed {_excerpt(other, one)}"
                )
    return found


class _Absent:
    """Stands for a field that is not there."""


def _leaves(content: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values. An empty object is a value: it differs from one that is not there."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from _leaves(value, f"{field}.{key}" if field else key)
    elif isinstance(content, list) and content:
        for index, value in enumerate(content):
            yield from _leaves(value, f"{field}[{index}]")
    else:
        yield field, content


def _excerpt(value: Any, other: Any) -> str:
    """A long text from shortly before the place where it differs from the other."""
    if value is _Absent:
        return "nothing"
    if not isinstance(value, str) or len(value) <= _SHOWN:
        return repr(value)
    pairs = zip(value, str(other), strict=False)
    same = next((at for at, (one, two) in enumerate(pairs) if one != two), min(len(value), len(str(other))))
    start = max(0, same - _SHOWN // 2)
    return f"{'...' if start else ''}{value[start : start + _SHOWN]!r}..."
