"""The doors to an env of Gymnasium: stock Gymnasium, and each way that Overworld offers to play the same episodes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import overworld
from overworld.authoring.runner import Result
from overworld.bridges.gymnasium import OverworldEnv, OverworldVectorEnv
from overworld.host.process import ServerProcess
from PIL import Image
from websockets.sync.client import connect

from tests.support.ports import free_port

MAX_TURNS = 25


@dataclass(frozen=True)
class Turn:
    """What one turn showed; the frame by its SHA-256."""

    frame: str
    reward: float
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Episode:
    """A seed, the actions that were taken in it, and what stock Gymnasium showed."""

    seed: int
    actions: tuple[Any, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Served:
    """A server with an env of Gymnasium."""

    address: str
    openenv_port: int
    env: str
    options: dict[str, Any]


@contextlib.contextmanager
def serving(*names: str, slots: int = 8) -> Iterator[tuple[str, int]]:
    """A server with these envs of Gymnasium: its address, and the port for OpenEnv."""
    port = free_port()
    arguments = ("--workers", "1", "--slots", str(slots), "--openenv-port", str(port))
    with ServerProcess(*(f"gymnasium:{name}" for name in names), arguments=arguments) as server:
        yield server.address, port


def played_by_stock(name: str, seeds: Sequence[int]) -> list[Episode]:
    """Episodes of stock Gymnasium, with drawn actions."""
    env = gymnasium.make(name, render_mode="rgb_array")
    episodes = []
    for seed in seeds:
        env.action_space.seed(seed)
        env.reset(seed=seed)
        actions: list[Any] = []
        turns = [Turn(_hash(env.render()), 0.0, False, False)]
        while len(actions) < MAX_TURNS and not _ended(turns[-1]):
            actions.append(env.action_space.sample())
            _, reward, terminated, truncated, _ = env.step(actions[-1])
            turns.append(Turn(_hash(env.render()), float(reward), terminated, truncated))
        episodes.append(Episode(seed, tuple(actions), tuple(turns)))
    env.close()
    return episodes


def through_gymnasium(env: OverworldEnv, episodes: Sequence[Episode]) -> list[tuple[Turn, ...]]:
    """The episodes through `OverworldEnv`."""
    played = []
    for episode in episodes:
        env.reset(seed=episode.seed)
        turns = [Turn(_hash(env.render()), 0.0, False, False)]
        for action in episode.actions:
            _, reward, terminated, truncated, _ = env.step(action)
            turns.append(Turn(_hash(env.render()), float(reward), terminated, truncated))
        played.append(tuple(turns))
    env.close()
    return played


def in_process(served: Served, episodes: Sequence[Episode]) -> list[tuple[Turn, ...]]:
    """Without a server."""
    return through_gymnasium(OverworldEnv(overworld.make(f"gymnasium:{served.env}", **served.options)), episodes)


def by_session(served: Served, episodes: Sequence[Episode]) -> list[tuple[Turn, ...]]:
    """Through gRPC, as `OverworldEnv` of a Session."""
    session = overworld.Session(served.address, _id(served.env), 1, options=served.options)
    return through_gymnasium(OverworldEnv(session), episodes)


def by_client(served: Served, episodes: Sequence[Episode]) -> list[tuple[Turn, ...]]:
    """Through gRPC, with frames in the response, as a Fleet gives them."""
    played = []
    with overworld.Fleet([served.address], _id(served.env), 1, options=served.options, shared_memory=False) as fleet:
        for episode in episodes:
            results = [fleet.step([overworld.Reset(seed=episode.seed)])[0]]
            results += [fleet.step([_plain(action)])[0] for action in episode.actions]
            played.append(tuple(map(_turn, results)))
    return played


def by_vector(served: Served, episodes: Sequence[Episode]) -> list[tuple[Turn, ...]]:
    """Through `OverworldVectorEnv`, all episodes at once."""
    session = overworld.Session(served.address, _id(served.env), len(episodes), options=served.options)
    env = OverworldVectorEnv(session, observe="view")
    frames, _ = env.reset(seed=[episode.seed for episode in episodes])
    played = [[Turn(_hash(frame), 0.0, False, False)] for frame in frames]
    env.action_space.seed(0)
    for turn in range(max(len(episode.actions) for episode in episodes)):
        actions = env.action_space.sample()  # for slots whose episode is over
        for slot, episode in enumerate(episodes):
            if turn < len(episode.actions):
                actions[slot] = episode.actions[turn]
        frames, rewards, terminated, truncated, _ = env.step(actions)
        for slot, episode in enumerate(episodes):
            if turn < len(episode.actions):
                flags = bool(terminated[slot]), bool(truncated[slot])
                played[slot].append(Turn(_hash(frames[slot]), float(rewards[slot]), *flags))
    env.close()
    return [tuple(turns) for turns in played]


def by_openenv(served: Served, episodes: Sequence[Episode]) -> list[tuple[Turn, ...]]:
    """Through the OpenEnv endpoint."""
    played = []
    with connect(f"ws://127.0.0.1:{served.openenv_port}/{_id(served.env)}/ws", max_size=None) as connection:

        def ask(kind: str, data: dict[str, Any]) -> Turn:
            connection.send(json.dumps({"type": kind, "data": data}))
            return _answered(json.loads(connection.recv(timeout=60)))

        for episode in episodes:
            turns = [ask("reset", {"seed": episode.seed, "options": served.options})]
            for action in episode.actions:
                plain = _plain(action)
                turns.append(ask("step", {"index": plain} if isinstance(plain, int) else {"tensor": plain.tolist()}))
            played.append(tuple(turns))
    return played


DOORS: dict[str, Callable[[Served, Sequence[Episode]], list[tuple[Turn, ...]]]] = {
    "in process": in_process,
    "OverworldEnv": by_session,
    "the gRPC client": by_client,
    "OverworldVectorEnv": by_vector,
    "OpenEnv": by_openenv,
}


def _id(name: str) -> str:
    return f"gymnasium/{name.replace('/', '.')}"


def _ended(turn: Turn) -> bool:
    return turn.terminated or turn.truncated


def _hash(frame: Any) -> str:
    return hashlib.sha256(np.asarray(frame).tobytes()).hexdigest()


def _plain(action: Any) -> Any:
    return action if isinstance(action, np.ndarray) else int(action)


def _turn(result: Result) -> Turn:
    assert result.error is None, result.error
    return Turn(_hash(result.observation.images[0].pixels), result.reward, result.terminated, result.truncated)


def _answered(message: dict[str, Any]) -> Turn:
    assert message["type"] == "observation", message
    data = message["data"]
    (image,) = (block for block in data["observation"]["content"] if block["type"] == "image")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["data"]))))
    ends = data["metadata"]
    return Turn(
        _hash(pixels), data["reward"] or 0.0, bool(ends.get("terminated", False)), bool(ends.get("truncated", False))
    )
