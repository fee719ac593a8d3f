"""What the SDK weighs: packages that `pip install overworld` brings, CPU-seconds of imports and of `overworld --help`.

The wheel is installed into a new environment without extras, so that nothing else is found there. The peer of the
import is the libraries that it cannot do without: numpy, grpc, protobuf and pydantic with one model.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from report import Row, finish, parser

ROOT = Path(__file__).parents[1]
_RUNS = 7
_PACKAGES = 12
_IMPORT_RATIO, _HELP_RATIO = 0.23 / 0.30, 0.23 / 0.15
"""The libraries alone take .23 CPU-seconds on a quiet machine; the import may take .30, `overworld --help` .15."""

_LIBRARIES = """
import grpc, numpy, pydantic
from google.protobuf import message
class Options(pydantic.BaseModel): size: int = 1
"""
_NAMES = "from overworld import Env, Fleet, Session, make, server_info"


def _cpu_seconds(*command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _medians(commands: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Medians of interleaved runs, the first of which only fills caches."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(_RUNS + 1):
        for name, command in commands.items():
            spent = _cpu_seconds(*command)
            if run:
                seconds[name].append(spent)
    return {name: median(values) for name, values in seconds.items()}


def _packages(pip: str) -> set[str]:
    listed = subprocess.run([pip, "list", "--format=freeze"], check=True, capture_output=True, text=True)
    return set(listed.stdout.split())


def main() -> None:
    """Measures and prints."""
    arguments = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip, python = f"{folder}/bin/pip", f"{folder}/bin/python"
        held = _packages(pip)
        constraints = str(ROOT / "constraints.txt")
        subprocess.run([pip, "install", "--quiet", "--constraint", constraints, str(ROOT / "sdk")], check=True)
        packages = len(_packages(pip) - held)
        spent = _medians(
            {
                "python": (python, "-c", ""),
                "libraries": (python, "-c", _LIBRARIES),
                "package": (python, "-c", "import overworld"),
                "names": (python, "-c", _NAMES),
                "help": (f"{Path(sys.executable).parent}/overworld", "--help"),
            }
        )
    rows = [
        Row("pip install overworld", "no extras", packages, "packages", "bound", _PACKAGES, _PACKAGES / packages, 1),
        *(
            Row(name, setting, spent[key], "CPU-s", "its libraries", spent["libraries"],
                spent["libraries"] / spent[key], target)
            for name, setting, key, target in (
                ("import overworld", "the package", "package", _IMPORT_RATIO),
                ("import overworld", _NAMES.rpartition("import ")[2], "names", _IMPORT_RATIO),
                ("overworld --help", "as installed here", "help", _HELP_RATIO),
                ("python -c ''", "the least possible", "python", None),
            )
        ),
    ]  # fmt: skip
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
