"""Prime Intellect's verifiers plays on Overworld's env servers; with verifiers 0.4.

vf-eval overworld_verifiers --env.taskset.servers '["127.0.0.1:50051"]' --env.taskset.env gym_cards/NumberLine -n 30
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import openai
import verifiers.v1 as vf
from overworld import Act, Fleet, Reset
from overworld.evaluation.conversation import Conversation, Recipe, to_openai
from pydantic import Field
from verifiers.v1.dialects.chat import message_to_wire

# More than episodes: those that wait for a free slot must not hold up the steps of those that have one.
_THREADS = ThreadPoolExecutor(4096, "overworld")

Value = TypeVar("Value")


class OverworldConfig(vf.TasksetConfig):
    """Which env is played, and where."""

    servers: list[str] = Field(default=["127.0.0.1:50051"])
    """Addresses of env servers."""
    env: str = "gym_cards/NumberLine"
    """The env's id."""
    split: str = ""
    """The split that tasks are taken from; empty: the env's default."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The env's options."""
    token_var: str = "OVERWORLD_TOKEN"
    """Variable of the environment that holds the servers' token, where they ask for one."""


class OverworldData(vf.TaskData):
    """An episode."""

    seed: int


class OverworldTask(vf.Task[OverworldData]):
    """An episode; `OverworldEnv` plays and scores it."""


class OverworldTaskset(vf.Taskset[OverworldTask, OverworldConfig]):
    """Episodes by their seeds, without end; in a finite split, its tasks in turn."""

    INFINITE = True

    def load(self) -> Iterator[OverworldTask]:
        """The tasks; none has a prompt, since the env speaks first."""
        for seed in itertools.count():
            yield OverworldTask(OverworldData(name=f"{self.config.env}#{seed}", seed=seed), self.config.task)


class ChatHarness(vf.Harness[vf.HarnessConfig]):
    """A chat completion a turn, asked for in this process; verifiers' own chat harness starts a program for each."""

    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Asks for the next message of the conversation. verifiers records it on its way."""
        messages: Any = [message_to_wire(message) for message in data.prompt]
        async with openai.AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=0) as client:
            await client.chat.completions.create(model=ctx.model, messages=messages)
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


class OverworldEnvConfig(vf.EnvConfig):
    """The one who plays."""

    player: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class OverworldEnv(vf.Env[OverworldEnvConfig]):
    """The env server plays the user: it shows an observation, the model names an action."""

    async def run(self, task: OverworldTask, agents: vf.Agents) -> None:
        """One episode in a slot of its own. The reward is the episode's return, `success` a metric."""
        config = self.taskset.config
        token = os.environ.get(config.token_var, "")
        fleet = await _call(partial(Fleet, config.servers, config.env, 1, options=config.options, token=token))
        try:
            conversation = Conversation(fleet.spec, Recipe())
            [result] = await _call(fleet.step, [Reset(task.data.seed, config.split)])
            total = 0.0
            async with agents.player.interaction(task) as interaction:
                while result.error is None and result.end is None:
                    conversation.observe(result)
                    segment = await interaction.turn(to_openai(conversation.messages()))
                    if segment.terminated:  # a limit of turns or tokens
                        break
                    reply = segment.last_reply
                    [result] = await _call(fleet.step, [Act(conversation.read(reply).action, reply)])
                    total += result.reward
        finally:
            await _call(fleet.close)
        if result.error is not None:  # the simulator failed, which says nothing about the model: no reward
            raise vf.EnvError(f"{config.env} failed: {result.error.reason}: {result.error.message}")
        interaction.trace.record_reward("episode_return", total)
        interaction.trace.record_metric("success", float(bool(result.success)))


async def _call(function: Callable[..., Value], *arguments: Any) -> Value:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, function, *arguments)


__all__ = ["ChatHarness", "OverworldEnv", "OverworldTaskset"]
