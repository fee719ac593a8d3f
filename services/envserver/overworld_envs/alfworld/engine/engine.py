"""ALFWorld's engine: TextWorld's rules for PDDL games on Fast Downward's state machine, without the overhead.

Upstream provides the game files, the translator, the state machine (which actions are possible, what they change,
whether the goal is met), the parsers of grammars and conditions, and the numbering of names. This package replaces
what `textworld.envs.pddl.PddlEnv` does around them at every step, and produces the same texts, commands and scores,
byte for byte (`tests/unit/envs/alfworld/test_engine.py` plays both side by side):

1. A game is translated once and the translation is cached (`translation.py`); upstream translates four times per
   episode.
2. Facts are tuples in sets (`facts.py`); upstream's are interned objects that are sorted again for every query.
3. Texts are parsed once and expanded without copies and without `eval` (`grammar.py`).
4. The command and the effects of an operator are worked out when it first occurs in a game; upstream works them out
   for every possible action at every step.
5. Replaying the loaded game restores its first state; upstream reads the translation again.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from overworld_envs.alfworld.engine.facts import Arguments, Facts, Placeholder, Vocabulary
from overworld_envs.alfworld.engine.grammar import Context, Entity, Grammar
from overworld_envs.alfworld.engine.translation import Translation
from overworld_envs.alfworld.engine.upstream import display_names, fast_downward

NOTHING_HAPPENS = "Nothing happens."
"""The feedback to a command that is not admissible."""

_MAX_STATES = 20_000
"""Stored states after which the state machine is reloaded at the next reset: it never forgets one."""

_OPERATOR = np.dtype([("id", "<i4"), ("name", "S1024"), ("effects", "<i4")])
_LOADED = 0  # id of the initial state of a loaded game


class _Operator(NamedTuple):
    """An action with its arguments. `command` is None if its wording depends on the state."""

    action: str
    command: str | None
    arguments: Mapping[str, str]
    bindings: dict[Placeholder, str]
    variables: Mapping[str, Entity]
    effects: int
    """The largest number of atoms that it may change."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Game:
    """A game ready to be played, by any number of engines in this process."""

    translation: Translation
    grammar: Grammar
    entities: Mapping[str, Entity] = field(init=False)
    vocabulary: Vocabulary = field(init=False)
    operators: dict[int, _Operator] = field(init=False, default_factory=dict)
    changes: dict[int, list[tuple[str, Arguments]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        facts = self.translation.facts.values()
        names = display_names(sorted({name for each in facts for arguments in each for name in arguments}))
        self.entities = {identifier: Entity(identifier, name) for identifier, name in names.items()}
        self.vocabulary = Vocabulary(self.translation.types, self.translation.objects)


class Engine:
    """Plays one game at a time. Not thread-safe.

    Reuse it for the next game: the state machine's library cannot be unloaded.
    """

    facts: Facts
    """Everything that is true now, including what closed receptacles hold."""
    game: Game

    def __init__(self) -> None:
        self._library = fast_downward.load_lib()
        self._loaded: Game | None = None
        self._states = 0
        self._operators = np.zeros(64, _OPERATOR)
        self._possible: dict[str, int] = {}
        self.commands: tuple[str, ...] = ()
        """The admissible commands, sorted."""
        self.won = False
        self.last_action: tuple[str, Mapping[str, str]] | None = None
        """The last command's PDDL action and its arguments; None if the command was not admissible."""

    def reset(self, game: Game) -> str:
        """Starts `game` and returns its opening text."""
        library = self._library
        if self._loaded is not game or self._states > _MAX_STATES:
            self._loaded = None
            library.load_sas(game.translation.sas)
            self._loaded, self._states = game, 0
            _trim_heap()
        else:
            library.set_state_id(_LOADED)
        self.game = game
        self.last_action = None
        self.facts = Facts(game.vocabulary, game.translation.facts)
        feedback = game.grammar.expand("#intro#", Context(self.facts, game.entities, {}, {}))
        self._look()
        return feedback

    def step(self, command: str) -> str:
        """Executes a command and returns the feedback. A command that is not admissible changes nothing."""
        identifier = self._possible.get(command)
        if identifier is None:
            self.last_action = None
            return NOTHING_HAPPENS
        operator = self.game.operators[identifier]
        self.last_action = operator.action, operator.arguments
        for predicate, arguments in self._apply(identifier, operator):
            self.facts.update(predicate, arguments)
        feedback = self.game.grammar.actions[operator.action].feedback
        text = self.game.grammar.expand(feedback, self._context(operator))
        self._look()
        return text

    def command(self, action: str, **arguments: str) -> str:
        """The command for a possible action, e.g. command("openobject", r="fridge_bar_..."). Raises LookupError."""
        wanted = arguments.items()
        for command, identifier in self._possible.items():
            operator = self.game.operators[identifier]
            if operator.action == action and wanted <= operator.arguments.items():
                return command
        raise LookupError(f"{action} with {arguments} is not possible now")

    def _apply(self, identifier: int, operator: _Operator) -> list[tuple[str, Arguments]]:
        """Advances the state machine and returns the changes, in order."""
        self._states += 1
        known = self.game.changes.get(identifier)
        if known is not None:
            self._library.apply_operator(identifier, None)
            return known
        atoms = (fast_downward.Atom * operator.effects)()
        self._library.apply_operator(identifier, atoms)
        changes = self.game.changes[identifier] = [_change(atom.name) for atom in atoms]
        return changes

    def _look(self) -> None:
        """Updates the admissible commands and whether the goal is met."""
        count = self._library.get_applicable_operators_count()
        if count > len(self._operators):
            self._operators = np.zeros(2 * count, _OPERATOR)
        buffer = self._operators.ctypes.data_as(ctypes.POINTER(fast_downward.Operator))
        self._library.get_applicable_operators(buffer)
        operators = self.game.operators
        possible: dict[str, int] = {}
        for at, identifier in enumerate(self._operators["id"][:count].tolist()):
            operator = operators.get(identifier)
            if operator is None:
                operator = operators[identifier] = self._operator(self._operators[at])
            command = operator.command
            if command is None:
                command = self._command(operator)
            possible.setdefault(command, identifier)
        self._possible = possible
        self.commands = tuple(sorted(possible))
        self.won = self._library.check_goal()

    def _operator(self, row: Any) -> _Operator:
        game = self.game
        action, *arguments = row["name"].partition(b"\0")[0].decode("cp1252").split()
        parameters = game.translation.actions[action]
        bindings = dict(zip(parameters, arguments, strict=False))  # an operator's name has all arguments, in order
        named = {name: argument for (name, _), argument in bindings.items()}
        variables = {name: game.entities[argument] for name, argument in named.items()}
        operator = _Operator(action, None, named, bindings, variables, int(row["effects"]))
        if game.grammar.static(game.grammar.actions[action].template, game.translation.fluents):
            operator = operator._replace(command=self._command(operator))
        return operator

    def _command(self, operator: _Operator) -> str:
        return self.game.grammar.expand(self.game.grammar.actions[operator.action].template, self._context(operator))

    def _context(self, operator: _Operator) -> Context:
        return Context(self.facts, self.game.entities, operator.variables, operator.bindings)


_loads = itertools.count(1)
_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)


def _trim_heap() -> None:
    """Every 64th call takes a few tens of milliseconds. Without it, fragmentation costs a quarter more memory."""
    if _trim is not None and next(_loads) % 64 == 0:
        _trim(0)


def _change(atom: str) -> tuple[str, Arguments]:
    """ "NegatedAtom isopen(drawer1)" -> ("not_isopen", ("drawer1",))."""
    kind, _, rest = atom.partition(" ")
    name, _, arguments = rest[:-1].partition("(")
    predicate = f"not_{name}" if kind == "NegatedAtom" else name
    return predicate, tuple(argument for argument in arguments.split(", ") if argument)
