"""TRL's GRPOTrainer plays on Overworld's env servers; with trl 1.16.

with Environments(["127.0.0.1:50051"], "gym_cards/NumberLine") as environments:
    GRPOTrainer(
        model,
        reward_funcs=[episode_return, success],
        train_dataset=Dataset.from_list(rows(environments.spec, range(1000))),
        environment_factory=environments,
    ).train()
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import PIL.Image
from overworld import EnvSpec, Fleet, Image, Observation, OverworldError, Reset
from overworld.client.moves import Move
from overworld.evaluation.conversation import read_reply

Block = dict[str, Any]
"""{"type": "text", "text": str} or {"type": "image", "image": PIL image}: a part of a message, as TRL takes it."""


class Environments:
    """TRL's `environment_factory`: each call leases one more slot; the end of the context returns them all.

    The arguments are those of `Fleet`, e.g. `options` of the env and `token`. Raises what `Fleet` raises.
    """

    def __init__(self, servers: Sequence[str], env_id: str, **arguments: Any) -> None:
        self._open = partial(Fleet, servers, env_id, 1, **arguments)
        self._fleets = [self._open()]
        self._unused = list(self._fleets)

    def __call__(self) -> Environment:
        """One more environment."""
        if not self._unused:
            self._fleets.append(self._open())
            self._unused.append(self._fleets[-1])
        return Environment(self._unused.pop())

    def __enter__(self) -> Environments:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fleet in self._fleets:
            fleet.close()

    @property
    def spec(self) -> EnvSpec:
        """The env with these options."""
        return self._fleets[0].spec


class Environment:
    """One slot. TRL has one for each rollout of a batch, and offers its public method to the model as a tool."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.over = True
        self.total_reward = 0.0
        self.failed = False
        self.success = False
        self.lost: OverworldError | None = None

    def reset(self, seed: int, split: str = "", task: int | None = None, **_: Any) -> list[Block]:
        """Starts the episode of a row of the data set. What it shows is appended to the row's prompt."""
        self.total_reward, self.success, self.failed, self.over, self.lost = 0.0, False, False, False, None
        return self._move(Reset(seed, split, task))

    def act(self, action: str) -> list[Block]:
        """Takes an action and shows what happened.

        Args:
            action: One of the listed actions.
        """
        if self.over:
            return [_text("The episode is over.")]
        # A model may pass anything that JSON can hold, and at any length: what is no action skips the turn.
        known = read_reply(json.dumps({"action": action}), self._fleet.spec.action.max_text_bytes or 4096).action
        return self._move(known)

    def _move(self, move: Move) -> list[Block]:
        try:
            [result] = self._fleet.step([move])
        except OverworldError as error:
            self.lost = error  # TRL only shows it to the model and carries on, so the reward functions raise it
            raise
        if result.error is not None:  # the simulator failed, which says nothing about the model
            self.failed = self.over = True
            return [_text(f"The environment failed: {result.error.message}")]
        self.total_reward += result.reward
        blocks = _blocks(result.observation, self._fleet.spec)
        if not isinstance(move, Reset) and result.executed is None:
            blocks.append(_text("That is not one of the actions."))
        if result.end is not None:
            self.success, self.over = bool(result.success), True
            blocks.append(_text("The episode is over."))
        return blocks


def episode_return(environments: Sequence[Environment], **_: Any) -> list[float | None]:
    """A reward function: the sum of the episode's rewards. None where the simulator failed: TRL leaves those out."""
    return [environment.total_reward if played else None for environment, played in _scored(environments)]


def success(environments: Sequence[Environment], **_: Any) -> list[float | None]:
    """A reward function: 1 where the task was achieved, else 0; None as above."""
    return [float(environment.success) if played else None for environment, played in _scored(environments)]


def _scored(environments: Sequence[Environment]) -> list[tuple[Environment, bool]]:
    """The environments, and whether their episodes can be scored. Raises what a server was lost with."""
    for environment in environments:
        if environment.lost is not None:
            raise environment.lost
    return [(environment, not environment.failed) for environment in environments]


def rows(spec: EnvSpec, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """A data set: one episode a row. TRL plays each row several times, so that a group begins from the same state."""
    return [{"prompt": [{"role": "user", "content": spec.task}], "seed": seed} for seed in seeds]


def _blocks(observation: Observation, spec: EnvSpec) -> list[Block]:
    blocks = [
        {"type": "image", "image": _picture(part)} if isinstance(part, Image) else _text(part)
        for part in observation.parts
    ]
    actions = observation.admissible or spec.action.vocabulary
    return [*blocks, _text(f"Actions: {json.dumps(actions)}")] if actions else blocks


def _picture(image: Image) -> PIL.Image.Image:
    height, width, _ = image.pixels.shape  # of one channel or of three
    return PIL.Image.fromarray(np.broadcast_to(image.pixels, (height, width, 3)))


def _text(text: str) -> Block:
    return {"type": "text", "text": text}
