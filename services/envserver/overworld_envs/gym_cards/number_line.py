"""NumberLine: walk from one number to another (RL4VLM, gym_cards/envs/numberline.py)."""

from __future__ import annotations

from overworld.authoring.env import ActionSpec, End, EnvSpec, Expert, Observation, Transition

from overworld_envs.drawing import BLACK, WHITE, fill, label, paste
from overworld_envs.gym_cards.game import PROVENANCE, Game
from overworld_envs.gym_cards.symbols import glyph

LARGEST = 5
MOVES = 2 * LARGEST

DEALS = [(start, target) for start in range(LARGEST + 1) for target in range(LARGEST + 1) if start != target]
"""(start, target) of each task of the split "deals"."""


class NumberLine(Game):
    """Two numbers from 0 to 5, the target and the current one, which "+" and "-" move by one.

    Reaching the target earns 1; a move that does not come closer, be it away or against an end of the line, costs 1.
    After ten moves the game is over.
    """

    spec = EnvSpec(
        id="gym_cards/NumberLine",
        task=(
            "The picture shows a target and the current number, 0 to 5. "
            '"+" adds one, "-" takes one away: reach the target. '
            "A move that comes no closer costs a point, and ten moves are the limit."
        ),
        success="The current number reached the target.",
        action=ActionSpec(("-", "+")),
        reward_min=-1.0,
        reward_max=1.0,
        max_turns=300,
        splits={"random": 0, "deals": len(DEALS)},
        default_split="random",
        has_expert=True,
        provenance=PROVENANCE,
    )

    _target = 0
    _current = 0
    _moves = 0

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Deals pair `task` of DEALS, or one drawn from `seed`."""
        if task is None:
            self._random.seed(seed)
            self._current = self._random.randint(0, LARGEST)
            self._target = self._random.randint(0, LARGEST)
            if self._target == self._current:
                self._target = (self._target + 1) % LARGEST
        else:
            self._current, self._target = DEALS[task]
        self._moves = 0
        self.start()
        self._draw_all()
        return self.observe()

    def step(self, action: str) -> Transition:
        """Moves the current number by one."""
        self._moves += 1
        before = abs(self._target - self._current)
        self._current = min(max(self._current + (1 if action == "+" else -1), 0), LARGEST)
        after = abs(self._target - self._current)
        self._draw_number(1, self._current)
        if after == 0:
            return self.transition(1.0, End.TASK, success=True)
        reward = -1.0 if after >= before else 0.0
        return self.transition(reward, End.RULE if self._moves >= MOVES else None)

    def expert(self) -> Expert:
        """Moves towards the target."""
        action, way = ("+", "up") if self._target > self._current else ("-", "down")
        return Expert(action, f"{self._numbers()}, so the number must go {way}.")

    def caption(self) -> str:
        """Both numbers."""
        return f"{self._numbers()}."

    def _numbers(self) -> str:
        return f"The target is {self._target} and the current number is {self._current}"

    def _draw_all(self) -> None:
        size = self.options.size
        fill(self.picture, WHITE)
        for row, (word, number) in enumerate((("Target", self._target), ("Current", self._current))):
            sign = label(word, round(0.14 * size), BLACK, WHITE)
            paste(self.picture, sign, round(0.06 * size), self._row_centre(row) - sign.shape[0] // 2)
            self._draw_number(row, number)

    def _draw_number(self, row: int, number: int) -> None:
        """Draws a digit a third of the picture tall, so that it can be read at 56 x 56 pixels."""
        side = round(0.38 * self.options.size)
        cell = glyph(str(number), side, side, letters=0.87, colours=self.options.colours)
        paste(self.picture, cell, round(0.58 * self.options.size), self._row_centre(row) - side // 2)

    def _row_centre(self, row: int) -> int:
        return round((0.26, 0.74)[row] * self.options.size)
