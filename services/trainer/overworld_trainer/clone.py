"""Cloning an env's expert before RL, so that the model knows the form of a reply.

The thoughts are the expert's; a share of its actions is replaced by random ones, so that the model learns the form and
not the task.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from overworld import Act, Result
from overworld.evaluation.conversation import Message, write_reply
from overworld_vlm.batch import split
from overworld_vlm.load import VLM
from overworld_vlm.score import score

from overworld_trainer.codec import encode_messages, encode_reply
from overworld_trainer.config import CloneConfig, TrainerConfig
from overworld_trainer.episodes import EnvError, Episodes, Player
from overworld_trainer.losses import step_mean
from overworld_trainer.masters import MasterAdam
from overworld_trainer.seeds import derive

_MAX_GRAD_NORM = 1.0
_TEXT_BATCHES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """What the model saw and what it should have replied."""

    messages: list[Message]
    reply: str


class Demonstrations:
    """Endless demonstrations by the experts of a run's envs."""

    def __init__(self, config: TrainerConfig, episodes: Episodes) -> None:
        self._config = config
        self._episodes = episodes

    @classmethod
    def open(cls, config: TrainerConfig) -> Demonstrations:
        """Takes slots on the env servers, asking for expert advice. Raises what `Episodes.open` raises."""

        def seed(env: int, slot: int, episode: int) -> int:
            return derive(config.seed, "clone", env, slot, episode)

        return cls(config, Episodes.open(config, seed, expert=True))

    def __enter__(self) -> Demonstrations:
        return self

    def __exit__(self, *_: object) -> None:
        self._episodes.close()

    @property
    def provenance(self) -> dict[str, dict[str, str]]:
        """Env id -> its provenance."""
        return self._episodes.provenance

    def batch(self) -> list[Demonstration]:
        """One decision of every player. Raises EnvError."""
        demonstrations = []
        acts = {}
        for player in self._episodes.players:
            action, thoughts = self._advice(player)
            reply = write_reply(self._config.recipe, action, thoughts)
            demonstrations.append(Demonstration(messages=player.messages(), reply=reply))
            acts[player] = Act(action, reply)
        self._episodes.send(acts)
        for played in self._episodes.receive_all().values():
            _require_ok(played.result)
        return demonstrations

    def texts(self) -> list[str]:
        """Prompts and replies to train a tokenizer on."""
        texts = []
        for _ in range(_TEXT_BATCHES):
            for demonstration in self.batch():
                texts += [demonstration.messages[0]["content"][-1]["text"], demonstration.reply]
        return texts

    def _advice(self, player: Player) -> tuple[str, str]:
        """Action and thoughts for a player."""
        spec, result = player.fleet.spec, player.result
        if result.expert is None:
            raise EnvError(f"{spec.id} gave no expert advice")
        names = "clone", player.env, player.slot, player.episode, player.turn
        rng = random.Random(derive(self._config.seed, *names))
        if rng.random() >= self._config.clone.random_actions:
            return result.expert.action, result.expert.thoughts
        choices = result.observation.admissible or spec.action.vocabulary
        if not choices:
            raise EnvError(f"{spec.id} lists no actions to draw from: set clone.random_actions = 0")
        return rng.choice(choices), result.expert.thoughts


def clone(
    vlm: VLM,
    batches: Callable[[], Sequence[Demonstration]],
    config: CloneConfig,
    on_update: Callable[[int, float], None],
) -> None:
    """Trains the trainable weights on batches of demonstrations; `on_update` gets each update's number and loss.

    The loss is the negative log-prob of the reply's tokens: mean within each reply, then over replies.
    """
    weights = [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]
    optimizer = MasterAdam(weights, lr=config.lr)
    for update in range(config.updates):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 + math.cos(math.pi * update / config.updates)) / 2
        demonstrations = batches()
        prompts = [encode_messages(vlm, one.messages) for one in demonstrations]
        replies = [encode_reply(vlm, one.reply) for one in demonstrations]
        lengths = [len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True)]
        total = 0.0
        optimizer.zero_grad()
        for part in split(lengths, vlm.batch_tokens):
            scores = score(vlm, [prompts[n] for n in part], [replies[n] for n in part])
            loss = -step_mean(scores.logps, scores.mask).sum() / len(demonstrations)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(optimizer.masters, _MAX_GRAD_NORM)
        optimizer.step()
        on_update(update, total)
    optimizer.close()


def _require_ok(result: Result) -> None:
    if result.error is not None:
        raise EnvError(
            f"slot {result.slot} failed while the expert played: {result.error.reason}: {result.error.message}"
        )
