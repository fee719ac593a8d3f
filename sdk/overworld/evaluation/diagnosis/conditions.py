"""The conditions under which a diagnosis plays the same tasks: what is taken from the agent, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from overworld.evaluation.blank import BLANK_FRAMES
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.substitution import AIDS, SWAPPED_FRAMES


@dataclass(frozen=True, slots=True)
class Condition:
    """A way to play. It gives the first `aids` of AIDS; `history` replaces the recipe's."""

    name: str
    frames: Literal["own", "blank", "swapped"] = "own"
    aids: int = 0
    history: int | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """The aids."""
        return AIDS[: self.aids]

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
LADDER = (AS_IS, *(Condition(name, aids=number) for number, name in enumerate(AIDS, 1)))
"""As it is, then with one aid more each."""
SHORT_HISTORY, LONG_HISTORY = "short_history", "long_history"


def conditions(recipe: Recipe, longer: int) -> list[Condition]:
    """All that a diagnosis plays, the privileged ones first: they may be refused. `longer`: turns of the long history.

    A recipe whose prompts show one turn only has no earlier captions and no shorter history.
    """
    ladder = [one for one in LADDER[1:] if recipe.history > 1 or one.name != "earlier_captions"]
    short = [Condition(SHORT_HISTORY, history=1)] if recipe.history > 1 else []
    return [*ladder, AS_IS, BLANK, SWAPPED, *short, Condition(LONG_HISTORY, history=longer)]
