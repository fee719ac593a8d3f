"""One task, played under one condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from overworld.authoring.env import EnvSpec, Expert, Image, Observation, Outcome, resolve
from overworld.authoring.runner import Result
from overworld.client.moves import Reset
from overworld.evaluation.blank import white
from overworld.evaluation.conversation import CaptionedImage, Conversation, Recipe, Reply
from overworld.evaluation.diagnosis.conditions import AS_IS, Condition
from overworld.evaluation.diagnosis.donors import Film
from overworld.evaluation.game import Game
from overworld.evaluation.recording import Keep

CAPTION = "What the pictures of this turn show: "
EARLIER_TURNS = "Earlier turns:"
THOUGHTS = "Your thoughts: "

_FIRST_NOTES = 8
"""Of notes that are too many, so many of the first turns are kept; the others are the latest."""


class Trial(Game):
    """A game in which the agent is shown what the condition says, and is helped as it says.

    `notes` bounds the earlier turns that are written down. `donor` lends its pictures to SWAPPED.
    """

    def __init__(
        self,
        task: Reset,
        condition: Condition,
        spec: EnvSpec,
        recipe: Recipe,
        *,
        notes: int,
        donor: Film | None = None,
        keep: Keep | None = None,
    ) -> None:
        super().__init__(task, 0, lambda *_: Conversation(spec, condition.recipe(recipe)), keep=keep)
        self.condition = condition
        self.film = Film()
        """The pictures that the env showed, kept for others if the condition is AS_IS."""
        self._spec = spec
        self._max_notes = notes
        self._notes: list[tuple[int, list[str], str]] = []
        self._donor = donor

    def __repr__(self) -> str:
        return f"Trial({self.task}, {self.condition.name}, {len(self._recording)} turns)"

    def shown(self, result: Result) -> Observation:
        """What the condition shows of a result."""
        if self._result is not None and result.executed is not None:
            self._note(self._result, str(result.executed))
        if self.condition is AS_IS:
            self.film.add(result.turn, result.observation.images)
        if self.condition.given:
            return self._with_aids(result)
        return self._with_other_frames(result)

    def understood(self, text: str) -> tuple[Reply, Literal["model", "expert"]]:
        """The reply; where the condition repairs it, the expert's."""
        reply, actor = super().understood(text)
        if "repairs" in self.condition.given and not self._holds_an_action(reply):
            assert self._result is not None
            advice = _expert(self._result)
            return Reply(advice.action, advice.thoughts), "expert"
        return reply, actor

    def _holds_an_action(self, reply: Reply) -> bool:
        """Whether the reply's action will be executed, as far as that can be told; else the next one is repaired."""
        assert self._result is not None
        if self._result.outcome is Outcome.NOT_ADMISSIBLE:
            return False
        return (
            reply.action is not None and resolve(self._spec.action, reply.action, self._result.observation) is not None
        )

    def _note(self, before: Result, executed: str) -> None:
        caption = [before.expert.caption] if before.expert is not None and before.expert.caption else []
        texts = [part for part in before.observation.parts if isinstance(part, str)]
        self._notes.append((before.turn, [*texts, *caption], executed))

    def _with_aids(self, result: Result) -> Observation:
        """The observation, its pictures with captions where these are given, and a text with all aids at its end."""
        given, observation, advice = self.condition.given, result.observation, _expert(result)
        parts: Sequence[str | Image] = observation.parts
        lines = []
        if advice.caption and "earlier_captions" in given:
            parts = _captioned(parts, advice.caption)
        if advice.caption and "captions" in given:
            lines.append(CAPTION + advice.caption)
        if "notes" in given and self._notes:
            lines += [EARLIER_TURNS, *self._written_notes(observation)]
        if "thoughts" in given:
            lines.append(THOUGHTS + advice.thoughts)
        return Observation((*parts, *(["\n".join(lines)] if lines else [])), observation.admissible)

    def _with_other_frames(self, result: Result) -> Observation:
        observation, frames = result.observation, self.condition.frames
        if frames == "own" or not observation.images:
            return observation
        lent = [] if self._donor is None or frames == "blank" else self._donor.at(result.turn)
        count = 0
        parts: list[str | Image] = []
        for part in observation.parts:
            if isinstance(part, Image):
                parts.append(Image(part.name, lent[count]) if count < len(lent) else white(part))
                count += 1
            else:
                parts.append(part)
        return Observation(tuple(parts), observation.admissible)

    def _written_notes(self, now: Observation) -> list[str]:
        """A line per earlier turn, without texts that the present turn repeats."""
        known = {part for part in now.parts if isinstance(part, str)}
        notes: list[tuple[int, list[str], str]] = self._notes
        if len(notes) > self._max_notes:
            first = min(_FIRST_NOTES, self._max_notes // 2)
            notes = notes[:first] + notes[len(notes) - (self._max_notes - first) :]
        return [
            f"Turn {turn}: {' '.join(text for text in texts if text not in known)} Action: {action}".replace("  ", " ")
            for turn, texts, action in notes
        ]


def _expert(result: Result) -> Expert:
    assert result.expert is not None, "conditions with aids are played in sessions that ask for it"
    return result.expert


def _captioned(parts: Sequence[str | Image], caption: str) -> list[str | Image]:
    """The parts, the last picture of them with its caption."""
    last = max(number for number, part in enumerate(parts) if isinstance(part, Image))
    image = parts[last]
    assert isinstance(image, Image)
    captioned = CaptionedImage(image.name, image.pixels, image.xxh64, caption)
    return [*parts[:last], captioned, *parts[last + 1 :]]
