"""One task, played under one condition."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from overworld.authoring.env import EnvSpec, Expert, Image, Observation, Outcome, resolve
from overworld.authoring.runner import Result
from overworld.client.moves import Act, Move, Reset
from overworld.errors import EvaluationError
from overworld.evaluation.blank import white
from overworld.evaluation.conversation import CaptionedImage, Conversation, Message, Recipe, Reply
from overworld.evaluation.diagnosis.conditions import Condition
from overworld.evaluation.diagnosis.donors import Film
from overworld.evaluation.episodes import Episode
from overworld.evaluation.model import Answer
from overworld.evaluation.recording import Keep, Recording

CAPTION = "What the pictures of this turn show: "
EARLIER_TURNS = "Earlier turns:"
THOUGHTS = "Your thoughts: "

_FIRST_NOTES = 8
"""Of notes that are too many, so many of the first turns are kept; the others are the latest."""


class Trial:
    """An episode while it is played: told what env and agent did, it says what comes next and records it.

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
        self.task = task
        self.condition = condition
        self.film = Film()
        """The pictures that the env showed, kept for others if the condition is AS_IS."""
        self._spec = spec
        self._conversation = Conversation(spec, condition.recipe(recipe))
        self._max_notes = notes
        self._notes: list[tuple[int, list[str], str]] = []
        self._donor = donor
        self._recording = Recording(task, keep)
        self._result: Result | None = None

    def __repr__(self) -> str:
        return f"Trial({self.task}, {self.condition.name}, {len(self._recording)} turns)"

    @property
    def episode(self) -> Episode | None:
        """Its record, once it is over."""
        return self._recording.episode

    def take(self, result: Result) -> None:
        """Takes the result of the last move. Raises EvaluationError."""
        before, self._result = self._result, result
        if before is None:
            self._recording.begin(result)
        else:
            self._recording.advance(result)
        if self.episode is not None:
            return
        if before is not None and result.executed is not None:
            self._note(before, str(result.executed))
        if self.condition.name == "as_is":
            self.film.add(result.turn, result.observation.images)
        shown = self._shown(result)
        if shown is not result.observation:
            self._recording.show(shown)
        self._conversation.observe(dataclasses.replace(result, observation=shown))

    def prompt(self) -> tuple[list[Message], int]:
        """What the model is to reply to now, and the seed of its sampling noise."""
        return self._conversation.messages(), self._noise

    def read(self, answer: Answer) -> Move:
        """What the model's answer means."""
        reply, actor = self._conversation.read(answer.text), "model"
        if "repairs" in self.condition.given and not self._holds_an_action(reply):
            reply, actor = Reply(self._expert.action, self._expert.thoughts), "expert"
        self._recording.decide(
            answer.text,
            reply,
            cut=answer.cut,
            fingerprint=answer.fingerprint,
            sampling_seed=self._noise,
            actor=actor,
        )
        return Act(reply.action, answer.text)

    @property
    def _noise(self) -> int:
        """The same in all conditions, so that what differs between them is the condition."""
        name = repr((self.task.seed, self.task.split, self.task.task, len(self._recording))).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 11

    @property
    def _expert(self) -> Expert:
        assert self._result is not None and self._result.expert is not None
        return self._result.expert

    def _holds_an_action(self, reply: Reply) -> bool:
        """Whether the reply's action will be executed, as far as that can be told; else the next one is repaired."""
        assert self._result is not None
        if self._result.outcome is Outcome.NOT_ADMISSIBLE:
            return False
        return reply.action is not None and resolve(self._spec.action, reply.action, self._observation) is not None

    @property
    def _observation(self) -> Observation:
        assert self._result is not None
        return self._result.observation

    def _note(self, before: Result, executed: str) -> None:
        caption = [before.expert.caption] if before.expert is not None and before.expert.caption else []
        texts = [part for part in before.observation.parts if isinstance(part, str)]
        self._notes.append((before.turn, [*texts, *caption], executed))

    def _shown(self, result: Result) -> Observation:
        """What the agent is shown in place of the result's observation."""
        given = self.condition.given
        if not given:
            return self._with_other_frames(result)
        observation, advice = result.observation, self._expert
        if observation.images and not advice.caption:
            raise EvaluationError(
                f"{self._spec.id} has no words for its pictures, by which sight could be told from the rest: give it "
                "the method Env.caption (rule R14 of proto/README.md)"
            )
        parts: Sequence[str | Image] = observation.parts
        lines = []
        if advice.caption:
            if "earlier_captions" in given:
                parts = _captioned(parts, advice.caption)
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


def _captioned(parts: Sequence[str | Image], caption: str) -> list[str | Image]:
    """The parts, the last picture of them with its caption."""
    last = max(number for number, part in enumerate(parts) if isinstance(part, Image))
    image = parts[last]
    assert isinstance(image, Image)
    captioned = CaptionedImage(image.name, image.pixels, image.xxh64, caption)
    return [*parts[:last], captioned, *parts[last + 1 :]]
