"""Runs the commands of docs/tutorial.md as they stand: all of its parts, or those that are named.

The blocks of a part run in one shell, in an empty folder, and a command that fails ends it. A block marked `server` is
one command, which runs in the background until the end of its part; the next block begins when it listens. Packages are
installed in an environment of its own, which also sees those of this one.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
COMMANDS = ("overworld", "pytest", "mypy")
"""Programs that are installed here and must see what is installed in the other environment."""
PROGRAM = """\
#!{python}
import sys
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="{name}")
sys.exit(command.load()())
"""
SERVER = """\
{command} >"$SERVER_LOG" 2>&1 & server=$!
timeout 60 sh -ec "until grep --quiet 'listening on' '$SERVER_LOG'; do kill -0 $server; sleep 0.2; done"
"""
END = """\
kill $server; wait $server || true
"""


def parts(page: str) -> dict[str, str]:
    """Each part's name -> what is to be run."""
    found = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```sh( server)?\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
        script = "".join(SERVER.format(command=text.strip()) if server else text for server, text in blocks)
        if blocks:
            found[section.partition("\n")[0].lower()] = script + END
    return found


def environment(folder: Path) -> dict[str, str]:
    """Makes an environment in the folder; the variables that activate it."""
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (packages / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name in COMMANDS:
        (programs / name).write_text(PROGRAM.format(python=programs / "python", name=name))
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": os.pathsep.join([str(programs), sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "VIRTUAL_ENV": str(folder),
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
    }


def run(name: str, script: str) -> bool:
    """Runs a part in view; whether all went well."""
    with tempfile.TemporaryDirectory(prefix="overworld-tutorial-") as folder:
        place, log = Path(folder), Path(folder) / "server.log"
        variables = environment(place / "environment") | {"SERVER_LOG": str(log)}
        (place / "projects").mkdir()
        started, before = time.monotonic(), _children_seconds()
        command = ["bash", "-euxo", "pipefail", "-c", script]
        shell = subprocess.Popen(command, cwd=place / "projects", env=variables, start_new_session=True)
        try:
            status = shell.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # nothing is left of it
                os.killpg(shell.pid, signal.SIGTERM)
        if status:
            print(log.read_text() if log.exists() else "", file=sys.stderr)
    outcome = "done" if status == 0 else f"failed with status {status}"
    seconds, cpu = time.monotonic() - started, _children_seconds() - before
    print(f"tutorial: {name} {outcome}, {seconds:.0f} s, {cpu:.0f} CPU-seconds", flush=True)
    return status == 0


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(names: list[str]) -> int:
    """1 if a part fails."""
    known = parts(PAGE.read_text())
    if unknown := set(names) - known.keys():
        sys.exit(f"tutorial: {PAGE.name} has no part {' '.join(sorted(unknown))}; it has {' '.join(known)}")
    outcomes = [run(name, known[name]) for name in names or known]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
