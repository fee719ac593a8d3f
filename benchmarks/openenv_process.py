"""OpenEnv's server and client in processes of their own, and the environment that they need."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = str(HERE.parent / ".venv-openenv" / "bin" / "python")
PORT = "18471"


class OpenEnv:
    """`slots` sessions, each of which shows pictures of this size; a step uses CPU time, waits, or both."""

    def __init__(self, slots: int, height: int, width: int, *, cost_us: int = 0, wait_ms: int = 0) -> None:
        script = str(HERE / "openenv_peer.py")
        settings = map(str, (height, width, cost_us, wait_ms))
        self._server = subprocess.Popen([PYTHON, script, "serve", PORT, *settings])
        time.sleep(8.0)  # it offers no other sign of being ready than answering
        self._client = subprocess.Popen(
            [PYTHON, script, "play", PORT, str(slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._client.stdout is not None
        if self._client.stdout.readline() != "ready\n":
            self.close()
            raise RuntimeError("OpenEnv's client did not connect")

    def play(self, steps: int) -> tuple[float, float]:
        """How long so many steps of all sessions take, and the longest of them. Seconds."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(f"{steps}\n")
        self._client.stdin.flush()
        taken, longest = self._client.stdout.readline().split()
        return float(taken), float(longest)

    def close(self) -> None:
        """Stops both."""
        for process in (self._client, self._server):
            process.kill()
            process.wait()


def install_openenv() -> None:
    """Makes .venv-openenv; OpenEnv's requirements contradict ours."""
    if not Path(PYTHON).exists():
        print("installing openenv for comparison ...")
        subprocess.run([sys.executable, "-m", "venv", str(Path(PYTHON).parents[1])], check=True)
        pip = [PYTHON, "-m", "pip", "install", "--quiet", "openenv==0.10.0", "numpy"]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
