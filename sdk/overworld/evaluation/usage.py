"""What the episodes of an evaluation took: `usage.jsonl`, a line for each line of `episodes.jsonl`.

It differs from run to run, and therefore stands in a file of its own.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Usage(BaseModel):
    """What an episode took. None: unknown.

    seconds            From its reset to its end.
    agent_seconds      Of those, while the agent was to reply; the others went to the env and to waiting for others.
    prompt_tokens      Of all its prompts, and
    completion_tokens  of all replies, as the model's server counts them.
    attempts           How often it was begun: once, and again each time that its server was lost. (A server brings
                       back the episodes of its own workers by itself, and counts that in its metrics.)
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)

    seconds: Seconds | None = None
    agent_seconds: Seconds | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    attempts: Count | None = None

    def to_line(self) -> bytes:
        """One line of JSON."""
        return self.model_dump_json().encode() + b"\n"
