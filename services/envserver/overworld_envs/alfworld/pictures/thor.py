"""AI2-THOR's frames instead of the schematic. Experimental: follows upstream's code, never run with the real build.

The text engine stays in charge. Each command that it executes is repeated in THOR with the same objects, since the
games' identifiers are THOR's names: "Mug_bar__minus_01_dot_20_bar_..." is "Mug|-01.20|...".
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from overworld.authoring.env import Pixels

_NEEDED = "pip install 'ai2thor==2.1.0' 'werkzeug==2.0.3' 'flask==2.0.3' opencv-python-headless"
_BUILD = Path.home() / ".ai2thor" / "releases"
_ACTIONS = {
    "openobject": "OpenObject",
    "closeobject": "CloseObject",
    "pickupobject": "PickupObject",
    "putobject": "PutObject",
    "toggleobject": "ToggleObjectOn",
    "sliceobject": "SliceObject",
}


class ThorError(RuntimeError):
    """AI2-THOR is not installed or cannot do what the game did."""


class Thor:
    """One Unity process, which plays one game at a time."""

    def __init__(self) -> None:
        missing = [name for name in ("ai2thor", "cv2") if importlib.util.find_spec(name) is None]
        if missing:
            raise ThorError(f"renderer=thor needs {' and '.join(missing)}: {_NEEDED}; or use renderer=schematic")
        if not _BUILD.is_dir() or not any(_BUILD.iterdir()):
            raise ThorError(
                f"renderer=thor needs AI2-THOR's Unity build below {_BUILD}: where there is an X display, "
                "python -c 'from ai2thor.controller import Controller; Controller().download_binary()'; "
                "or use renderer=schematic"
            )
        if not os.environ.get("DISPLAY"):
            raise ThorError("renderer=thor needs an X display with OpenGL: set DISPLAY, or use renderer=schematic")
        from alfworld.env.thor_env import ThorEnv  # needs ai2thor and cv2

        self._env: Any = ThorEnv(x_display=os.environ["DISPLAY"].lstrip(":"))
        self._names: dict[str, str] = {}

    def reset(self, game: Path) -> None:
        """Sets up the scene of a game. Raises ThorError if the game has none, as generated games do not."""
        trajectory = json.loads(game.with_name("traj_data.json").read_text())
        scene = trajectory.get("scene", {})
        if "object_poses" not in scene:
            raise ThorError(f"{game}: its traj_data.json has no object_poses; renderer=thor plays real games only")
        self._env.reset(scene["floor_plan"])
        self._env.restore_scene(scene["object_poses"], scene["object_toggles"], scene["dirty_and_empty"])
        event = self._env.step(dict(scene["init_action"]))
        self._names = {each["objectId"].lower(): each["objectId"] for each in event.metadata["objects"]}

    def step(self, action: tuple[str, Mapping[str, str]] | None) -> None:
        """Repeats what the engine did: a PDDL action with its arguments, or nothing. Raises ThorError."""
        if action is None:
            return
        name, arguments = action
        if name == "gotolocation":
            x, z, rotation, horizon = (int(part) for part in _demangled(arguments["lend"]).split("|")[1:5])
            self._do(action="TeleportFull", x=x / 4, y=self._height(), z=z / 4, rotateOnTeleport=True,
                     rotation=90 * rotation, horizon=horizon)  # fmt: skip
        elif name in _ACTIONS:
            subject = arguments.get("o") or arguments.get("co") or arguments["r"]
            request: dict[str, Any] = {"action": _ACTIONS[name], "objectId": self._name(subject), "forceAction": True}
            if name == "putobject":
                request |= {"receptacleObjectId": self._name(arguments["r"]), "placeStationary": True}
            self._do(**request)

    def frame(self) -> Pixels:
        """The agent's view, uint8 [300, 300, 3], RGB."""
        return np.ascontiguousarray(self._env.last_event.frame)

    def close(self) -> None:
        """Stops the Unity process."""
        self._env.stop()

    def _do(self, **request: Any) -> None:
        event = self._env.step(request)
        if not event.metadata["lastActionSuccess"]:
            raise ThorError(f"AI2-THOR refused {request}: {event.metadata['errorMessage']}")

    def _height(self) -> float:
        return float(self._env.last_event.metadata["agent"]["position"]["y"])

    def _name(self, identifier: str) -> str:
        name = _demangled(identifier)
        try:
            return self._names[name]
        except KeyError:
            raise ThorError(f"the scene has no {name}") from None


def _demangled(identifier: str) -> str:
    for word, sign in (("_bar_", "|"), ("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")):
        identifier = identifier.replace(word, sign)
    return identifier
