#!/usr/bin/env python3
"""Writes locks/: for each image, and for `make setup`, all packages from elsewhere with their versions and hashes.

The versions are those of constraints.txt. PyTorch is in none of them: which build of it there is depends on the machine
(docker/install-torch). Nor are our own packages. With `--check` it writes nothing, and fails where a lock lacks what a
pyproject.toml asks for, or has another version than constraints.txt.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECTS = {
    project["name"]: project
    for path in ROOT.glob("*/**/pyproject.toml")
    if not {"templates", "examples", ".venv"}.intersection(path.parts)
    for project in [tomllib.loads(path.read_text())["project"]]
}
ENGINE = ["fast-downward-textworld", "jericho"]
LOCKS = {
    "build": ["setuptools"],
    "engine": ENGINE,
    "uv": ["uv"],
    "server": ["overworld[eval,host,openenv,redis]"],
    "miniworld": ["overworld-envs[miniworld]"],
    "alfworld": ["overworld-envs[alfworld]"],
    "webshop": ["overworld-envs[webshop]"],
    "model": ["overworld", "overworld-vlm"],
    "trainer": ["overworld-trainer"],
    "policy": ["overworld-policy"],
    "development": [
        "overworld", "overworld-vlm", "overworld-envs[alfworld,miniworld,webshop]", "overworld-trainer",
        "overworld-policy", *(ROOT / "requirements-dev.txt").read_text().splitlines()[1:],
    ],
}  # fmt: skip
ABSENT = {"alfworld": ["torch", *ENGINE]}
"""What a lock leaves out; by default PyTorch. ALFWorld's engine is compiled, in a stage of its own."""
ELSEWHERE = re.compile(r"nvidia-|cuda-|triton==|colorama==|httpx2-jsfetch==")
"""What comes with PyTorch's build for CUDA, or is for other systems than ours."""


def main() -> int:
    """Writes or checks all locks."""
    if sys.argv[1:] == ["--check"]:
        problems = [problem for name in LOCKS for problem in check(name)]
        print("\n".join(problems))
        return 1 if problems else 0
    for name in LOCKS:
        write(name)
    return 0


def write(name: str) -> None:
    """Resolves one lock."""
    options = ["--quiet", "--generate-hashes", "--universal", "--python-version=3.11", "--constraint=constraints.txt"]
    options += ["--no-header", "--no-annotate", "--no-emit-index-url"]
    options += [f"--no-emit-package={package}" for package in ABSENT.get(name, ["torch"])]
    options += ["--no-deps"] if name == "engine" else []
    requirements = "\n".join(sorted(set(needed(LOCKS[name]))))
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", *options]
    resolved = subprocess.run(command, input=requirements, text=True, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    blocks = re.split(r"^(?=[\w.-]+==)", resolved.stdout, flags=re.MULTILINE)
    (ROOT / "locks" / f"{name}.txt").write_text("".join(one for one in blocks if not ELSEWHERE.match(one)))


def check(name: str) -> Iterator[str]:
    """What is wrong with one lock, as far as that can be said without an index."""
    allowed = pins((ROOT / "constraints.txt").read_text())
    locked = pins((ROOT / "locks" / f"{name}.txt").read_text())
    absent = {canonicalize_name(package) for package in ABSENT.get(name, ["torch"])}
    for package in {canonicalize_name(bare(one)) for one in needed(LOCKS[name])} - absent - locked.keys():
        yield f"locks/{name}.txt lacks {package}: run make locks"
    for package, version in locked.items():
        if allowed.get(package) != version:
            told = allowed.get(package, "nothing: add it")
            yield f"locks/{name}.txt has {package} {version}, constraints.txt {told}; then run make locks"


def needed(requirements: list[str]) -> Iterator[str]:
    """These requirements, and instead of packages of ours what they need, extras included."""
    for requirement in requirements:
        name = bare(requirement)
        if name not in PROJECTS:
            yield requirement
            continue
        extras = re.findall(r"\[(.*?)\]", requirement)
        for extra in filter(None, re.split(r"[\s,]+", ",".join(extras))):
            yield from needed(PROJECTS[name]["optional-dependencies"][extra])
        yield from needed(PROJECTS[name]["dependencies"])


def pins(text: str) -> dict[str, str]:
    """Package -> version."""
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    }


def bare(requirement: str) -> str:
    """The name in a requirement."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


if __name__ == "__main__":
    sys.exit(main())
