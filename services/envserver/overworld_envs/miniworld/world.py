"""MiniWorld's own tasks without its windows: the rules, worlds and random numbers are upstream's, to the last bit.

Upstream's base class opens a window and two frame buffers per env, draws in each step, and tests for collisions with
NumPy calls on tiny arrays. `World` takes its place below a task: nothing is drawn unless a `Camera` draws it, and
collisions are plain arithmetic on the same numbers.

Import this only with a context open (`graphics.open_context`), since importing MiniWorld requires one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import miniworld.envs
import numpy as np
from gymnasium import spaces
from miniworld.miniworld import MiniWorldEnv
from miniworld.params import DEFAULT_PARAMS
from numpy.typing import NDArray

_CLOSE = 1e-9
"""Within this of a limit, in metres or their squares, rounding matters, and upstream's own formula must decide."""


class World(MiniWorldEnv):  # type: ignore[misc]
    """The base class of a task that runs without windows; `make_world` puts it there.

    `on_look` is called where upstream draws: at the end of a reset, and in each step after the move.
    """

    on_look: Callable[[], None]

    def intersect(self, ent: Any, pos: NDArray[np.float64], radius: float) -> Any:
        """What a cylinder at `pos` would touch: True for a wall, else the entity, else None."""
        x, _, z = pos.tolist()
        for start_x, start_z, along_x, along_z, square, low_x, high_x, low_z, high_z in self._walls:
            if x < low_x - radius or x > high_x + radius or z < low_z - radius or z > high_z + radius:
                continue  # well away; the bounds have a margin for rounding
            share = ((x - start_x) * along_x + (z - start_z) * along_z) / square
            share = 0.0 if share < 0.0 else 1.0 if share > 1.0 else share
            off_x, off_z = start_x + share * along_x - x, start_z + share * along_z - z
            if math.sqrt(off_x * off_x + off_z * off_z) < radius:
                return True
        for other in self.entities:
            if other is not ent:
                other_x, _, other_z = other.pos
                if _nearer(other_x - x, 0.0, other_z - z, radius + other.radius):
                    return other
        return None

    def near(self, ent0: Any, ent1: Any = None) -> bool:
        """Whether two entities, the second being the agent by default, are within reach of each other."""
        if ent1 is None:
            ent1 = self.agent
        x, y, z = (ent0.pos - ent1.pos).tolist()
        return _nearer(x, y, z, ent0.radius + ent1.radius + 1.1 * self.max_forward_step)

    def render_obs(self, frame_buffer: Any = None) -> None:
        """Upstream draws here."""
        self.on_look()

    def _render_static(self) -> None:
        """Upstream compiles its display list here, the same one for all envs of a process; see `Camera.look_around`."""

    def _gen_static_data(self) -> None:
        super()._gen_static_data()
        self._walls = []
        for (start_x, _, start_z), (end_x, _, end_z) in self.wall_segs.tolist():
            along_x, along_z = end_x - start_x, end_z - start_z
            square = along_x * along_x + along_z * along_z
            xs = min(start_x, end_x) - _CLOSE, max(start_x, end_x) + _CLOSE
            zs = min(start_z, end_z) - _CLOSE, max(start_z, end_z) + _CLOSE
            self._walls.append((start_x, start_z, along_x, along_z, square, *xs, *zs))

    def _begin(self, max_episode_steps: float = 1500, params: Any = DEFAULT_PARAMS, domain_rand: bool = False) -> None:
        """What is left of the base's constructor."""
        self.actions = MiniWorldEnv.Actions
        self.action_space = spaces.Discrete(len(self.actions))
        self.observation_space = spaces.Box(0, 255, (1, 1, 3), np.uint8)  # nobody looks at it, but Sign wants one
        self.max_episode_steps = max_episode_steps
        self.params = params
        self.domain_rand = domain_rand
        self.render_mode = None
        self.on_look = lambda: None


def make_world(task: str, **arguments: Any) -> Any:
    """Upstream's task of that name, made with `arguments` of its constructor, on top of `World`."""
    stock = getattr(miniworld.envs, task)
    # In this order the task's super().step() is World's; a task names the base's constructor itself, though.
    world_class = type(task, (stock, World), {})
    constructor = MiniWorldEnv.__init__
    MiniWorldEnv.__init__ = World._begin
    try:
        return world_class(**arguments)
    finally:
        MiniWorldEnv.__init__ = constructor


def _nearer(x: float, y: float, z: float, limit: float) -> bool:
    """Whether the vector (x, y, z) is shorter than `limit`, both in metres."""
    square = x * x + y * y + z * z
    if abs(square - limit * limit) > _CLOSE:
        return square < limit * limit
    return bool(np.linalg.norm(np.array((x, y, z))) < limit)
