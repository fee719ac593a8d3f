"""What the agent's picture shows, in words: where the red box and the cones are, how far the walls, where the street.

For the tasks that are about reaching `world.box`, which are those with an expert.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RAYS = 5
"""Directions in which the way ahead is measured, from one border of the picture to the other."""
_INSIDE = 0.98
"""The outermost of them, as a share of half the view."""

_NEAR = 4.0
"""Metres. Of a near thing a corner is enough to see it; of a far one it is less than a pixel."""
_CORNER, _FACE = 0.95, 0.6
"""Where the sides of a near and of a far thing are, as shares of its radius."""

Segments = NDArray[np.float64]
"""[segments, 2, 2]: start and end, x and z in metres."""


def caption(world: Any, aspect: float) -> str:
    """The agent's view as text; `aspect` is the picture's width by its height. Angles are from the middle of it."""
    agent = world.agent
    half_view = math.atan(math.tan(math.radians(agent.cam_fov_y) / 2) * aspect)
    eye = np.asarray(agent.pos, float)[[0, 2]]
    walls: Segments = np.asarray(world.wall_segs, float)[:, :, [0, 2]]
    things = [("The red box", world.box)]
    things += [("A cone", entity) for entity in world.entities if getattr(entity, "mesh_name", "") == "cone"]
    sentences = []
    for name, entity in things:
        where = _where(entity, eye, agent.dir, half_view, walls)
        if where:
            sentences.append(f"{name} is {where}.")
        elif entity is world.box:
            sentences.append("The red box is not in sight.")
    angles = np.linspace(half_view * _INSIDE, -half_view * _INSIDE, _RAYS).tolist()
    sentences.append(_borders("Walls are", eye, agent.dir, angles, walls))
    street = getattr(world, "street", None)
    if street is not None:
        corners = np.asarray(street.outline, float)[:, [0, 2]]
        edges = np.stack((corners, np.roll(corners, -1, axis=0)), axis=1)
        sentences.append(_borders("The street is", eye, agent.dir, angles, edges))
    return " ".join(filter(None, sentences))


def _where(entity: Any, eye: NDArray[np.float64], heading: float, half_view: float, walls: Segments) -> str:
    """Where a thing is, e.g. "20 degrees to the left, 2.1 m away"; empty if it is not in sight."""
    off = np.asarray(entity.pos, float)[[0, 2]] - eye
    distance = max(math.hypot(*off), 1e-6)
    bearing = math.remainder(math.atan2(-off[1], off[0]) - heading, 2 * math.pi)
    half_width = math.asin(min(1.0, (_CORNER if distance < _NEAR else _FACE) * entity.radius / distance))
    for angle in (bearing, bearing + half_width, bearing - half_width):
        if abs(angle) <= half_view and distance < _distance(eye, heading + angle, walls) + entity.radius:
            return f"{_direction(bearing)}, {distance:.1f} m away"
    return ""


def _borders(name: str, eye: NDArray[np.float64], heading: float, angles: Iterable[float], edges: Segments) -> str:
    """How far it is in each direction to one of `edges`; empty if none is met."""
    met = [(angle, _distance(eye, heading + angle, edges)) for angle in angles]
    ways = [f"{distance:.1f} m {_direction(angle)}" for angle, distance in met if distance < math.inf]
    return f"{name} {', '.join(ways)}." if ways else ""


def _direction(angle: float) -> str:
    degrees = round(math.degrees(angle))
    return "straight ahead" if not degrees else f"{abs(degrees)} degrees to the {'left' if degrees > 0 else 'right'}"


def _distance(eye: NDArray[np.float64], heading: float, edges: Segments) -> float:
    """Metres from the eye to the first edge in that direction; infinite if there is none."""
    ahead = np.array((math.cos(heading), -math.sin(heading)))
    starts, along = edges[:, 0] - eye, edges[:, 1] - edges[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        across = ahead[0] * along[:, 1] - ahead[1] * along[:, 0]
        way = (starts[:, 0] * along[:, 1] - starts[:, 1] * along[:, 0]) / across
        share = (starts[:, 0] * ahead[1] - starts[:, 1] * ahead[0]) / across
        hit = (way > 0) & (share >= 0) & (share <= 1)
    return float(np.min(way[hit], initial=math.inf))
