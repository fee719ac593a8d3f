"""Cloning an env's expert before RL, so that the model knows the form of a reply.

Thoughts are the expert's; a share of its actions is replaced by random ones, so that the form is learnt and the task is
not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from overworld import Act, Fleet, Reset, Result
from overworld.evaluation.conversation import Conversation, Message, write_reply
from overworld_vlm.batch import encode
from overworld_vlm.load import VLM
from overworld_vlm.score import score

from overworld_trainer.config import CloneConfig, TrainerConfig
from overworld_trainer.losses import step_mean
from overworld_trainer.rollout import EnvError, as_arrays, open_fleet
from overworld_trainer.seeds import derive

_MAX_GRAD_NORM = 1.0
_TEXT_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What the model saw and what it should have replied."""

    messages: list[Message]
    reply: str


@dataclass(eq=False, slots=True)
class _Slot:
    env: int
    index: int
    fleet: Fleet
    conversation: Conversation
    result: Result
    episode: int = 0


class Demonstrations:
    """Endless demonstrations from sessions that ask for the expert's advice."""

    def __init__(self, config: TrainerConfig) -> None:
        self._config = config
        self._fleets = [open_fleet(config, env, expert=True) for env in config.envs]
        self._slots = []
        for env, fleet in enumerate(self._fleets):
            moves = {index: self._reset(env, index, 0) for index in range(len(fleet))}
            for result in fleet.step(moves):
                self._slots.append(
                    _Slot(env, result.slot, fleet, Conversation(fleet.spec, config.recipe), _unfailed(result))
                )

    def __enter__(self) -> Demonstrations:
        return self

    def __exit__(self, *_: object) -> None:
        for fleet in self._fleets:
            fleet.close()

    def batch(self) -> list[Demonstration]:
        """One decision of every slot. Raises EnvError."""
        demonstrations = []
        moves: dict[Fleet, dict[int, Act]] = {}
        for slot in self._slots:
            slot.conversation.observe(slot.result)
            action, thoughts = self._advice(slot)
            reply = write_reply(self._config.recipe, action, thoughts)
            demonstrations.append(Demonstration(slot.conversation.messages(), reply))
            moves.setdefault(slot.fleet, {})[slot.index] = Act(action, reply)
        results = {(fleet, result.slot): result for fleet, acts in moves.items() for result in fleet.step(acts)}
        for slot in self._slots:
            slot.result = _unfailed(results[slot.fleet, slot.index])
            if slot.result.end is not None:
                slot.episode += 1
                reset = self._reset(slot.env, slot.index, slot.episode)
                (fresh,) = slot.fleet.step({slot.index: reset})
                slot.result = _unfailed(fresh)
        return demonstrations

    @property
    def provenance(self) -> dict[str, dict[str, str]]:
        """Env id -> its provenance."""
        return {fleet.spec.id: dict(fleet.spec.provenance) for fleet in self._fleets}

    def texts(self) -> list[str]:
        """Prompts and replies to train a tokenizer on."""
        texts = []
        for _ in range(_TEXT_BATCHES):
            for demonstration in self.batch():
                texts += [demonstration.messages[0]["content"][-1]["text"], demonstration.reply]
        return texts

    def _advice(self, slot: _Slot) -> tuple[str, str]:
        """Action and thoughts for a slot."""
        expert = slot.result.expert
        if expert is None:
            raise EnvError(f"{slot.fleet.spec.id} gave no expert advice")
        names = "clone", slot.env, slot.index, slot.episode, slot.result.turn
        rng = random.Random(derive(self._config.seed, *names))
        if rng.random() >= self._config.clone.random_actions:
            return expert.action, expert.thoughts
        choices = slot.result.observation.admissible or slot.fleet.spec.action.vocabulary
        if not choices:
            raise EnvError(f"{slot.fleet.spec.id} lists no actions to draw from: set clone.random_actions = 0")
        return rng.choice(choices), expert.thoughts

    def _reset(self, env: int, index: int, episode: int) -> Reset:
        return Reset(derive(self._config.seed, "clone", env, index, episode), self._config.envs[env].split)


def clone(
    vlm: VLM,
    batches: Callable[[], Sequence[Demonstration]],
    config: CloneConfig,
    on_update: Callable[[int, float], None],
) -> None:
    """Trains the trainable weights on batches of demonstrations, and tells `on_update` the number and the loss.

    The loss is the negative log-prob of the reply's tokens: mean within each reply, then over replies.
    """
    weights = [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=config.lr)
    for update in range(config.updates):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 + math.cos(math.pi * update / config.updates)) / 2
        demonstrations = batches()
        prompts = [encode(vlm, as_arrays(demonstration.messages)) for demonstration in demonstrations]
        scores = score(vlm, prompts, [_reply_ids(vlm, demonstration.reply) for demonstration in demonstrations])
        loss = -step_mean(scores.logps, scores.mask).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, _MAX_GRAD_NORM)
        optimizer.step()
        on_update(update, loss.item())


def _reply_ids(vlm: VLM, reply: str) -> torch.Tensor:
    """A reply as the model should write it: with EOS at its end."""
    ids = vlm.tokenizer(reply, add_special_tokens=False)["input_ids"]
    return torch.tensor([*ids, vlm.tokenizer.eos_token_id])


def _unfailed(result: Result) -> Result:
    if result.error is not None:
        raise EnvError(
            f"slot {result.slot} failed while the expert played: {result.error.reason}: {result.error.message}"
        )
    return result
