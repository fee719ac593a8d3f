"""Which rooms can be seen from a point: through portals only, since rooms are convex and walls hide what is behind.

From above, a view is a wedge. It covers the room it starts in; each portal of that room cuts a narrower wedge out of
it, which continues in the next room. All cuts are a little too wide, so a room too many may be found, but none is
missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_SAME_PLACE = 0.05
"""Metres between the centres of portals that are the two sides of one opening: upstream's YMaze is not precise."""
_MARGIN = 0.03
"""By how many metres portals, and by how many radians views, are widened."""

Point = tuple[float, float]
"""x and z, in metres."""


class _Portal(NamedTuple):
    start: Point
    end: Point
    behind: int
    """Number of the room on the other side."""


class FloorPlan:
    """Rooms and the portals between them, as MiniWorld made them for an episode."""

    def __init__(self, rooms: Sequence[Any]) -> None:
        # Per room its edges: a corner, and the direction into the room.
        self._edges = [
            np.concatenate((room.outline[:, [0, 2]], room.edge_norms[:, [0, 2]]), axis=1).tolist() for room in rooms
        ]
        self._everything = list(range(len(rooms)))
        self._portals = _portals(rooms) if _walls_hide(rooms) else None

    def seen_from(self, eye: Point, direction: Point, half_angle: float) -> list[int]:
        """Numbers of the rooms that a view from `eye` may show, nearest first; `direction` has length 1.

        All rooms, in their order, where that is unknown: outside all rooms, for example.
        """
        if self._portals is None or half_angle + _MARGIN >= math.pi / 2:
            return self._everything
        start = next((number for number, edges in enumerate(self._edges) if _inside(edges, eye)), None)
        if start is None:
            return self._everything
        turn = half_angle + _MARGIN
        seen: dict[int, None] = {}
        self._look((start,), eye, _turned(direction, -turn), _turned(direction, turn), seen)
        return list(seen)

    def _look(self, path: tuple[int, ...], eye: Point, low: Point, high: Point, seen: dict[int, None]) -> None:
        """Adds what is seen in the wedge between the directions `low` and `high`, in the last room of `path`."""
        assert self._portals is not None
        seen[path[-1]] = None
        for portal in self._portals[path[-1]]:
            if portal.behind in path:
                continue
            part = _clip(portal.start, portal.end, eye, low, high)
            if part is None:
                continue
            first, second = ((point[0] - eye[0], point[1] - eye[1]) for point in part)
            if _cross(first, second) < 0:
                first, second = second, first
            narrower = min(math.hypot(*first), math.hypot(*second)) > _MARGIN  # else the eye is in the portal
            self._look((*path, portal.behind), eye, *((first, second) if narrower else (low, high)), seen)


def _walls_hide(rooms: Sequence[Any]) -> bool:
    """Whether nothing can be seen above walls: all rooms have ceilings, or all walls are of one height.

    Upstream's walls are higher than any eye.
    """
    return not any(room.no_ceiling for room in rooms) or len({room.wall_height for room in rooms}) == 1


def _portals(rooms: Sequence[Any]) -> list[list[_Portal]] | None:
    """The portals of each room; None if one leads nowhere or to several rooms."""
    owners: list[int] = []
    ends: list[tuple[Point, Point]] = []
    for number, room in enumerate(rooms):
        for corner, along, portals in zip(room.outline, room.edge_dirs, room.portals, strict=True):
            for portal in portals:
                owners.append(number)
                ends.append(
                    (
                        tuple((corner + along * (portal["start_pos"] - _MARGIN))[[0, 2]].tolist()),
                        tuple((corner + along * (portal["end_pos"] + _MARGIN))[[0, 2]].tolist()),
                    )
                )
    found: list[list[_Portal]] = [[] for _ in rooms]
    if not ends:
        return found
    centres = np.array(ends).mean(axis=1)
    near = np.abs(centres[:, None] - centres[None]).max(axis=2) < _SAME_PLACE
    for number, (owner, (start, end)) in enumerate(zip(owners, ends, strict=True)):
        others = [other for other in np.flatnonzero(near[number]).tolist() if owners[other] != owner]
        if len(others) != 1:
            return None
        found[owner].append(_Portal(start, end, owners[others[0]]))
    return found


def _inside(edges: Sequence[Sequence[float]], point: Point) -> bool:
    return all((point[0] - x) * to_x + (point[1] - z) * to_z > 0 for x, z, to_x, to_z in edges)


def _turned(direction: Point, angle: float) -> Point:
    cos, sin = math.cos(angle), math.sin(angle)
    return direction[0] * cos - direction[1] * sin, direction[0] * sin + direction[1] * cos


def _cross(a: Point, b: Point) -> float:
    return a[0] * b[1] - a[1] * b[0]


def _clip(start: Point, end: Point, eye: Point, low: Point, high: Point) -> tuple[Point, Point] | None:
    """The part of a segment that lies in the wedge."""
    first = start[0] - eye[0], start[1] - eye[1]
    second = end[0] - eye[0], end[1] - eye[1]
    begin, stop = 0.0, 1.0
    for from_side, to_side in (
        (_cross(low, first), _cross(low, second)),
        (_cross(first, high), _cross(second, high)),
    ):
        if from_side < 0 and to_side < 0:
            return None
        if from_side < 0:
            begin = max(begin, from_side / (from_side - to_side))
        elif to_side < 0:
            stop = min(stop, from_side / (from_side - to_side))
    if begin > stop:
        return None
    along = end[0] - start[0], end[1] - start[1]
    return (
        (start[0] + begin * along[0], start[1] + begin * along[1]),
        (start[0] + stop * along[0], start[1] + stop * along[1]),
    )
