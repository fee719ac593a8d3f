"""What can be compared between what was recorded and what a server plays now."""

from __future__ import annotations

import json

from overworld.authoring.env import EnvSpec

_RENDERER = "renderer"


def other_provenance(recorded: EnvSpec, spec: EnvSpec) -> str:
    """In what a server's provenance differs; empty if what is compared can be expected to be equal."""
    names = recorded.provenance.keys() | spec.provenance.keys()
    if spec.pixels_reproducible != "always":
        names -= {_RENDERER}  # then the frames are not compared
    return "; ".join(
        f"{name}: {json.dumps(recorded.provenance.get(name))} was recorded, the server has "
        f"{json.dumps(spec.provenance.get(name))}"
        for name in sorted(names)
        if recorded.provenance.get(name) != spec.provenance.get(name)
    )


def draws_the_same(recorded: EnvSpec, spec: EnvSpec) -> bool:
    """Whether a server of the same provenance can be expected to draw the recorded frames to the bit."""
    if spec.pixels_reproducible == "always":
        return True
    renderer = spec.provenance.get(_RENDERER)
    same = renderer is not None and recorded.provenance.get(_RENDERER) == renderer
    return spec.pixels_reproducible == "same machine" and same
