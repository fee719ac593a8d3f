"""The command `overworld`: finds its verbs among the installed packages and runs one.

A package adds a verb with an entry point of the group "overworld.commands", which names a function that takes the
arguments after the verb and returns the exit status:

    [project.entry-points."overworld.commands"]
    train = "overworld_trainer.command:main"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version

_GROUP = "overworld.commands"

_VERBS = {
    "init": ("make a project with an env of your own", "overworld[host]"),
    "dev": ("serve a project, again after each change", "overworld[host]"),
    "serve": ("serve simulators over gRPC", "overworld[host]"),
    "train": ("train an agent with VL-DAC", "overworld-trainer"),
    "study": ("run a study: configurations times seeds, and a page", "overworld-trainer[study]"),
    "policy": ("serve checkpoints through an OpenAI-compatible API", "overworld-policy"),
    "eval": ("play a model in an env and count its successes", "overworld[eval]"),
    "compare": ("compare two models that played the same episodes", "overworld[eval]"),
    "report": ("show kept evaluations as a page and as tables", "overworld[eval]"),
    "diagnose": ("say why a model fails: sight, memory, planning or form", "overworld[eval]"),
    "verify": ("replay a kept evaluation without its model", "overworld[eval]"),
    "branch": ("play on from any turn of a kept episode", "overworld[eval]"),
    "play": ("play an env in the terminal, or have it played", "overworld[eval]"),
    "check": ("check a server, or an env, against the contract", "overworld[check]"),
    "audit": ("play an env in many ways and say whether it is any good", "overworld[check,host]"),
    "ps": ("show env servers, their envs and free slots", "overworld[host]"),
}
"""Our own verbs, so that they are listed without being loaded, with the packages that bring them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the verb that the arguments name and exits with its status."""
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("--help", "-h"):
        print(_help())
        sys.exit(0)
    if verb == "--version":
        print(f"overworld {version('overworld')}")
        sys.exit(0)
    points = {point.name: point for point in entry_points(group=_GROUP)}
    if verb not in points:
        missing = f"install it: pip install '{_VERBS[verb][1]}'" if verb in _VERBS else "see overworld --help"
        print(f"overworld: there is no command {verb!r} here; {missing}", file=sys.stderr)
        sys.exit(2)
    from overworld.service.program import run

    run(lambda arguments: points[verb].load()(arguments), rest, f"overworld {verb}")


def _help() -> str:
    """The verbs, those of other packages with the package's name."""
    points = entry_points(group=_GROUP)
    lines = ["usage: overworld COMMAND ...", "", "Simulators over gRPC for vision-language agents.", "", "commands:"]
    lines += [
        f"  {verb:<10}{text}" + ("" if verb in points.names else f" (pip install '{package}')")
        for verb, (text, package) in _VERBS.items()
    ]
    others = sorted((point.name, point.dist.name if point.dist else "") for point in points if point.name not in _VERBS)
    lines += [f"  {verb:<10}of {package}" for verb, package in others]
    return "\n".join([*lines, "", "overworld COMMAND --help lists its settings."])
