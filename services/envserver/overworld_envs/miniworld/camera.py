"""The agent's eye: draws what it sees in a world into an array."""

from __future__ import annotations

import math
from typing import Any

from overworld.authoring.env import Pixels
from pyglet import gl

from overworld_envs.miniworld.framebuffer import Render, acquire, release
from overworld_envs.miniworld.graphics import Context
from overworld_envs.miniworld.scenery import Cylinder, Scenery
from overworld_envs.miniworld.world import World

_NEAR, _FAR = 0.04, 100.0

Vector = tuple[float, float, float]


class Camera:
    """Sees one world, in frames of one size and quality.

    What is outside the picture is not drawn. FAST does not draw what walls hide either, and draws near rooms first. The
    others draw hidden rooms as upstream does: bits of them show through cracks and where depths are rounded.
    """

    def __init__(self, context: Context, world: World, width: int, height: int, render: Render) -> None:
        context.enter()
        self._context = context
        self._world = world
        self._frame = acquire(width, height, render)
        self._exact = render is Render.EXACT
        self._fast = render is Render.FAST
        self._scenery: Scenery | None = None
        self._seen: tuple[object, ...] | None = None

    def look_around(self) -> None:
        """Prepares to draw the world of a new episode."""
        self._context.enter()
        if self._scenery is not None:
            self._scenery.close()
        self._scenery = Scenery(self._world, as_upstream=self._exact, smooth=not self._fast)
        self._seen = None

    def draw(self, pixels: Pixels) -> None:
        """Draws the frame into `pixels`, contiguous uint8 [height, width, 3], the same array throughout an episode.

        Does nothing if nothing moved since the last frame: the agent ran into a wall, say.
        """
        world, agent, scenery = self._world, self._world.agent, self._scenery
        assert scenery is not None
        entities = [entity for entity in world.entities if entity is not agent]
        seen = (*agent.pos, agent.dir, *((entity, *entity.pos, entity.dir) for entity in entities))
        if seen == self._seen:
            return
        self._seen = seen
        self._context.enter()
        drawings = [(entity.is_static, scenery.drawing(entity)) for entity in entities]
        frame = self._frame
        eye, direction = _pose(agent)
        wide = math.tan(math.radians(agent.cam_fov_y) / 2) * frame.width / frame.height

        frame.bind()
        gl.glClearColor(*world.sky_color, 1.0)
        gl.glClear(gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT)
        self._context.set_perspective(agent.cam_fov_y, frame.width / frame.height, _NEAR, _FAR)
        gl.glLoadIdentity()
        gl.gluLookAt(*eye, *(at + along for at, along in zip(eye, direction, strict=True)), 0.0, 1.0, 0.0)
        scenery.light()
        level = math.hypot(direction[0], direction[2])
        if self._fast:
            ahead = direction[0] / level, direction[2] / level
            scenery.draw_rooms(scenery.plan.seen_from((eye[0], eye[2]), ahead, math.atan(wide / level)))
        else:
            scenery.draw_rooms(n for n, room in enumerate(scenery.cylinders) if _in_picture(room, eye, direction, wide))
        for static in (True, False):
            for drawing_is_static, drawing in drawings:
                if drawing_is_static is static and _in_picture(drawing.cylinder, eye, direction, wide):
                    drawing.draw()
        frame.read(pixels)

    def close(self) -> None:
        """Frees the display lists, and releases the frame buffer."""
        self._context.enter()
        if self._scenery is not None:
            self._scenery.close()
            self._scenery = None
        release(self._frame)


def _pose(agent: Any) -> tuple[Vector, Vector]:
    """Where the agent's eye is and where it looks, the same floats as upstream's `cam_pos` and `cam_dir`."""
    if agent.cam_pitch == 0 and agent.cam_fwd_disp == 0:
        # Upstream's rotation matrices reduce to this without a pitch; they take ten times as long.
        a, c = math.cos(agent.dir / 2), -math.sin(agent.dir / 2)
        x, y, z = agent.pos.tolist()
        return (x, y + agent.cam_height * (a * a + c * c), z), (a * a - c * c, 0.0, 2 * (a * c))
    return tuple(agent.cam_pos.tolist()), tuple(agent.cam_dir.tolist())


def _in_picture(cylinder: Cylinder | None, eye: Vector, direction: Vector, wide: float) -> bool:
    """Whether part of the cylinder may lie between the left and the right border of the picture.

    `wide` is half the picture's width at a distance of 1.
    """
    if cylinder is None:
        return True
    x, y, z = (at - own for at, own in zip(cylinder.centre, eye, strict=True))
    level = math.hypot(direction[0], direction[2])
    right_x, right_z = -direction[2] / level, direction[0] / level
    rise = direction[1] * wide
    highest = max(rise * y, rise * (y + cylinder.height))
    for side in (1.0, -1.0):
        inward_x, inward_z = direction[0] * wide + side * right_x, direction[2] * wide + side * right_z
        if inward_x * x + inward_z * z + highest + cylinder.radius * math.hypot(inward_x, inward_z) < 0:
            return False
    return True
