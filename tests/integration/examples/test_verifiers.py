"""The env of verifiers against its interface as it was recorded, and a real env server.

Recorded from verifiers 0.4.0, verifiers/v1: what overworld_verifiers.py uses of it, and what that gives back.
`make example-verifiers` runs it in verifiers itself, with the policy server.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from types import ModuleType, SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest
from overworld import server_info
from overworld.host.process import ServerProcess
from pydantic import BaseModel

from tests.support.examples import load_example

T = TypeVar("T")
U = TypeVar("U")


class Config(BaseModel):
    task: Any = None


class TaskData(BaseModel):
    name: str | None = None
    prompt: Any = None


class Task(Generic[T]):
    def __init__(self, data: T, config: Any = None) -> None:
        self.data = data


class Taskset(Generic[T, U]):
    def __init__(self, config: U) -> None:
        self.config = config


class Env(Generic[T]):
    def __init__(self, taskset: Any) -> None:
        self.taskset = taskset


class Harness(Generic[T]):
    pass


class EnvError(Exception):
    pass


@dataclass
class Trace:
    rewards: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        self.rewards[name] = value

    def record_metric(self, name: str, value: float) -> None:
        self.metrics[name] = value


@dataclass
class Player:
    """An agent that names these actions; then its run ends, as at a limit of turns."""

    actions: list[str]
    trace: Trace = field(default_factory=Trace)
    seen: list[Any] = field(default_factory=list)

    @asynccontextmanager
    async def interaction(self, task: Any) -> AsyncIterator[Player]:
        yield self

    async def turn(self, message: Any = None) -> Any:
        self.seen.append(message)
        if not self.actions:
            return SimpleNamespace(terminated=True, last_reply="")
        return SimpleNamespace(terminated=False, last_reply=f'{{"action": "{self.actions.pop(0)}"}}')


@pytest.fixture(scope="module")
def verifiers() -> Iterator[ModuleType]:
    names = ("openai", "verifiers", "verifiers.v1", "verifiers.v1.dialects.chat")
    _, package, v1, chat = modules = [ModuleType(name) for name in names]
    vars(v1).update(
        TasksetConfig=Config, EnvConfig=Config, TaskData=TaskData, Task=Task, Taskset=Taskset, Env=Env, Harness=Harness,
        HarnessConfig=Config, EnvError=EnvError, AgentConfig=lambda runtime: runtime, SubprocessConfig=lambda: None,
    )  # fmt: skip
    vars(package).update(v1=v1)
    vars(chat).update(message_to_wire=dict)
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setitem(sys.modules, module.__name__, module)
        yield load_example("verifiers/overworld_verifiers.py")


def play(verifiers: ModuleType, server: str, actions: list[str], seed: int = 0, **settings: Any) -> Player:
    taskset = verifiers.OverworldTaskset(verifiers.OverworldConfig(servers=[server], env="toy/Count", **settings))
    task = next(islice(taskset.load(), seed, None))
    player = Player(list(actions))
    asyncio.run(verifiers.OverworldEnv(taskset).run(task, SimpleNamespace(player=player)))
    return player


def test_an_episode_becomes_a_trace(verifiers: ModuleType, toy_server: ServerProcess) -> None:
    free = server_info(toy_server.address).slots_free
    player = play(verifiers, toy_server.address, ["up", "down", "sideways", "up", "up", "up"])
    assert (player.trace.rewards, player.trace.metrics) == ({"episode_return": 3.0}, {"success": 1.0})
    assert len(player.seen) == 6
    [message] = player.seen[0]
    picture, text = message["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert text["text"].startswith("Count to three.\ncount 0\nActions: ")
    assert server_info(toy_server.address).slots_free == free


def test_a_run_that_ends_keeps_what_it_has_earned(verifiers: ModuleType, toy_server: ServerProcess) -> None:
    player = play(verifiers, toy_server.address, ["up", "up"])
    assert (player.trace.rewards, player.trace.metrics) == ({"episode_return": 2.0}, {"success": 0.0})


def test_tasks_are_seeds(verifiers: ModuleType, toy_server: ServerProcess) -> None:
    first, again, other = (play(verifiers, toy_server.address, [], seed).seen for seed in (3, 3, 4))
    assert first == again != other
    four, eight = (play(verifiers, toy_server.address, [], seed, split="four").seen for seed in (0, 4))
    assert four != eight  # the same task, other chances: the toy draws from both


def test_a_failed_simulator_is_an_error_and_no_reward(verifiers: ModuleType, toy_server: ServerProcess) -> None:
    with pytest.raises(EnvError, match="toy/Count failed: ENV_ERROR: RuntimeError: boom"):
        play(verifiers, toy_server.address, ["up", "raise"])
