"""A trainer whose volume is full, as a program: `python -m tests.support.small_volume <folder> <kilobytes>`.

<folder>/run.yaml puts the run below <folder>/volume, a file system of that size which only this process sees. The run
is started there, again when there is no room at all, and again when there is plenty, and is copied to <folder>/copy.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

_NEW_USER, _NEW_MOUNTS = 0x1000_0000, 0x2_0000  # CLONE_NEWUSER, CLONE_NEWNS; os.unshare comes with Python 3.12


def _main(folder: Path, kilobytes: int) -> None:
    volume = folder / "volume"
    _become_root_of_own_mounts()
    _mount(volume, f"size={kilobytes}k", "-t", "tmpfs", "none")
    _say(f"status {_train(folder / 'run.yaml')}")
    _say(*sorted(path.name for path in (volume / "run" / "checkpoints").iterdir() if not path.name.startswith(".")))
    with contextlib.suppress(OSError), (volume / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    _say(f"status {_train(folder / 'run.yaml')}")
    _mount(volume, "remount,size=1g")
    _say(f"status {_train(folder / 'run.yaml')}")
    shutil.copytree(volume / "run", folder / "copy")


def _become_root_of_own_mounts() -> None:
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER | _NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path("/proc/self", name).write_text(content)


def _mount(place: Path, options: str, *arguments: str) -> None:
    subprocess.run(["mount", *arguments, "-o", options, str(place)], check=True)


def _train(settings: Path) -> int:
    """The exit status of `python -m overworld_trainer <settings>`; forked, since importing PyTorch takes long."""
    pid = os.fork()
    if not pid:
        sys.argv = ["overworld_trainer", str(settings)]
        runpy.run_module("overworld_trainer", run_name="__main__", alter_sys=True)
        sys.exit()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _say(*lines: str) -> None:
    for line in lines:
        print(f"volume: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
