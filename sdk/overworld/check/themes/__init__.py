"""The checks by what they are about; importing this registers all of them, in the order in which they run."""

from overworld.check.themes import handshake  # isort: skip
from overworld.check.themes import token  # isort: skip
from overworld.check.themes import health  # isort: skip
from overworld.check.themes import determinism  # isort: skip
from overworld.check.themes import specs  # isort: skip
from overworld.check.themes import opening  # isort: skip
from overworld.check.themes import order  # isort: skip
from overworld.check.themes import idempotence  # isort: skip
from overworld.check.themes import batches  # isort: skip
from overworld.check.themes import overlap  # isort: skip
from overworld.check.themes import actions  # isort: skip
from overworld.check.themes import ends  # isort: skip
from overworld.check.themes import frames  # isort: skip
from overworld.check.themes import checksums  # isort: skip
from overworld.check.themes import leases  # isort: skip
from overworld.check.themes import limits  # isort: skip
from overworld.check.themes import connections  # isort: skip
from overworld.check.themes import drain  # isort: skip

__all__ = (
    "actions",
    "batches",
    "checksums",
    "connections",
    "determinism",
    "drain",
    "ends",
    "frames",
    "handshake",
    "health",
    "idempotence",
    "leases",
    "limits",
    "opening",
    "order",
    "overlap",
    "specs",
    "token",
)
