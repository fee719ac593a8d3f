"""The game's texts: upstream's grammar, parsed by upstream's parser and expanded here.

Upstream parses the same texts again at every step, copies the whole context for every symbol, and evaluates `{...}` as
Python, so a game file can run any code. Here each text is parsed once per process and contexts are shared, since
nothing changes them. `{...}` may hold names, their attributes, strings, `+` and `or`; anything else is refused.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from overworld_envs.alfworld.engine.facts import Bindings, Condition, Facts
from overworld_envs.alfworld.engine.upstream import parse_conditions, parse_grammar, parse_text, textgen


class GrammarError(ValueError):
    """A game's grammar is broken or uses something that is not allowed."""


class Entity(NamedTuple):
    """A thing in a text; the fields are the attributes that a grammar may use."""

    id: str
    name: str
    definite: str = "the"
    indefinite: str = "a"


class Context(NamedTuple):
    """What a text is expanded with."""

    facts: Facts
    entities: Mapping[str, Entity]
    variables: Mapping[str, Entity]
    bindings: Bindings

    def extended(self, found: Bindings) -> Context:
        """This context with the bindings that a query found."""
        named = {name: self.entities[identifier] for (name, _), identifier in found.items()}
        return Context(self.facts, self.entities, {**self.variables, **named}, found)


class Action(NamedTuple):
    """The command and the feedback of a PDDL action, as texts with symbols."""

    template: str
    feedback: str


class Grammar:
    """Production rules and actions of a game."""

    def __init__(self, actions: Mapping[str, Action], rules: Mapping[str, Sequence[_Rule]]) -> None:
        self.actions = actions
        self._rules = rules

    def with_task(self, text: str) -> Grammar:
        """The same grammar with `text` stating the task."""
        return Grammar(self.actions, {**self._rules, "task": [_Rule(_symbols(text), "")]})

    def expand(self, text: str, context: Context) -> str:
        """`text` with all its symbols replaced. Raises GrammarError."""
        return self._joined(_symbols(text), context)

    def static(self, text: str, fluents: frozenset[str]) -> bool:
        """Whether `text` is the same in all states, i.e. none of its conditions is about `fluents`."""
        symbols = [symbol.symbol if isinstance(symbol, textgen.ListSymbol) else symbol for symbol in _symbols(text)]
        if any(isinstance(symbol, textgen.NonterminalSymbol) for symbol in symbols):
            return False
        asked = [symbol.given for symbol in symbols if isinstance(symbol, textgen.ConditionalSymbol) and symbol.given]
        return not any(condition.predicate in fluents for query in asked for condition in _conditions(query))

    def _joined(self, symbols: Sequence[textgen.Symbol], context: Context) -> str:
        return "".join([piece for symbol in symbols for piece in self._expanded(symbol, context)])

    def _expanded(self, symbol: textgen.Symbol, context: Context) -> list[str]:
        if isinstance(symbol, textgen.TerminalSymbol):
            return [str(symbol.symbol)]
        if isinstance(symbol, textgen.NonterminalSymbol):
            return [self._joined(self._rule(str(symbol), context), context)]
        if isinstance(symbol, textgen.ListSymbol):
            return self._listed(list(self._each(symbol.symbol, context)), context)
        return list(self._each(symbol, context))

    def _each(self, symbol: textgen.ConditionalSymbol, context: Context) -> Iterator[str]:
        """The symbol's expression, once for each way to meet its condition."""
        contexts = [context]
        if symbol.given:
            contexts = [
                context.extended(found)
                for found in context.facts.assignments(_conditions(symbol.given), context.bindings)
            ]
        for each in contexts:
            if isinstance(symbol.expression, textgen.EvalSymbol):
                yield _expression(symbol.expression.expression)(each.variables)
            else:
                yield "".join(self._expanded(symbol.expression, each))

    def _listed(self, items: list[str], context: Context) -> list[str]:
        if not items:
            return [self.expand("#list_empty#", context)]
        if len(items) == 1:
            return items
        separator, last = self.expand("#list_separator#", context), self.expand("#list_last_separator#", context)
        return [separator.join(items[:-1]), last, items[-1]]

    def _rule(self, name: str, context: Context) -> Sequence[textgen.Symbol]:
        rules = self._rules.get(name)
        if not rules:
            raise GrammarError(f"the grammar has no rule for #{name}#")
        for rule in rules:
            if not rule.condition:
                return rule.symbols
            found = context.facts.assignments(_conditions(rule.condition), context.bindings)
            if next(found, None) is not None:
                return rule.symbols
        raise GrammarError(f"no rule for #{name}# applies")


class _Rule(NamedTuple):
    symbols: Sequence[textgen.Symbol]
    condition: str


_TASK = re.compile(r'("rhs": )("Your task is to: [^"\\#\[\]{}<>|;]*")')
"""The only line of a grammar that differs between games; matches if it has no symbols."""


def grammar_of(text: str) -> Grammar:
    """The grammar of a game. Raises GrammarError.

    Parsing takes a fifth of a second, so games share the result, except for the line with the task.
    """
    task = _TASK.search(text)
    if task is None:
        return _parsed(text)
    return _parsed(_TASK.sub(r'\1"UNKNOWN GOAL"', text, count=1)).with_task(json.loads(task[2]))


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> Grammar:
    try:
        actions, rules = parse_grammar(text, rule_name="pddlStart")
    except Exception as error:  # the parser may raise anything
        raise GrammarError(f"its grammar cannot be parsed: {error}") from error
    return Grammar(
        {name: Action(action.template, action.feedback_rule) for name, action in actions.items()},
        {name: [_Rule(rule.rhs, rule.condition) for rule in choices] for name, choices in rules._rules.items()},
    )


@functools.lru_cache(maxsize=4096)
def _symbols(text: str) -> tuple[textgen.Symbol, ...]:
    return tuple(parse_text(text, rule_name="symbols"))


@functools.lru_cache(maxsize=1024)
def _conditions(query: str) -> tuple[Condition, ...]:
    return tuple(Condition(predicate, tuple(placeholders)) for predicate, placeholders in parse_conditions(query))


@functools.lru_cache(maxsize=1024)
def _expression(source: str) -> Callable[[Mapping[str, Entity]], str]:
    """The function from variables to text that `{...}` stands for."""
    try:
        tree = ast.parse(source.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise GrammarError(f"the grammar's {{{source}}} cannot be read: {error}") from None
    return _compiled(tree.body, source)


def _compiled(node: ast.expr, source: str) -> Callable[[Mapping[str, Entity]], str]:
    match node:
        case ast.Constant(value=str(text)):
            return lambda _: text
        case ast.Name(id=name):
            return lambda variables: _variable(variables, name, source).name
        case ast.Attribute(value=ast.Name(id=name), attr="id" | "name" | "definite" | "indefinite" as attribute):
            return lambda variables: str(getattr(_variable(variables, name, source), attribute))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            before, after = _compiled(left, source), _compiled(right, source)
            return lambda variables: before(variables) + after(variables)
        case ast.BoolOp(op=ast.Or(), values=[first, *others]):
            choices = [_compiled(each, source) for each in (first, *others)]
            return lambda variables: next((value for choice in choices if (value := choice(variables))), "")
    raise GrammarError(
        f"the grammar's {{{source}}} is refused: only names, .name, .id, strings, + and or are understood"
    )


def _variable(variables: Mapping[str, Entity], name: str, source: str) -> Entity:
    try:
        return variables[name]
    except KeyError:
        raise GrammarError(f"the grammar's {{{source}}} uses {name!r}, which is not bound there") from None
