"""Overworld: simulators over gRPC, for training and evaluating vision-language agents.

`make` plays an env in this process, `Session` on a server, `Fleet` on many.
"""

from overworld.authoring.catalogue import make
from overworld.authoring.env import (
    ActionSpec,
    End,
    Env,
    EnvSpec,
    Expert,
    Image,
    Observation,
    Options,
    Outcome,
    Transition,
)
from overworld.authoring.runner import Fallback, Result, Runner, SlotError
from overworld.client.channel import ServerBrokenError, ServerInfo, ServerLostError, server_info
from overworld.client.fleet import Fleet
from overworld.client.session import Act, Reset, Results, ServerChangedError, Session
from overworld.errors import ContractError, Reason
from overworld.registry import open_registry

__all__ = [
    "Act",
    "ActionSpec",
    "ContractError",
    "End",
    "Env",
    "EnvSpec",
    "Expert",
    "Fallback",
    "Fleet",
    "Image",
    "Observation",
    "Options",
    "Outcome",
    "Reason",
    "Reset",
    "Result",
    "Results",
    "Runner",
    "ServerBrokenError",
    "ServerChangedError",
    "ServerInfo",
    "ServerLostError",
    "Session",
    "SlotError",
    "Transition",
    "make",
    "open_registry",
    "server_info",
]
