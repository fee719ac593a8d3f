"""Agents that do not play: they read the answer off a text, a list, a tensor or a metric, if it is there."""

from __future__ import annotations

import base64
import codecs
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from overworld.audit.episodes import Episode, StopPlayingError, Turn
from overworld.audit.players import choices
from overworld.authoring.env import EnvSpec
from overworld.client.moves import Move

Read = Callable[[EnvSpec, Turn], str | None]
"""The action that a turn gives away, or None."""

_SPEAKING = re.compile(
    r"answer|solution|expert|oracle|optimal|best|correct|target|label|hint|secret|truth", re.IGNORECASE
)


_READ = 5_000
"""Characters of a text that are read."""
_BASES: tuple[int | None, ...] = (0, 1, None)


@dataclass(frozen=True, slots=True)
class Reader:
    """A way to read an action."""

    name: str
    """Where it is read, as in "the text names it"."""
    read: Read
    plain: bool = True
    """Whether the action itself is there, and not something that it can be concluded from."""
    distinct: int = 2
    """Different actions that must have been read, so that it is not a coincidence."""

    def player(self, spec: EnvSpec, episode: Episode, chance: Random) -> Move:
        """Does what it reads; where it reads nothing, the first thing that is listed."""
        action = self.read(spec, episode.turns[-1])
        if action is None:
            texts = choices(spec, episode.turns[-1])
            if not texts:
                raise StopPlayingError
            return texts[0]
        return action


def planner(spec: EnvSpec, episode: Episode, chance: Random) -> Move:
    """Does in order what the first text mentions."""
    plan = mentions(spec, episode.turns[0])
    if len(episode.moves) >= len(plan):
        raise StopPlayingError
    return plan[len(episode.moves)]


def mentions(spec: EnvSpec, turn: Turn) -> list[str]:
    """The actions that a text mentions, in order."""
    texts = {text.casefold(): text for text in choices(spec, turn)}
    if not texts:
        return []
    longest = sorted(texts, key=len, reverse=True)
    pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)"
    return [texts[found] for found in re.findall(pattern, said(turn).casefold())]


def said(turn: Turn) -> str:
    """What is told in words: texts, and the names of images."""
    names = " ".join(name for name, _, _ in turn.pictures)
    text = turn.text[:_READ]
    return f"{text}\n{names}" if names else text


def _spelled(text: str) -> dict[str, str]:
    """How an action may be hidden in a text."""
    data = text.encode()
    return {
        "as it is": text,
        "backwards": text[::-1],
        "in base64": base64.b64encode(data).decode().rstrip("="),
        "in hexadecimal": data.hex(),
        "in rot13": codecs.encode(text, "rot13"),
    }


def _mention(spelling: str, last: bool) -> Read:
    """The first or last action in the text, spelled somehow."""

    def read(spec: EnvSpec, turn: Turn) -> str | None:
        text = said(turn).casefold()
        found = []
        for action in choices(spec, turn):
            form = _spelled(action)[spelling].casefold()
            if spelling != "as it is" and len(form) < 2:
                continue
            places = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(form)}(?!\w)", text)]
            if places:
                found.append((places[-1] if last else places[0], len(form), action))
        if not found:
            return None
        return max(found)[2] if last else min(found, key=lambda each: (each[0], -each[1]))[2]

    return read


def _numbered(which: int, base: int) -> Read:
    """The action whose number is in the text."""

    def read(spec: EnvSpec, turn: Turn) -> str | None:
        numbers = re.findall(r"(?<![\w.])\d+(?![\w.])", turn.text[:_READ])
        texts = choices(spec, turn)
        if len(numbers) <= (which if which >= 0 else -which - 1):
            return None
        index = int(numbers[which]) - base
        return texts[index] if 0 <= index < len(texts) else None

    return read


def _placed(which: int) -> Read:
    """The action at a place of the list."""
    return lambda spec, turn: turn.admissible[which] if len(turn.admissible) > 1 else None


def _valued(name: str, base: int | None, scalar: Callable[[Turn], float | None]) -> Reader:
    """The action of which a number is the index, from `base` on, or the text (None)."""

    def read(spec: EnvSpec, turn: Turn) -> str | None:
        value = scalar(turn)
        if value is None or value != int(value):
            return None
        texts = choices(spec, turn)
        if base is None:
            return str(int(value)) if not texts or str(int(value)) in texts else None
        return texts[int(value) - base] if 0 <= int(value) - base < len(texts) else None

    distinct = 2 if _SPEAKING.search(name) else 3
    return Reader(f"{name} is its {'text' if base is None else 'index'}", read, distinct=distinct)


def _largest(name: str) -> Reader:
    def read(spec: EnvSpec, turn: Turn) -> str | None:
        array, texts = turn.tensors.get(name), choices(spec, turn)
        return texts[int(np.argmax(array))] if array is not None and array.size == len(texts) else None

    return Reader(f"the largest element of the tensor {name!r} is at its index", read, distinct=3)


