"""Frame buffers: what OpenGL draws into, one per size and quality, shared by all envs of the process."""

from __future__ import annotations

from ctypes import byref, c_void_p
from enum import StrEnum

from overworld.authoring.env import Pixels
from pyglet import gl

_STOCK_SAMPLES = 8
_PACK_INVERT_MESA = 0x8758  # GL_MESA_pack_invert
_DEPTH_COMPONENT32F = 0x8CAC  # GL_ARB_depth_buffer_float


class Render(StrEnum):
    """How frames are drawn."""

    EXACT = "exact"
    MSAA = "msaa"
    FAST = "fast"


class FrameBuffer:
    """A target of `width` x `height` pixels in the current context, to draw into and to read back.

    Upstream draws several samples of four floats per pixel, resolves colour and depth, and flips the picture.
    Here only colour is resolved, and EXACT alone keeps the floats: the resolved pixels are bytes in any case.
    """

    def __init__(self, width: int, height: int, render: Render) -> None:
        self.width, self.height = width, height
        self.users = 0
        most = gl.GLint()
        gl.glGetIntegerv(gl.GL_MAX_SAMPLES, byref(most))
        samples = 0 if render is Render.FAST else min(_STOCK_SAMPLES, most.value)
        self._objects: list[gl.GLuint] = []
        self._buffers: list[gl.GLuint] = []
        colour = gl.GL_RGBA32F if render is Render.EXACT else gl.GL_RGBA8
        # Upstream's 16 bits of depth decide what shows where things meet. Floats cost no more and are more precise.
        depth = _DEPTH_COMPONENT32F if render is Render.FAST else gl.GL_DEPTH_COMPONENT16
        self._drawn = self._object(samples, colour, depth)
        self._resolved = self._object(0, gl.GL_RGBA8) if samples else None
        gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 1)
        # OpenGL's first row is the lowest one; Mesa can flip the picture while it copies it.
        self._flips = bool(gl.gl_info.have_extension("GL_MESA_pack_invert"))
        if self._flips:
            gl.glPixelStorei(_PACK_INVERT_MESA, 1)

    def bind(self) -> None:
        """Makes this the target of drawing."""
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._drawn)
        gl.glViewport(0, 0, self.width, self.height)

    def read(self, pixels: Pixels) -> None:
        """Copies what was drawn into `pixels`, contiguous uint8 [height, width, 3]."""
        if self._resolved is not None:
            gl.glBindFramebuffer(gl.GL_DRAW_FRAMEBUFFER, self._resolved)
            whole = 0, 0, self.width, self.height
            gl.glBlitFramebuffer(*whole, *whole, gl.GL_COLOR_BUFFER_BIT, gl.GL_NEAREST)
            gl.glBindFramebuffer(gl.GL_READ_FRAMEBUFFER, self._resolved)
        address = c_void_p(pixels.__array_interface__["data"][0])
        gl.glReadPixels(0, 0, self.width, self.height, gl.GL_RGB, gl.GL_UNSIGNED_BYTE, address)
        if not self._flips:
            pixels[...] = pixels[::-1].copy()

    def close(self) -> None:
        """Frees its memory."""
        gl.glDeleteFramebuffers(len(self._objects), (gl.GLuint * len(self._objects))(*self._objects))
        gl.glDeleteRenderbuffers(len(self._buffers), (gl.GLuint * len(self._buffers))(*self._buffers))

    def _object(self, samples: int, *formats: int) -> gl.GLuint:
        """A framebuffer object with renderbuffers of a colour format, and of a depth format if there is a second."""
        frame = gl.GLuint()
        gl.glGenFramebuffers(1, byref(frame))
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, frame)
        self._objects.append(frame)
        for attachment, pixel_format in zip((gl.GL_COLOR_ATTACHMENT0, gl.GL_DEPTH_ATTACHMENT), formats, strict=False):
            buffer = gl.GLuint()
            gl.glGenRenderbuffers(1, byref(buffer))
            gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, buffer)
            gl.glRenderbufferStorageMultisample(gl.GL_RENDERBUFFER, samples, pixel_format, self.width, self.height)
            gl.glFramebufferRenderbuffer(gl.GL_FRAMEBUFFER, attachment, gl.GL_RENDERBUFFER, buffer)
            self._buffers.append(buffer)
        status = gl.glCheckFramebufferStatus(gl.GL_FRAMEBUFFER)
        if status != gl.GL_FRAMEBUFFER_COMPLETE:
            raise RuntimeError(f"OpenGL cannot draw {self.width} x {self.height} pixels (status {status:#x})")
        return frame


_frames: dict[tuple[int, int, Render], FrameBuffer] = {}


def acquire(width: int, height: int, render: Render) -> FrameBuffer:
    """The frame buffer of that size and quality, created for its first user; every user must release it."""
    key = width, height, render
    if key not in _frames:
        _frames[key] = FrameBuffer(width, height, render)
    frame = _frames[key]
    frame.users += 1
    return frame


def release(frame: FrameBuffer) -> None:
    """Ends one use of an acquired frame buffer; the last one frees it."""
    frame.users -= 1
    if frame.users == 0:
        for key in [key for key, kept in _frames.items() if kept is frame]:
            del _frames[key]
        frame.close()
