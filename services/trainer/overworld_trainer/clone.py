"""Cloning before RL: the model learns to reply as in demonstrations, at least in form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from overworld_vlm.batch import split
from overworld_vlm.load import VLM
from overworld_vlm.score import score

from overworld_trainer.codec import encode_messages, encode_reply
from overworld_trainer.config import CloneConfig
from overworld_trainer.demonstrations import Demonstration
from overworld_trainer.losses import step_mean
from overworld_trainer.masters import MasterAdam

_MAX_GRAD_NORM = 1.0


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
