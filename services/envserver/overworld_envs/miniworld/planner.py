"""The expert: plans on the true world, and says what the picture shows, not what follows from it.

Once per episode it computes how far every grid point is from the goal, round walls and things. Then, whenever a plan is
used up or the agent left it, it compares every heading and every straight way along it, and takes the one that leaves
the least to do. A plan is followed to its end: the grid's directions are rough, so planning in every turn can circle.
"""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld_envs.miniworld.tasks import FORWARD, TURN_LEFT, TURN_RIGHT

_CELL = 0.2
"""Metres between grid points."""
_HORIZON = 4.0
"""Length of the straight ways, in metres."""
_FIRST_METRES = 1.4
"""The part of a way that defines its direction; the grid knows only eight directions, so it takes several cells."""
_ON_THE_BORDER = 1e-6
_CORNERS = np.array(((0, 0), (0, 1), (1, 0), (1, 1)))
_NEIGHBOURS = [(x, z, _CELL * math.hypot(x, z)) for x in (-1, 0, 1) for z in (-1, 0, 1) if x or z]

Points = NDArray[np.float64]
"""[..., 2]: x and z in metres."""


class Planner:
    """Finds the way to `world.box` in one episode.

    A decision is `turns` of upstream's turns, or `moves` of its moves; `aspect` is the picture's width by its height.
    """

    def __init__(self, world: Any, turns: int, moves: int, aspect: float) -> None:
        self._world = world
        parameters = world.params
        self._turn = math.radians(parameters.sample(None, "turn_step") * turns)
        self._step = parameters.sample(None, "forward_step")
        self._moves = moves
        self._half_view = math.atan(math.tan(math.radians(world.agent.cam_fov_y) / 2) * aspect)
        self._reach = world.box.radius + world.agent.radius + 1.1 * world.max_forward_step
        self._heading = 0.0
        self._target: NDArray[np.float64] | None = None
        self._street = getattr(world, "street", None)  # in Sidewalk; whoever steps onto it has lost
        rooms = [room for room in world.rooms if room is not self._street]
        self._low = np.array([min(room.min_x for room in rooms), min(room.min_z for room in rooms)]) - 2 * _CELL
        high = np.array([max(room.max_x for room in rooms), max(room.max_z for room in rooms)]) + 2 * _CELL
        shape = np.ceil((high - self._low) / _CELL).astype(int) + 1
        points = self._low + _CELL * np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        inside = np.any([_inside(room, points) for room in rooms], axis=0)
        # A little less than the agent needs, since the straight ways are tested precisely.
        free = inside & ~self._touches(points, world.agent.radius - _CELL / 4)
        self._left, self._ways_on = _distances(free, free & self._reached(points))

    def advise(self) -> tuple[str, str]:
        """The next action, in words, and what someone who sees the picture would say of it."""
        if not self._on_the_way():
            self._heading, self._target = self._plan()
        turn = math.remainder(self._heading - self._world.agent.dir, 2 * math.pi)
        action = FORWARD if abs(turn) <= self._turn / 2 else TURN_LEFT if turn > 0 else TURN_RIGHT
        return action, self._thoughts()

    def _on_the_way(self) -> bool:
        """Whether the last plan still leads from here straight to its target."""
        agent = self._world.agent
        if self._target is None:
            return False
        ahead = np.array((math.cos(self._heading), -math.sin(self._heading)))
        off = self._target - agent.pos[[0, 2]]
        return (
            bool(off @ ahead > self._step / 2)
            and abs(_cross(ahead, off)) < self._step
            and not self._touches(agent.pos[[0, 2]] + ahead * self._step, agent.radius)
        )

    def _plan(self) -> tuple[float, NDArray[np.float64] | None]:
        """Heading and end of the straight way with the fewest decisions to the goal; it must lead nearer."""
        agent = self._world.agent
        most = math.ceil(math.pi / self._turn)
        turns = np.array(sorted(range(-most, most + 1), key=abs))
        steps = np.arange(1, math.ceil(_HORIZON / self._step) + 1)
        headings = agent.dir + turns * self._turn
        ways = np.stack((np.cos(headings), -np.sin(headings)), axis=-1)[:, None] * steps[None, :, None] * self._step
        points = agent.pos[[0, 2]] + ways
        reached = self._reached(points)
        blocked = self._touches(points, agent.radius)
        if self._street is not None:
            blocked |= _inside(self._street, points)
        can_go = ~np.logical_or.accumulate(blocked, axis=1)
        left, way_on = self._way_left(points)
        left = np.where(reached, 0.0, left) / (self._step * self._moves)
        later_turns = np.abs(np.angle(way_on * np.exp(-1j * headings)[:, None])) / self._turn
        # A decision ends after so many steps, at the goal, or where something is in the way.
        last = np.concatenate((~can_go[:, 1:], np.ones((len(turns), 1), bool)), axis=1)
        stops = can_go & ((steps % self._moves == 0) | reached | last)
        moves = np.ceil(steps / self._moves)
        later = np.where(reached, 0.0, left + later_turns)
        nearer = left < self._way_left(agent.pos[[0, 2]])[0] / (self._step * self._moves)
        costs = np.where(stops & nearer, np.abs(turns)[:, None] + moves + later, math.inf)
        best = np.unravel_index(np.argmin(costs), costs.shape)
        if costs[best] == math.inf:
            return agent.dir + self._turn, None
        return float(headings[best[0]]), points[best]

    def _reached(self, points: Points) -> NDArray[np.bool_]:
        """Whether the box is near enough."""
        goal = np.asarray(self._world.box.pos, float)[[0, 2]]
        reached: NDArray[np.bool_] = np.linalg.norm(points - goal, axis=-1) < self._reach
        return reached

    def _touches(self, points: Points, radius: float) -> NDArray[np.bool_]:
        """Whether a cylinder of that radius would touch a wall or a thing other than the box."""
        world = self._world
        touches = np.zeros(points.shape[:-1], bool)
        for start, end in world.wall_segs[:, :, [0, 2]]:
            along = end - start
            share = np.clip((points - start) @ along / (along @ along), 0, 1)
            touches |= np.linalg.norm(points - start - share[..., None] * along, axis=-1) < radius
        for entity in world.entities:
            if entity is not world.agent and entity is not world.box:
                place = np.asarray(entity.pos, float)[[0, 2]]
                touches |= np.linalg.norm(points - place, axis=-1) < radius + entity.radius
        return touches

    def _way_left(self, points: Points) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
        """From the best of the four grid points around: metres to the goal, and the way on as a complex direction.

        Infinite where none of the four leads there.
        """
        places = (points - self._low) / _CELL
        corners = np.floor(places).astype(int)[..., None, :] + _CORNERS
        column, row = np.moveaxis(np.clip(corners, 0, np.array(self._left.shape) - 1), -1, 0)
        left = self._left[column, row] + _CELL * np.linalg.norm(corners - places[..., None, :], axis=-1)
        best = np.argmin(left, axis=-1)[..., None]
        ways_on = np.take_along_axis(self._ways_on[column, row], best, -1)[..., 0]
        return np.take_along_axis(left, best, -1)[..., 0], ways_on

    def _thoughts(self) -> str:
        """Where the box is in the picture, and not what to do about it."""
        agent, box = self._world.agent, self._world.box
        x, z = float(box.pos[0] - agent.pos[0]), float(box.pos[2] - agent.pos[2])
        bearing = math.remainder(math.atan2(-z, x) - agent.dir, 2 * math.pi)
        if not self._in_sight(bearing):
            return "I do not see the red box."
        side = "ahead" if abs(bearing) <= self._turn / 2 else "on the left" if bearing > 0 else "on the right"
        return f"The red box is {side}."

    def _in_sight(self, bearing: float) -> bool:
        """Whether the middle of the box is in the picture and no wall is in front of it."""
        agent, box = self._world.agent, self._world.box
        if abs(bearing) > self._half_view:
            return False
        eye, goal = agent.pos[[0, 2]], np.asarray(box.pos, float)[[0, 2]]
        starts, ends = self._world.wall_segs[:, 0, [0, 2]], self._world.wall_segs[:, 1, [0, 2]]
        sides = _cross(goal - eye, starts - eye) * _cross(goal - eye, ends - eye)
        across = _cross(ends - starts, eye - starts) * _cross(ends - starts, goal - starts)
        return not bool(np.any((sides < 0) & (across < 0)))


