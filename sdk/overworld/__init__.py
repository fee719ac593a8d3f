"""Overworld: simulators over gRPC, for training and evaluating vision-language agents.

`make` plays an env in this process, `Session` on a server, `Fleet` on many.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` imports each name when it is first used
    from overworld.authoring.catalogue import make as make
    from overworld.authoring.env import (
        ActionSpec as ActionSpec,
    )
    from overworld.authoring.env import (
        End as End,
    )
    from overworld.authoring.env import (
        Env as Env,
    )
    from overworld.authoring.env import (
        EnvSpec as EnvSpec,
    )
    from overworld.authoring.env import (
        Expert as Expert,
    )
    from overworld.authoring.env import (
        Image as Image,
    )
    from overworld.authoring.env import (
        Observation as Observation,
    )
    from overworld.authoring.env import (
        Options as Options,
    )
    from overworld.authoring.env import (
        Outcome as Outcome,
    )
    from overworld.authoring.env import (
        Transition as Transition,
    )
    from overworld.authoring.runner import (
        Fallback as Fallback,
    )
    from overworld.authoring.runner import (
        Result as Result,
    )
    from overworld.authoring.runner import (
        Runner as Runner,
    )
    from overworld.authoring.runner import (
        SlotError as SlotError,
    )
    from overworld.client.channel import ServerInfo as ServerInfo
    from overworld.client.channel import server_info as server_info
    from overworld.client.fleet import Fleet as Fleet
    from overworld.client.moves import Act as Act
    from overworld.client.moves import Reset as Reset
    from overworld.client.results import Results as Results
    from overworld.client.session import Session as Session
    from overworld.errors import (
        CallFailedError as CallFailedError,
    )
    from overworld.errors import (
        ContractError as ContractError,
    )
    from overworld.errors import (
        OverworldError as OverworldError,
    )
    from overworld.errors import (
        Reason as Reason,
    )
    from overworld.errors import (
        ServerBrokenError as ServerBrokenError,
    )
    from overworld.errors import (
        ServerChangedError as ServerChangedError,
    )
    from overworld.errors import (
        ServerError as ServerError,
    )
    from overworld.errors import (
        ServerLostError as ServerLostError,
    )
    from overworld.errors import (
        ServerStuckError as ServerStuckError,
    )
    from overworld.registry import open_registry as open_registry

_NAMES = {
    "authoring.catalogue": "make",
    "authoring.env": "ActionSpec End Env EnvSpec Expert Image Observation Options Outcome Transition",
    "authoring.runner": "Fallback Result Runner SlotError",
    "client.channel": "ServerInfo server_info",
    "client.fleet": "Fleet",
    "client.moves": "Act Reset",
    "client.results": "Results",
    "client.session": "Session",
    "errors": "CallFailedError ContractError OverworldError Reason "
    "ServerBrokenError ServerChangedError ServerError ServerLostError ServerStuckError",
    "registry": "open_registry",
}
_HOMES = {name: f"overworld.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = tuple(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
