"""The questions, asked: each module looks at some of the episodes of a `Case`, or plays more of them."""

from __future__ import annotations

from overworld.audit.judgements import (  # in the order in which they are asked
    reproducible as reproducible,
)
from overworld.audit.judgements import running as running  # isort: split

from overworld.audit.judgements import rewards as rewards  # isort: split

from overworld.audit.judgements import actions as actions  # isort: split

from overworld.audit.judgements import pictures as pictures  # isort: split

from overworld.audit.judgements import leaks as leaks  # isort: split

from overworld.audit.judgements import costs as costs  # isort: split