def _best_metric(spec: EnvSpec, turn: Turn) -> str | None:
    """The action after which the largest metric is named."""
    named = {text: turn.metrics[text] for text in choices(spec, turn) if text in turn.metrics}
    return max(named, key=lambda text: named[text]) if named else None


def _word(at: int) -> Read:
    """A word of the text, where actions are free texts."""
    return lambda spec, turn: None if choices(spec, turn) else _at(_words(turn.text), at, fold=False)


def plain_readers(turns: Sequence[Turn]) -> Iterator[Reader]:
    """All ways in which an action itself may be there."""
    yield Reader("the largest metric has its name", _best_metric)
    if any(said(turn) for turn in turns):
        for spelling in _spelled(""):
            for last in (False, True):
                yield Reader(
                    f"the text has it {spelling}, {'last' if last else 'first'} of all", _mention(spelling, last)
                )
        for first in (0, 1):
            for which, place in ((0, "first"), (1, "second"), (-1, "last")):
                told = f"the {place} number in the text is its index, from {first}"
                yield Reader(told, _numbered(which, first), distinct=3)
        for at in range(min(max((len(_words(turn.text)) for turn in turns), default=0), 40)):
            yield Reader(f"it is word {at + 1} of the text", _word(at), distinct=3)
            if at < 8:
                yield Reader(f"it is word {at + 1} from the end of the text", _word(-at - 1), distinct=3)
    if any(len(turn.admissible) > 1 for turn in turns):
        yield Reader("it is the first of the list", _placed(0))
        yield Reader("it is the last of the list", _placed(-1))
    for name in sorted({name for turn in turns for name in turn.metrics}):
        for base in _BASES:
            yield _valued(f"the metric {name!r}", base, lambda turn, name=name: turn.metrics.get(name))  # type: ignore[misc]
    for name, array in sorted({name: array for turn in turns for name, array in turn.tensors.items()}.items()):
        yield _largest(name)
        for at in range(min(array.size, 16)):
            for base in _BASES:
                told = f"the tensor {name!r}" + (f", element {at}," if array.size > 1 else "")
                yield _valued(told, base, lambda turn, name=name, at=at: _element(turn, name, at))  # type: ignore[misc]


def _element(turn: Turn, name: str, at: int) -> float | None:
    array = turn.tensors.get(name)
    return float(array.flat[at]) if array is not None and at < array.size and array.dtype.kind in "iufb" else None


# What can be concluded from a text

Feature = Callable[[str], str | None]


def concluding_readers(pairs: Sequence[tuple[Turn, str]]) -> Iterator[Reader]:
    """Tables that lead from something in the text to an action, as they hold for `pairs` of turn and right action."""
    texts = [turn.text for turn, _ in pairs]
    for name, feature in _features(texts):
        table: dict[str, Counter[str]] = defaultdict(Counter)
        for turn, action in pairs:
            value = feature(turn.text)
            if value is not None:
                table[value][action] += 1
        learnt = {value: counts.most_common(1)[0][0] for value, counts in table.items()}
        if len(learnt) >= 2 and len(table) <= max(len(pairs) / 2, 2):
            yield Reader(name, _looked_up(feature, learnt), plain=False)


def _looked_up(feature: Feature, table: dict[str, str]) -> Read:
    def read(spec: EnvSpec, turn: Turn) -> str | None:
        value = feature(turn.text)
        return None if value is None else table.get(value)

    return read


def _features(texts: Sequence[str]) -> Iterator[tuple[str, Feature]]:
    yield "the whole text decides", lambda text: text
    count = max((len(_words(text)) for text in texts), default=0)
    for at in range(min(count, 40)):
        yield f"word {at + 1} of the text decides", lambda text, at=at: _at(_words(text), at)  # type: ignore[misc]
    for at in range(1, min(count, 8) + 1):
        yield f"word {at} from the end of the text decides", lambda text, at=at: _at(_words(text), -at)  # type: ignore[misc]
    numbers = min(max((len(_numbers(text)) for text in texts), default=0), 6)
    for one in range(numbers):
        for other in range(one):
            yield (
                f"numbers {other + 1} and {one + 1} in the text decide",
                lambda text, one=one, other=other: _order(text, other, one),  # type: ignore[misc]
            )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\s,;:!?()=]+", text[:_READ])


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text[:_READ])]


def _at(words: list[str], at: int, *, fold: bool = True) -> str | None:
    if not -len(words) <= at < len(words):
        return None
    word = words[at].strip(".")
    return word.casefold() if fold else word


def _order(text: str, one: int, other: int) -> str | None:
    numbers = _numbers(text)
    if max(one, other) >= len(numbers):
        return None
    return "<" if numbers[one] < numbers[other] else ">" if numbers[one] > numbers[other] else "="
