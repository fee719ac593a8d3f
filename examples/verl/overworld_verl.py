"""verl's agent loop on Overworld's env servers; with verl 0.9. agent_loop.yaml names it to the trainer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import PIL.Image
from overworld import Act, Fleet, Reset, Result
from overworld.evaluation.conversation import Conversation, Message, Recipe
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register
from verl.utils.profiler import simple_timer

_TRIES = 3
# More than episodes: those that wait for a free slot must not hold up the steps of those that have one.
_THREADS = ThreadPoolExecutor(4096, "overworld")

Value = TypeVar("Value")


class SimulatorError(Exception):
    """An episode failed inside the env server."""


@register("overworld")
class OverworldAgentLoop(AgentLoopBase):
    """Plays one episode in a slot of its own: observations are user messages, replies name actions.

    servers    Addresses of env servers.
    env        The env's id; `options` are its options.
    max_turns  Actions after which the episode is broken off; 0: the env's own limit alone.
    token_var  Variable of the environment that holds the servers' token, where they ask for one.

    Each row of the data set has a `seed`, and may have a `split`.
    """

    def __init__(
        self,
        *arguments: Any,
        servers: Sequence[str],
        env: str,
        options: Mapping[str, Any] | None = None,
        max_turns: int = 0,
        token_var: str = "OVERWORLD_TOKEN",
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        token = os.environ.get(token_var, "")
        self._open = lambda: Fleet(list(servers), env, 1, options=options, token=token)
        self._max_turns = max_turns

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """The episode of a row, its return as the reward.

        If the simulator fails the episode is played once more, since a failure says nothing about the model; after
        three in a row SimulatorError is raised. Raises what `Fleet` raises.
        """
        start = Reset(int(row["seed"]), str(row.get("split", "")))
        fleet = await _call(self._open)
        failures = 0
        try:
            while True:
                try:
                    return await self._play(fleet, start, sampling_params)
                except SimulatorError:
                    failures += 1
                    if failures == _TRIES:
                        raise
        finally:
            await _call(fleet.close)

    async def _play(self, fleet: Fleet, start: Reset, sampling_params: dict[str, Any]) -> AgentLoopOutput:
        name, limit = uuid4().hex, self.rollout_config.response_length
        timers: dict[str, float] = {}
        conversation = Conversation(fleet.spec, Recipe())
        result = await _step(fleet, start)
        messages, images = _seen(conversation, result)
        self._assert_mm_supported(bool(images))
        tokens = await self.ct_build_initial_tokens(messages, images=images)
        mask: list[int] = []
        log_probs: list[float] | None = None
        prompt, total, turns = tokens, 0.0, 0
        while True:
            with simple_timer("generate_sequences", timers):
                output = await self.server_manager.generate(
                    request_id=name, prompt_ids=tokens, sampling_params=sampling_params, image_data=images
                )
            if output.log_probs and log_probs is None:
                log_probs = []
            merged, mask, log_probs = await self.ct_merge_assistant_token(
                tokens, output.token_ids, mask, log_probs, assistant_logprobs=output.log_probs
            )
            tokens = merged.token_ids
            reply = self.tokenizer.decode(output.token_ids, skip_special_tokens=True)
            with simple_timer("tool_calls", timers):
                result = await _step(fleet, Act(conversation.read(reply).action, reply))
            total, turns = total + result.reward, turns + 1
            if result.end is not None or turns == self._max_turns or len(mask) >= limit:
                break
            shown, new = _seen(conversation, result)
            before = [*messages, {"role": "assistant", "content": [{"type": "text", "text": reply}]}]
            merged, longer, probs = await self.ct_merge_context_msg(before, [*before, *shown], tokens, mask, log_probs)
            if len(longer) >= limit:  # no room for the next observation, so the response ends here
                break
            messages, tokens, mask, log_probs = [*before, *shown], merged.token_ids, longer, probs
            images = [*images, *new]
        return AgentLoopOutput(
            prompt_ids=prompt,
            response_ids=tokens[len(prompt) :][:limit],
            response_mask=mask[:limit],
            response_logprobs=None if log_probs is None else log_probs[:limit],
            multi_modal_data={"images": images} if images else {},
            reward_score=total,
            num_turns=2 * turns + 1,
            metrics=AgentLoopMetrics(**timers),
            extra_fields={"success": bool(result.success), "turn_scores": [], "tool_rewards": []},
        )


async def _call(function: Callable[..., Value], *arguments: Any) -> Value:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, function, *arguments)


async def _step(fleet: Fleet, move: Reset | Act) -> Result:
    [result] = await _call(fleet.step, [move])
    if result.error is not None:
        raise SimulatorError(f"{fleet.spec.id}: {result.error.reason}: {result.error.message}")
    return result


def _seen(conversation: Conversation, result: Result) -> tuple[list[Message], list[PIL.Image.Image]]:
    """What the model is shown of a result, as a message with its images, and the images once more."""
    conversation.observe(result)
    [message] = conversation.messages()
    images, content = [], []
    for part in message["content"]:
        if part["type"] == "image":
            height, width, _ = part["image"].pixels.shape  # of one channel or of three
            images.append(PIL.Image.fromarray(np.broadcast_to(part["image"].pixels, (height, width, 3))))
            part = {"type": "image", "image": images[-1]}
        content.append(part)
    return [message | {"content": content}], images
