"""OpenGL without a display: the libraries it needs, and the one context of this process.

MiniWorld imports pyglet, which opens a context when it is imported; so nothing here imports either before
`open_context`.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

LIBRARIES = ("libEGL.so.1", "libGL.so.1", "libGLU.so.1", "libfreetype.so.6")
_PACKAGES = "libegl1 libgl1 libgl1-mesa-dri libglu1-mesa libfreetype6"

_context: Context | None = None


class GraphicsMissingError(ImportError):
    """A system library is missing, or does not work; the message names the packages to install."""


class WrongThreadError(RuntimeError):
    """A MiniWorld env was used on another thread than the first one of its process."""


class Context:
    """The OpenGL context, and the thread that owns it."""

    def __init__(self) -> None:
        # Several processes share the cores: drawing threads within a process would only cost.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        try:
            import pyglet

            pyglet.options["headless"] = True
            pyglet.options["debug_gl"] = False  # else pyglet asks for errors after each call
            from pyglet import gl

            # Our own window: if stock MiniWorld also runs in this process, it keeps to its own contexts.
            self._window: Any = pyglet.window.Window(width=1, height=1, visible=False)
            self.renderer = f"{gl.gl_info.get_renderer()}, OpenGL {gl.gl_info.get_version()}"
        except Exception as error:  # pyglet raises whatever it stumbles over, depending on what is missing
            raise _missing(f"OpenGL does not start here ({type(error).__name__}: {error})") from error
        self._gl = gl
        self._thread = threading.get_ident()
        self._perspective: tuple[float, ...] = ()
        # What upstream sets in each frame, once.
        for capability in (gl.GL_DEPTH_TEST, gl.GL_CULL_FACE, gl.GL_MULTISAMPLE, gl.GL_LIGHTING, gl.GL_LIGHT0):
            gl.glEnable(capability)
        gl.glShadeModel(gl.GL_SMOOTH)
        gl.glEnable(gl.GL_COLOR_MATERIAL)
        gl.glColorMaterial(gl.GL_FRONT_AND_BACK, gl.GL_AMBIENT_AND_DIFFUSE)

    def enter(self) -> None:
        """Makes the context current. Raises WrongThreadError: frames of another thread would be stale."""
        if threading.get_ident() != self._thread:
            raise WrongThreadError(
                "MiniWorld draws on one thread per process: the one that made the first env. "
                "Use its envs there, or serve them (overworld serve miniworld)"
            )
        if self._gl.current_context is not self._window.context:
            self._window.switch_to()

    def set_perspective(self, field_of_view: float, aspect: float, near: float, far: float) -> None:
        """Sets the projection if it changed, and leaves the model-view matrix current."""
        perspective = field_of_view, aspect, near, far
        if perspective != self._perspective:
            self._perspective = perspective
            self._gl.glMatrixMode(self._gl.GL_PROJECTION)
            self._gl.glLoadIdentity()
            self._gl.gluPerspective(*perspective)
            self._gl.glMatrixMode(self._gl.GL_MODELVIEW)


def check_libraries(names: tuple[str, ...] = LIBRARIES) -> None:
    """Raises GraphicsMissingError if one of the system libraries cannot be loaded."""
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            raise _missing(f"the system library {name} cannot be loaded ({error})") from error


def open_context() -> Context:
    """The context of this process, opened at the first call. Raises GraphicsMissingError, WrongThreadError."""
    global _context
    if _context is None:
        check_libraries()
        _context = Context()
    _context.enter()
    return _context


def _missing(what: str) -> GraphicsMissingError:
    one_line = " ".join(what.split())
    return GraphicsMissingError(
        f"MiniWorld draws with OpenGL: {one_line}; on Debian and Ubuntu: apt-get install {_PACKAGES}"
    )
