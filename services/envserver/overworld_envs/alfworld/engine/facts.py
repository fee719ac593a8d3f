"""The facts of a state, and the search for bindings that satisfy conditions: TextWorld's rules on plain tuples.

TextWorld keeps `Proposition` objects, which it interns for ever; it parses every condition again and sorts all facts of
a predicate for every query. Here a fact is a tuple of identifiers under its predicate's name, and facts stay sorted
until their predicate changes. Results come in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

Arguments = tuple[str, ...]
Placeholder = tuple[str, str]
"""Name and type."""
Bindings = dict[Placeholder, str]
"""Placeholder -> identifier."""


class Condition(NamedTuple):
    """A predicate that must hold of some placeholders."""

    predicate: str
    placeholders: tuple[Placeholder, ...]


class Vocabulary:
    """The types of a game: the type of each identifier, and the hierarchy of types.

    `parents` maps each type to its supertypes' names, `types` each identifier to its type.
    """

    def __init__(self, parents: Mapping[str, Sequence[str]], types: Mapping[str, str]) -> None:
        self.types = types
        self._children: dict[str, list[str]] = {}
        for name, above in parents.items():
            for parent in above:
                self._children.setdefault(parent, []).append(name)
        for children in self._children.values():
            children.sort()
        self._ranks: dict[tuple[str, ...], dict[tuple[str, ...], int]] = {}

    def ranks(self, wanted: tuple[str, ...]) -> dict[tuple[str, ...], int]:
        """The type signatures that match `wanted` -> their rank in TextWorld's order, which is breadth first."""
        found = self._ranks.get(wanted)
        if found is None:
            found = {wanted: 0}
            waiting = [wanted]
            for types in waiting:
                for at, name in enumerate(types):
                    for child in self._children.get(name, ()):
                        below = (*types[:at], child, *types[at + 1 :])
                        if below not in found:
                            found[below] = len(found)
                            waiting.append(below)
            self._ranks[wanted] = found
        return found


class KnownFacts(Protocol):
    """Facts to read from: those of a state (`Facts`), or those that a PDDL problem lists."""

    def of(self, predicate: str) -> Iterable[Arguments]:
        """The arguments of which `predicate` is true."""


class Facts:
    """The facts of the current state."""

    def __init__(self, vocabulary: Vocabulary, initial: Mapping[str, Iterable[Arguments]]) -> None:
        self._vocabulary = vocabulary
        self._facts = {predicate: set(facts) for predicate, facts in initial.items()}
        self._ordered: dict[Condition, list[Arguments]] = {}
        self._conditions: dict[str, list[Condition]] = {}  # in `_ordered`, by predicate

    def of(self, predicate: str) -> set[Arguments] | frozenset[Arguments]:
        """The arguments of which `predicate` is true. Do not modify the result."""
        return self._facts.get(predicate, frozenset())

    def holds(self, predicate: str, *arguments: str) -> bool:
        """Whether the fact is true."""
        return arguments in self._facts.get(predicate, ())

    def update(self, predicate: str, arguments: Arguments) -> None:
        """Makes a fact true, or untrue if `predicate` starts with "not_". As in TextWorld, "not_..." is then a fact."""
        opposite = predicate[4:] if predicate.startswith("not_") else f"not_{predicate}"
        for name in (opposite, predicate):
            for condition in self._conditions.pop(name, ()):
                del self._ordered[condition]
        self._facts.setdefault(opposite, set()).discard(arguments)
        self._facts.setdefault(predicate, set()).add(arguments)

    def assignments(self, conditions: Sequence[Condition], bindings: Bindings) -> Iterator[Bindings]:
        """All ways to bind the placeholders missing from `bindings` so that all conditions hold.

        No two placeholders are bound to the same thing.
        """
        return self._assign(conditions, 0, dict(bindings), set(bindings.values()))

    def _assign(
        self, conditions: Sequence[Condition], depth: int, bindings: Bindings, used: set[str]
    ) -> Iterator[Bindings]:
        if depth == len(conditions):
            yield dict(bindings)
            return
        condition = conditions[depth]
        placeholders = condition.placeholders
        free = [placeholder for placeholder in placeholders if placeholder not in bindings]
        if not free:
            if self._typed(condition, tuple(bindings[placeholder] for placeholder in placeholders)):
                yield from self._assign(conditions, depth + 1, bindings, used)
            return
        for arguments in self._in_order(condition):
            for placeholder, argument in zip(placeholders, arguments, strict=True):
                known = bindings.get(placeholder)
                if known is None:
                    if argument in used:
                        break
                    bindings[placeholder] = argument
                    used.add(argument)
                elif known != argument:
                    break
            else:
                yield from self._assign(conditions, depth + 1, bindings, used)
            for placeholder in free:
                if placeholder in bindings:
                    used.discard(bindings.pop(placeholder))

    def _typed(self, condition: Condition, arguments: Arguments) -> bool:
        if arguments not in self._facts.get(condition.predicate, ()):
            return False
        return self._signature(arguments) in self._vocabulary.ranks(tuple(kind for _, kind in condition.placeholders))

    def _in_order(self, condition: Condition) -> list[Arguments]:
        ordered = self._ordered.get(condition)
        if ordered is None:
            ranks = self._vocabulary.ranks(tuple(kind for _, kind in condition.placeholders))
            ranked = [
                (rank, arguments)
                for arguments in self._facts.get(condition.predicate, ())
                if (rank := ranks.get(self._signature(arguments))) is not None
            ]
            ordered = self._ordered[condition] = [arguments for _, arguments in sorted(ranked)]
            self._conditions.setdefault(condition.predicate, []).append(condition)
        return ordered

    def _signature(self, arguments: Arguments) -> tuple[str, ...]:
        types = self._vocabulary.types
        return tuple([types[argument] for argument in arguments])
