"""The words by which `Header.substitution` says what an agent was shown instead of what it should have seen."""

from __future__ import annotations

from overworld.evaluation.blank import BLANK_FRAMES

SWAPPED_FRAMES = "swapped_frames"
"""Another episode's pictures."""

AIDS = ("captions", "earlier_captions", "notes", "thoughts", "repairs")
"""What a diagnosis gives an agent, one on top of the other. As a substitution, those that were given, joined by "+".

captions          The simulator's words for this turn's pictures.
earlier_captions  The same for every other picture that the prompt shows.
notes             What was shown and done in all earlier turns, in words.
thoughts          The expert's thoughts.
repairs           The expert's action, in place of a reply that holds no admissible one.
"""


def is_known(substitution: str) -> bool:
    """Whether it is one of these words, or none."""
    return substitution in ("", BLANK_FRAMES, SWAPPED_FRAMES) or set(substitution.split("+")) <= {*AIDS}


def is_repaired(substitution: str) -> bool:
    """Whether the expert acts where the agent's reply holds no action."""
    return "repairs" in substitution.split("+")
