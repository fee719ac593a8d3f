"""A headless Chromium that shows pages and hands out their pixels, driven over its debugging pipe."""

from __future__ import annotations

import base64
import fcntl
import io
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Chromium:
    """One page of `width` x `height` pixels. Raises FileNotFoundError if no Chromium is installed."""

    def __init__(self, width: int, height: int) -> None:
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            raise FileNotFoundError(f"none of {', '.join(PROGRAMS)} is installed")
        self._profile = tempfile.TemporaryDirectory()
        theirs, self._writing = os.pipe()
        reading, their_writing = os.pipe()
        flags = ("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        # The pipe's ends must be files 3 and 4 in Chromium: bash puts them there, from numbers that do not collide.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs, their_writing)]
        shell = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *flags, f"--user-data-dir={self._profile.name}", "about:blank"],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs, their_writing, *ends):
            os.close(end)
        self._answers = os.fdopen(reading, "rb")
        self._numbers = itertools.count(1)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._page("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._frame = self._page("Page.getFrameTree")["frameTree"]["frame"]["id"]

    def show(self, html: str) -> NDArray[np.uint8]:
        """The page's pixels, uint8 [height, width, 3]."""
        self._page("Page.setDocumentContent", frameId=self._frame, html=html)
        shot = self._page("Page.captureScreenshot", format="png", optimizeForSpeed=True)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB"))

    def open(self, path: Path) -> float:
        """Loads a page from a file; the milliseconds until all that is in it was there, by the browser's clock."""
        self._page("Page.navigate", url=path.resolve().as_uri())
        loaded = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        wanted = json.dumps(path.resolve().as_uri())
        while not (milliseconds := self.evaluate(f"location.href === {wanted} ? {loaded} : 0")):
            time.sleep(0.01)
        return float(milliseconds)

    def frames(self) -> list[str]:
        """The addresses of the page's frames, of which nothing else can be seen where they are files."""
        tree = self._page("Page.getFrameTree")["frameTree"]
        return [child["frame"]["url"] for child in tree.get("childFrames", [])]

    def evaluate(self, script: str) -> Any:
        """What a script gives in the page, as JSON. Raises RuntimeError if it throws."""
        answer = self._page("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return answer["result"].get("value")

    def cpu_seconds(self) -> float:
        """CPU time of all its processes."""
        processes = [psutil.Process(self._process.pid)]
        processes += processes[0].children(recursive=True)
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    def close(self) -> None:
        """Ends it."""
        self._call("Browser.close")
        self._process.wait(30)
        self._answers.close()
        os.close(self._writing)
        self._profile.cleanup()

    def _page(self, method: str, **parameters: Any) -> Any:
        return self._call(method, session=self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _read(self) -> bytes:
        message = bytearray()
        while (block := self._answers.peek()) and b"\0" not in block:
            message += self._answers.read(len(block))
        if not block:
            raise RuntimeError("Chromium ended")
        message += self._answers.read(block.index(b"\0") + 1)
        return bytes(message[:-1])
