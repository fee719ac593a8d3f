"""An env server of another team: walk to the treasure of an island. All it needs of Overworld is the SDK."""

from __future__ import annotations

import os
import random
from pathlib import Path

from overworld import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Transition
from overworld.authoring.env import Pixels

_CELL = 8  # pixels
_GREEN, _ROCK, _GOLD, _BLUE = (60, 160, 60), (70, 70, 70), (255, 200, 0), (30, 60, 255)
_MOVES = {"north": (-1, 0), "south": (1, 0), "west": (0, -1), "east": (0, 1)}
_MAX_SIDE = 32  # cells

Place = tuple[int, int]
"""Row and column on the map."""


class MapError(Exception):
    """The map cannot be used; the message says why and what to do."""


def read_map(path: Path) -> set[Place]:
    """The free cells of a map: lines of `.` (free) and `#` (rock). Raises MapError."""
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(2 * _MAX_SIDE**2)
    except (OSError, UnicodeDecodeError) as error:
        raise MapError(
            f"the map {path} cannot be read ({error}): put one there that user {os.getuid()} can read, or name another "
            "in TREASURE_MAP"
        ) from None
    lines = text.split()
    if set("".join(lines)) - set(".#") or max(len(lines), *map(len, lines), 0) > _MAX_SIDE:
        raise MapError(f"the map {path} must be up to {_MAX_SIDE} lines of up to {_MAX_SIDE} characters, each . or #")
    free = {(row, column) for row, line in enumerate(lines) for column, cell in enumerate(line) if cell == "."}
    reached, wave = set[Place](), set(sorted(free)[:1])
    while wave:
        reached |= wave
        wave = {
            (row + down, column + right) for row, column in wave for down, right in _MOVES.values()
        } & free - reached
    if len(free) < 2 or reached != free:
        raise MapError(f"the map {path} must have 2 or more free cells, and a way between any two of them")
    return free


class Treasure(Env):
    """An island of cells; rocks cannot be entered. Walker and treasure are put on it by the seed."""

    spec = EnvSpec(
        id="island/Treasure",
        task="You are the blue square on the picture. Walk to the treasure, the yellow square.",
        success="The walker reached the treasure.",
        action=ActionSpec(tuple(_MOVES)),
        reward_min=-0.1,
        reward_max=1.0,
        max_turns=300,
        has_expert=True,
    )
    _free = read_map(Path(os.environ.get("TREASURE_MAP") or Path(__file__).with_name("island.txt")))

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Two places that the seed draws."""
        self._walker, self._treasure = random.Random(seed).sample(sorted(self._free), 2)
        return self._look()

    def step(self, action: str) -> Transition:
        """Walks a cell, unless the sea or a rock is there; 1 for the treasure, else -0.1."""
        self._walker = self._after(self._walker, action)
        if self._walker == self._treasure:
            return Transition(self._look(), reward=1.0, end=End.TASK, success=True)
        return Transition(self._look(), reward=-0.1)

    def expert(self) -> Expert:
        """The first step of a shortest way."""
        row, column = self._walker
        down, right = self._treasure[0] - row, self._treasure[1] - column
        thoughts = f"The treasure is {down} rows down and {right} columns to the right."
        return Expert(min(_MOVES, key=lambda move: self._distance(self._after(self._walker, move))), thoughts)

    def _after(self, place: Place, move: str) -> Place:
        down, right = _MOVES[move]
        there = place[0] + down, place[1] + right
        return there if there in self._free else place

    def _distance(self, start: Place) -> int:
        """Steps of a shortest way to the treasure, found in waves."""
        reached, wave, steps = {start}, {start}, 0
        while self._treasure not in wave:
            wave = {self._after(place, move) for place in wave for move in _MOVES} - reached
            reached |= wave
            steps += 1
        return steps

    def _look(self) -> Observation:
        canvas = self.canvas("island", *(_CELL * (1 + max(place[axis] for place in self._free)) for axis in (0, 1)))
        canvas[...] = _ROCK
        for place in self._free:
            _fill(canvas, place, _GREEN)
        _fill(canvas, self._treasure, _GOLD)
        _fill(canvas, self._walker, _BLUE)
        return Observation((Image("island", canvas),))


def _fill(canvas: Pixels, place: Place, colour: tuple[int, int, int]) -> None:
    row, column = place[0] * _CELL, place[1] * _CELL
    canvas[row : row + _CELL, column : column + _CELL] = colour
