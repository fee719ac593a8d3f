"""The conditions under which a diagnosis plays the same tasks: what is taken from the agent, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from overworld.evaluation.blank import BLANK_FRAMES
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.substitution import AIDS, SWAPPED_FRAMES


@dataclass(frozen=True, slots=True)
class Condition:
    """A way to play. `given` are the aids that it gives; `history` replaces the recipe's."""

    name: str
    frames: Literal["own", "blank", "swapped"] = "own"
    given: tuple[str, ...] = ()
    history: int | None = None

    @property
    def substitution(self) -> str:
        """As the header of its episodes says it."""
        if self.frames != "own":
            return BLANK_FRAMES if self.frames == "blank" else SWAPPED_FRAMES
        return "+".join(self.given)

    def recipe(self, own: Recipe) -> Recipe:
        """The recipe of its prompts."""
        return own if self.history is None else own.model_copy(update={"history": self.history})


AS_IS = Condition("as_is")
BLANK = Condition(BLANK_FRAMES, frames="blank")
SWAPPED = Condition(SWAPPED_FRAMES, frames="swapped")
SHORT_HISTORY, LONG_HISTORY = "short_history", "long_history"


def controls(recipe: Recipe, longer: int) -> list[Condition]:
    """What is compared with the agent as it is, SWAPPED aside. `longer`: turns of the long history.

    For a recipe whose prompts show one turn only there is no shorter history.
    """
    short = [Condition(SHORT_HISTORY, history=1)] if recipe.history > 1 else []
    return [BLANK, *short, Condition(LONG_HISTORY, history=longer)]


def aids(recipe: Recipe) -> list[str]:
    """The steps of the ladder: where prompts show one turn only, there are no earlier captions."""
    return [aid for aid in AIDS if recipe.history > 1 or aid != "earlier_captions"]
