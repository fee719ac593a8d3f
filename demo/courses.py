"""What the demos teach, and what they must show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_CONFIGS = Path(__file__).parents[1] / "configs" / "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Bounds for the trained agent, in greedy episodes that are held out from training, but for the last one.

    success  least share of successes
    margin   by how much it must exceed the blind ceiling, with a paired 95 % interval above 0
    invalid  largest share of replies without an admissible action in the last update's rollout, which is sampled
    """

    success: float
    margin: float
    invalid: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """An env that is learnt with the settings in `config`.

    The policies play each task of `split`, or the seeds from 0 to `episodes`. With `targets` the blind ceiling is
    measured, too: another agent is trained on white pictures, and the best fixed sequence of actions is looked for.
    """

    env: str
    config: Path
    split: str = ""
    episodes: int = 0
    targets: Targets | None = None

    @property
    def simulator(self) -> str:
        """What serves the env."""
        return self.env.partition("/")[0]


COURSES = {
    "number-line": Course(env="gym_cards/NumberLine", config=_CONFIGS / "gym_cards.yaml", split="deals"),
    "hallway": Course(
        env="miniworld/Hallway",
        config=_CONFIGS / "miniworld.yaml",
        episodes=200,
        targets=Targets(success=0.85, margin=0.15, invalid=0.02),
    ),
}
"""By the name that `--course` takes."""
