"""A game that only those who look can win: step onto the triangle, and not onto the other shapes."""

from __future__ import annotations

import random
from typing import ClassVar

import numpy as np
import PIL
from overworld import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Options, Transition
from PIL import Image as Picture
from PIL import ImageDraw
from pydantic import Field

_MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_SHAPES = ("triangle", "square", "circle")
_COLOURS = ("red", "gold", "limegreen", "deepskyblue", "orchid")

Cell = tuple[int, int]
"""Row and column on the board, from the top left."""


class BoardOptions(Options):
    """What a client may choose."""

    max_turns: int = Field(default=20, ge=1, le=1000, description="turns after which the host ends an episode")
    side: int = Field(default=4, ge=3, le=12, description="rows, and columns, of the board")
    cell: int = Field(default=16, ge=8, le=64, description="height and width of a cell in pixels")


class Triangle(Env):
    """A board with three shapes and the agent, a white cross. Any shape ends the episode; the triangle wins it."""

    options_model: ClassVar[type[Options]] = BoardOptions
    options: BoardOptions
    spec = EnvSpec(
        id="shape_hunt/Triangle",
        task="You are the white cross. Step onto the triangle, and not onto the square or the circle.",
        success="The cross stepped onto the triangle.",
        action=ActionSpec(tuple(_MOVES)),
        reward_max=1.0,
        max_turns=20,
        splits={"train": 0, "test": 100},
        default_split="train",
        has_expert=True,
        pixels_reproducible="always",
        provenance={"rules": "1", "pillow": PIL.__version__},
    )

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """A board on which a way leads to the triangle; the split `test` has boards of its own."""
        rng = random.Random(f"{split} {seed if task is None else task}")
        board = [(row, column) for row in range(self.options.side) for column in range(self.options.side)]
        self._steps = 0
        while True:
            self._cross, *cells = rng.sample(board, 1 + len(_SHAPES))
            colours = rng.sample(_COLOURS, len(_SHAPES))
            self._shapes = dict(zip(cells, zip(_SHAPES, colours, strict=True), strict=True))
            self._distances = self._measure(cells[0])
            if self._cross in self._distances:
                return self._look()

    def step(self, action: str) -> Transition:
        """Moves the cross by one cell; the reward is 1 for the triangle, else 0."""
        self._cross = self._around(self._cross)[action]
        self._steps += 1
        if self._cross not in self._shapes:
            return Transition(self._look(), 0.0)
        won = self._distances.get(self._cross) == 0
        return Transition(self._look(), float(won), End.TASK, won)

    def expert(self) -> Expert:
        """The first step of a shortest way past the other shapes."""
        moves = self._around(self._cross)
        best = min(moves, key=lambda move: self._distances.get(moves[move], np.inf))
        triangle = next(iter(self._shapes))
        down, right = triangle[0] - self._cross[0], triangle[1] - self._cross[1]
        rows = [f"{abs(down)} {'down' if down > 0 else 'up'}"] if down else []
        columns = [f"{abs(right)} {'right' if right > 0 else 'left'}"] if right else []
        return Expert(best, f"The triangle is {' and '.join(rows + columns)}.")

    def _around(self, cell: Cell) -> dict[str, Cell]:
        """Where each move leads that stays on the board."""
        moved = {move: (cell[0] + down, cell[1] + right) for move, (down, right) in _MOVES.items()}
        return {move: there for move, there in moved.items() if max(there) < self.options.side and min(there) >= 0}

    def _measure(self, triangle: Cell) -> dict[Cell, int]:
        """Steps to the triangle from each cell that has a way there, found in waves."""
        distances, wave = {triangle: 0}, [triangle]
        for cell in wave:  # which grows meanwhile
            for there in self._around(cell).values():
                if there not in distances and there not in self._shapes:
                    distances[there] = distances[cell] + 1
                    wave.append(there)
        return distances

    def _look(self) -> Observation:
        size, side = self.options.cell, self.options.cell * self.options.side
        picture = Picture.new("RGB", (side, side), "black")
        draw = ImageDraw.Draw(picture)
        for (row, column), (shape, colour) in self._shapes.items():
            x, y, radius = (column + 0.5) * size, (row + 0.5) * size, 0.45 * size
            if shape == "circle":
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
            else:
                draw.regular_polygon((x, y, radius), 3 if shape == "triangle" else 4, fill=colour)
        top, left, low, far = self._cross[0] * size, self._cross[1] * size, size // 5, size - 1 - size // 5
        draw.line((left + low, top + low, left + far, top + far), "white", size // 8)
        draw.line((left + far, top + low, left + low, top + far), "white", size // 8)
        canvas = self.canvas("board", side, side)
        canvas[...] = np.asarray(picture)
        text = f"The board is {self.options.side} cells high and wide. Steps so far: {self._steps}."
        return Observation((Image("board", canvas), text), admissible=tuple(self._around(self._cross)))
