"""Teaches a model the form of a tool call, and nothing of the task: it is cloned on episodes of random actions."""

from __future__ import annotations

import random
from typing import Any

import torch
from overworld import EnvSpec
from overworld_trl import Environment
from transformers import Gemma3ForConditionalGeneration, Gemma3Processor

Conversation = list[dict[str, Any]]
"""The messages of one episode, as TRL would write them."""


def play(environment: Environment, spec: EnvSpec, seed: int) -> Conversation:
    """An episode of random actions; when it is over, the model says so and calls no more tools."""
    chance = random.Random(seed)
    seen = environment.reset(seed)
    messages: Conversation = [{"role": "user", "content": [{"type": "text", "text": spec.task}, *seen]}]
    while not environment.over:
        action = chance.choice(spec.action.vocabulary)
        call = {"type": "function", "function": {"name": "act", "arguments": {"action": action}}}
        messages += [
            {"role": "assistant", "content": [], "tool_calls": [call]},
            {"role": "tool", "name": "act", "content": environment.act(action)},
        ]
    return [*messages, {"role": "assistant", "content": [{"type": "text", "text": "Done."}]}]


def clone(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    environment: Environment,
    spec: EnvSpec,
    steps: int,
    batch: int = 8,
) -> float:
    """Fits the model's own turns of fresh episodes by cross-entropy; returns the last loss, in nats per token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for step in range(steps):
        conversations = [play(environment, spec, step * batch + index) for index in range(batch)]
        inputs = processor.apply_chat_template(
            conversations,
            tools=[environment.act],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "add_special_tokens": False},
        )
        labels = inputs["input_ids"].masked_fill(inputs.pop("assistant_masks") == 0, -100)
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return float(loss)
