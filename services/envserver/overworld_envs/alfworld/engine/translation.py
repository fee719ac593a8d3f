"""Translates a game's PDDL for Fast Downward's state machine, once, and caches the result on disk.

Upstream translates each game four times per episode, in Python: once to read its facts, once to play it, and once more
for a planner each time. Nothing here needs more than one translation per game.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overworld_envs.alfworld.engine.deadline import TimeLimitError, deadline
from overworld_envs.alfworld.engine.facts import Arguments
from overworld_envs.alfworld.engine.upstream import VERSIONS, fast_downward

TIME_LIMIT = 30.0
"""Seconds that a translation may take. A large kitchen takes about one."""

_FORMAT = "3"
_MAX_NAME = 1023  # the state machine copies names into fields of 1,024 bytes without checking their length
_LENGTH = 8  # bytes of each of the two numbers at the start of a cache entry
_INTERNAL = "new-axiom@"


class TranslationError(ValueError):
    """A game's PDDL is broken."""


@dataclass(frozen=True, slots=True)
class Translation:
    """What the state machine runs, and what the engine needs to know about it.

    `compressed` is a megabyte or two of Fast Downward's format, deflated. `types` maps each type to its supertypes,
    `objects` each identifier to its type, `facts` each predicate to its initial facts, and `actions` each action to its
    parameters as (name, type). `fluents` are the predicates that some action changes.
    """

    compressed: bytes
    types: Mapping[str, Sequence[str]]
    objects: Mapping[str, str]
    facts: Mapping[str, Sequence[Arguments]]
    actions: Mapping[str, Sequence[tuple[str, str]]]
    fluents: frozenset[str]

    @property
    def sas(self) -> bytes:
        """The input of the state machine."""
        return zlib.decompress(self.compressed)


def translate(domain: str, problem: str) -> Translation:
    """The translation that upstream's engine would play, made by upstream's translator. Raises TranslationError."""
    try:
        with _undisturbed(), deadline(TIME_LIMIT):
            task, sas = fast_downward.pddl2sas(domain, problem)
        if max(map(len, sas.split("\n"))) > _MAX_NAME:
            raise ValueError(f"an action with its arguments has more than {_MAX_NAME} letters; use shorter names")
        return _described(task, sas)
    except TimeLimitError:
        raise TranslationError(f"its PDDL takes longer than {TIME_LIMIT:g} s to translate") from None
    except (Exception, SystemExit) as error:  # it was written as a program: it asserts and exits on bad input
        raise TranslationError(f"its PDDL cannot be translated: {type(error).__name__}: {error}") from error


def cached(domain: str, problem: str, folder: Path) -> Translation:
    """Like `translate`, but cached in `folder`, which processes may share. Raises TranslationError, OSError."""
    name = hashlib.sha256("\0".join((_FORMAT, json.dumps(VERSIONS), domain, problem)).encode()).hexdigest()
    path = folder / name[:2] / f"{name}.sas.z"
    with contextlib.suppress(FileNotFoundError, zlib.error, ValueError, KeyError):  # missing or truncated
        return _unpacked(path.read_bytes())
    translation = translate(domain, problem)
    write_atomically(path, _packed(translation))
    return translation


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that other processes see all of it or nothing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Restores sys.argv, which the translator overwrites, and pauses the garbage collector, which slows it down."""
    arguments, collecting = sys.argv, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        sys.argv = arguments
        if collecting:
            gc.enable()


def _described(task: Any, sas: str) -> Translation:
    objects = {each.name: each.type_name for each in task.objects}
    facts: dict[str, set[Arguments]] = {}
    for atom in task.init:
        if hasattr(atom, "predicate"):
            if atom.predicate != "=" and not atom.predicate.startswith(_INTERNAL):
                facts.setdefault(atom.predicate, set()).add(tuple(atom.args))
        elif atom.fluent.symbol != "total-cost" and not str(atom.expression.value).isdigit():
            facts.setdefault(str(atom.expression.value), set()).add(tuple(atom.fluent.args))
    types: dict[str, Sequence[str]] = {}
    for each in task.types:
        types.setdefault(each.name, list(each.supertype_names))
    fluents = {effect.literal.predicate for action in task.actions for effect in action.effects}
    return Translation(
        compressed=zlib.compress(sas.encode(), 1),
        types=types,
        objects=objects,
        facts={predicate: sorted(arguments) for predicate, arguments in facts.items()},
        actions={
            action.name: [(parameter.name.strip("?"), parameter.type_name) for parameter in action.parameters]
            for action in task.actions
        },
        fluents=frozenset(fluents | {f"not_{name}" for name in fluents}),
    )


def _packed(translation: Translation) -> bytes:
    head = {
        "types": translation.types,
        "objects": translation.objects,
        "facts": translation.facts,
        "actions": translation.actions,
        "fluents": sorted(translation.fluents),
    }
    fields = zlib.compress(json.dumps(head).encode(), 1)
    sas = translation.compressed
    return len(fields).to_bytes(_LENGTH) + zlib.crc32(sas).to_bytes(_LENGTH) + fields + sas


def _unpacked(content: bytes) -> Translation:
    """The translation in a cache entry. Raises zlib.error, ValueError or KeyError if the entry is truncated."""
    start = 2 * _LENGTH
    end = start + int.from_bytes(content[:_LENGTH])
    sas = content[end:]
    if zlib.crc32(sas) != int.from_bytes(content[_LENGTH:start]):
        raise ValueError("the entry is cut off")
    fields = json.loads(zlib.decompress(content[start:end]))
    objects = fields["objects"]
    same = {name: name for name in objects}  # one string object per identifier
    return Translation(
        compressed=sas,
        types=fields["types"],
        objects=objects,
        facts={
            predicate: [tuple([same[name] for name in each]) for each in facts]
            for predicate, facts in fields["facts"].items()
        },
        actions={name: [tuple(each) for each in parameters] for name, parameters in fields["actions"].items()},
        fluents=frozenset(fields["fluents"]),
    )
