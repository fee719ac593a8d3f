"""Overworld: simulators over gRPC, for training and evaluating vision-language agents.

`make` plays an env in this process, `Session` on a server, `Fleet` on many.
"""

from overworld.catalogue import make
from overworld.channel import ServerBrokenError, ServerInfo, ServerLostError, server_info
from overworld.client import Act, Reset, Results, ServerChangedError, Session
from overworld.env import (
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
from overworld.errors import ContractError, Reason
from overworld.fleet import Fleet
from overworld.registry import registry
from overworld.runner import Fallback, Result, Runner, SlotError

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
    "registry",
    "server_info",
]
