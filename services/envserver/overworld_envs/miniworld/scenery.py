"""What a world looks like, as display lists: one for its lights, one per room, one per entity."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from miniworld.entity import MeshEnt
from pyglet import gl

from overworld_envs.miniworld.visibility import FloorPlan
from overworld_envs.miniworld.world import World


class Scenery:
    """The display lists of one episode's world.

    Upstream draws what may move one vertex at a time, and all the rest from the display list 1, whichever env it
    belongs to. Here each world has its own lists; an entity's is recompiled when it has moved. With
    `as_upstream` what may move is drawn without lists, since Mesa rounds differently in them, once in a million pixels.
    A room's polygons are of one light each; without `smooth` it is not interpolated, which rounds differently, too.
    """

    def __init__(self, world: World, *, as_upstream: bool, smooth: bool) -> None:
        self._smooth = smooth
        self._as_upstream = as_upstream
        self.plan = FloorPlan(world.rooms)
        self._first = gl.glGenLists(1 + len(world.rooms))
        self.cylinders = [_around(room) for room in world.rooms]
        self._entities: dict[Any, Drawing] = {}
        gl.glNewList(self._first, gl.GL_COMPILE)
        _light(world)
        gl.glEndList()
        for number, room in enumerate(world.rooms, 1):
            gl.glNewList(self._first + number, gl.GL_COMPILE)
            gl.glEnable(gl.GL_TEXTURE_2D)
            room._render()
            gl.glEndList()

    def light(self) -> None:
        """Sets the lights; they have a place in the world, so the camera must have been set."""
        gl.glCallList(self._first)

    def draw_rooms(self, numbers: Iterable[int]) -> None:
        """Draws rooms in this order."""
        if not self._smooth:
            gl.glShadeModel(gl.GL_FLAT)
        for number in numbers:
            gl.glCallList(self._first + 1 + number)
        if not self._smooth:
            gl.glShadeModel(gl.GL_SMOOTH)

    def drawing(self, entity: Any) -> Drawing:
        """How to draw an entity where it is now."""
        drawing = self._entities.get(entity)
        if drawing is None:
            drawing = self._entities[entity] = Drawing(entity, compiled=entity.is_static or not self._as_upstream)
        drawing.follow()
        return drawing

    def close(self) -> None:
        """Frees the lists."""
        gl.glDeleteLists(self._first, 1 + len(self.cylinders))
        for drawing in self._entities.values():
            drawing.close()


class Cylinder(NamedTuple):
    """An upright cylinder around something: the middle of its base, radius and height in metres."""

    centre: tuple[float, float, float]
    radius: float
    height: float


def _around(room: Any) -> Cylinder:
    centre = float(room.mid_x), 0.0, float(room.mid_z)
    radius = np.linalg.norm(room.outline - centre, axis=1).max()
    return Cylinder(centre, float(radius), float(room.wall_height))


class Drawing:
    """An entity: where it is, and its display list unless it is drawn without."""

    def __init__(self, entity: Any, *, compiled: bool) -> None:
        self._entity = entity
        self._mesh = _mesh(entity.mesh) if isinstance(entity, MeshEnt) else None
        self._list = gl.glGenLists(1) if compiled else None
        self._pose: tuple[Any, ...] | None = None
        self.cylinder: Cylinder | None = None
        """What holds the entity; None for a picture on a wall, which does not say how far it reaches."""

    def follow(self) -> None:
        """Updates list and cylinder if the entity has moved."""
        entity = self._entity
        pose = (*entity.pos, entity.dir)
        if pose == self._pose:
            return
        self._pose = pose
        if self._mesh is not None:
            self.cylinder = Cylinder(pose[:3], self._mesh.radius * entity.scale, self._mesh.height * entity.scale)
        elif entity.radius > 0:
            self.cylinder = Cylinder(pose[:3], entity.radius, entity.height)
        if self._list is not None:
            self._compile(self._list)

    def _compile(self, number: int) -> None:
        entity = self._entity
        gl.glNewList(number, gl.GL_COMPILE)
        if self._mesh is None:
            entity.render()
        else:  # as the entity's own `render`
            gl.glPushMatrix()
            gl.glTranslatef(*entity.pos)
            gl.glScalef(entity.scale, entity.scale, entity.scale)
            gl.glRotatef(entity.dir * 180 / math.pi, 0, 1, 0)
            gl.glColor3f(1, 1, 1)
            gl.glCallList(self._mesh.list)
            gl.glPopMatrix()
        gl.glEndList()

    def draw(self) -> None:
        """Draws the entity."""
        if self._list is None:
            self._entity.render()
        else:
            gl.glCallList(self._list)

    def close(self) -> None:
        """Frees the list."""
        if self._list is not None:
            gl.glDeleteLists(self._list, 1)


class _Mesh(NamedTuple):
    """A mesh's display list, and radius and height of the cylinder that holds it unscaled."""

    list: int
    radius: float
    height: float


@functools.cache
def _mesh(mesh: Any) -> _Mesh:
    """Compiles a mesh, once per process; upstream caches its meshes, too."""
    compiled = gl.glGenLists(1)
    gl.glNewList(compiled, gl.GL_COMPILE)
    mesh.render()
    gl.glEndList()
    corners = np.concatenate([np.array(part.vertices) for part in mesh.vlists]).reshape(-1, 3)
    return _Mesh(compiled, float(np.hypot(corners[:, 0], corners[:, 2]).max()), float(corners[:, 1].max()))


def _light(world: World) -> None:
    """The lights, as upstream sets them."""
    # Upstream means to append a 1 to the position, but adds it, and leaves a 0: the light comes from far away.
    gl.glLightfv(gl.GL_LIGHT0, gl.GL_POSITION, _floats(*(np.asarray(world.light_pos) + 1), 0))
    gl.glLightfv(gl.GL_LIGHT0, gl.GL_AMBIENT, _floats(*world.light_ambient))
    gl.glLightfv(gl.GL_LIGHT0, gl.GL_DIFFUSE, _floats(*world.light_color))


def _floats(*values: float) -> Any:
    return (gl.GLfloat * len(values))(*values)