def _inside(room: Any, points: Points) -> NDArray[np.bool_]:
    """Whether points lie in a room."""
    corners, normals = room.outline[:, [0, 2]], room.edge_norms[:, [0, 2]]
    inward = np.einsum("...ij,ij->...i", points[..., None, :] - corners, normals)
    inside: NDArray[np.bool_] = np.all(inward >= -_ON_THE_BORDER, axis=-1)
    return inside


def _cross(a: Any, b: Any) -> Any:
    """The cross product of vectors [..., 2]: on which side of a line along `a` the end of `b` is, as the sign."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _distances(free: NDArray[np.bool_], goal: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    """Walking over free points only, by grid point [columns, rows] (Dijkstra):

    metres to the nearest goal point, infinite where none can be reached; and the direction of the first metres of the
    way, a complex number of an agent's heading, 0 at the goal.
    """
    rows = free.shape[1]
    found = np.where(goal, 0.0, math.inf).ravel().tolist()
    after = list(range(free.size))
    open_points = free.ravel().tolist()
    queue = [(0.0, point) for point in np.flatnonzero(goal).tolist()]
    while queue:
        way, point = heapq.heappop(queue)
        if way > found[point]:
            continue
        for right, down, length in _NEIGHBOURS:
            there = point + right * rows + down  # no free point is at the border
            if open_points[there] and way + length < found[there]:
                found[there] = way + length
                after[there] = point
                heapq.heappush(queue, (way + length, there))
    ahead = np.arange(free.size)
    for _ in range(round(_FIRST_METRES / _CELL)):
        ahead = np.array(after)[ahead]
    here = np.arange(free.size)
    ways_on = (ahead // rows - here // rows) - 1j * (ahead % rows - here % rows)
    return np.array(found).reshape(free.shape), ways_on.reshape(free.shape)
