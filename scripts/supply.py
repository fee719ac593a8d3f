"""What images and wheels are made of: SBOMs, Debian's packages, and all licences.

    scripts/supply.py TOOLS         TOOLS is an environment with cyclonedx-bom and pip-licenses

dist/sbom/ gets an SBOM for each image and wheel, in CycloneDX's form: packages of Python with the hashes that pip
checks (locks/), PyTorch and our own. Of images that Docker has, it also gets Debian's own list, NAME.dpkg-status.
docs/licences.md gets the licences, read from the packages themselves. Fails where one of them is not expected.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SBOMS = ROOT / "dist" / "sbom"
REPORT = ROOT / "docs" / "licences.md"


class Made(NamedTuple):
    """What an image or wheel holds, or needs: locks, and our own packages."""

    locks: tuple[str, ...]
    own: tuple[str, ...]
    torch: bool = False


_ENVS = ("overworld", "overworld-envs")
IMAGES = {  # by the names that docker-compose.yml gives them
    "sdk": Made(("server",), ("overworld",)),
    "gym-cards": Made(("server",), _ENVS),
    "miniworld": Made(("server", "miniworld"), _ENVS),
    "alfworld": Made(("server", "alfworld", "engine"), _ENVS),
    "webshop": Made(("server", "webshop"), _ENVS),
    "trainer": Made(("model", "trainer"), ("overworld", "overworld-vlm", "overworld-trainer"), torch=True),
    "policy-server": Made(("model", "policy"), ("overworld", "overworld-vlm", "overworld-policy"), torch=True),
}
WHEELS = {
    "overworld": IMAGES["sdk"],
    "overworld_envs": Made(("server", "miniworld", "alfworld", "engine", "webshop"), _ENVS),
    "overworld_vlm": Made(("model",), ("overworld", "overworld-vlm"), torch=True),
    "overworld_trainer": IMAGES["trainer"],
    "overworld_policy": IMAGES["policy-server"],
}

EXPECTED = re.compile(
    r"(the )?(new )?(3-clause )?(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Mozilla Public|MPL|0BSD|Zlib|CC0|"
    r"CNRI-Python|SIL Open Font)\b",
    re.IGNORECASE,
)
"""How the licences begin that ask for no more than their text and names to be kept, or (Mozilla's) for the source of
changed files."""


class Known(NamedTuple):
    """A licence that was looked up by a person."""

    licence: str
    remark: str


KNOWN = {
    "fast-downward-textworld": Known(
        "GPL-3.0",
        "only in the image `alfworld`, as a program of its own. Source: the sdist of this version on PyPI, made from "
        "https://github.com/MarcCote/downward",
    ),
    "jericho": Known(
        "GPL-2.0-or-later",
        "only in the image `alfworld`; textworld imports it. Source: the sdist of this version on PyPI, made from "
        "https://github.com/microsoft/jericho",
    ),
    "textworld": Known("MIT", "says so in its LICENSE, not in its metadata"),
}


def main() -> int:
    """Writes all of it."""
    tools = Path(sys.argv[1]).absolute() / "bin"
    SBOMS.mkdir(parents=True, exist_ok=True)
    for kind, all_made in (("image", IMAGES), ("wheel", WHEELS)):
        for name, made in all_made.items():
            write_sbom(tools, f"{kind}-{name}", made)
    docker = (
        shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )
    for name in IMAGES:
        print(
            f"overworld/{name}: {write_dpkg(name) if docker else 'no Docker engine, so no list of its Debian packages'}"
        )
    unexpected = write_licences(tools)
    for line in unexpected:
        print(line, file=sys.stderr)
    return 1 if unexpected else 0


def write_sbom(tools: Path, name: str, made: Made) -> None:
    """Writes the SBOM of an image or wheel."""
    version = (ROOT / "VERSION").read_text().strip()
    lines = [(ROOT / "locks" / f"{lock}.txt").read_text() for lock in made.locks]
    lines += [f"{package}=={version}\n" for package in made.own]
    lines += [f"torch=={torch_version()}\n"] if made.torch else []
    requirements = "".join(
        dict.fromkeys(block for text in lines for block in re.split(r"^(?=[\w.-]+==)", text, flags=re.M))
    )
    command = [str(tools / "cyclonedx-py"), "requirements", "--output-reproducible", "--validate", "--of", "JSON", "-"]
    made_of = subprocess.run(command, input=requirements, text=True, check=True, capture_output=True).stdout
    (SBOMS / f"{name}.cdx.json").write_text(made_of)
    print(f"dist/sbom/{name}.cdx.json: {len(json.loads(made_of)['components'])} packages")


def write_dpkg(name: str) -> str:
    """Writes Debian's list of an image; what became of it."""
    if shutil.which("docker") is None:
        return "no Docker here, so no list of its Debian packages"
    image = f"overworld/{name}:{(ROOT / 'VERSION').read_text().strip()}"
    command = ["docker", "run", "--rm", "--entrypoint", "cat", image, "/var/lib/dpkg/status"]
    shown = subprocess.run(command, capture_output=True, text=True)
    if shown.returncode:
        return f"no list of its Debian packages: {shown.stderr.strip()[-200:]}"
    (SBOMS / f"image-{name}.dpkg-status").write_text(shown.stdout)
    return f"dist/sbom/image-{name}.dpkg-status: {shown.stdout.count('Package: ')} packages"


def write_licences(tools: Path) -> list[str]:
    """Writes the report. Returns what is wrong with it."""
    images: dict[str, list[str]] = {}
    for image, made in IMAGES.items():
        locked = {name for lock in made.locks for name in locked_names(lock)}
        for package in {*locked, *(["torch"] if made.torch else [])}:
            images.setdefault(package, []).append(image)
    command = [
        str(tools / "pip-licenses"),
        "--python",
        sys.executable,
        "--from=mixed",
        "--with-system",
        "--format=json",
    ]
    listed = subprocess.run([*command, "--packages", *images], capture_output=True, text=True, check=True).stdout
    found = {canonicalize_name(one["Name"]): one for one in json.loads(listed)}
    unexpected = [
        f"{name} is in locks/ and not installed here: run make setup" for name in images.keys() - found.keys()
    ]
    rows = []
    for name, one in sorted(found.items()):
        known = KNOWN.get(name, Known(one["License"].strip().splitlines()[0], ""))
        if name not in KNOWN and not EXPECTED.match(known.licence):
            unexpected.append(
                f"{name} {one['Version']}: {known.licence!r} is not among the expected licences: may images hold it? "
                "If so, enter it in scripts/supply.py with what it asks for"
            )
        where = "all" if len(images[name]) == len(IMAGES) else ", ".join(images[name])
        rows.append(f"| {name} | {one['Version']} | {known.licence} | {where} | {known.remark} |")
    head = (
        "# Licences of what the images hold\n\n"
        "Made by `make supply` from the packages' own metadata; it fails for a licence that nobody has looked at. "
        "Debian's packages have theirs in `/usr/share/doc` of each image.\n\n"
        "| package | version | licence | images | |\n| --- | --- | --- | --- | --- |\n"
    )
    REPORT.write_text(head + "\n".join(rows) + "\n")
    return sorted(unexpected)


def locked_names(lock: str) -> list[str]:
    """The packages of a lock."""
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    return [
        canonicalize_name(name) for name, marker in re.findall(r"^([\w.-]+)==[^\s;]+( ;)?", text, re.M) if not marker
    ]


def torch_version() -> str:
    """PyTorch's version; it has no lock."""
    (version,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    return str(version)


if __name__ == "__main__":
    sys.exit(main())
