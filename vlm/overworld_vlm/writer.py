"""Replies to be written, and the protocol of what writes them: a decoder in this process or behind a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, Protocol

from torch import Tensor
from transformers import LogitsProcessorList

from overworld_vlm.batch import Message, Prompt
from overworld_vlm.sampling import Key


@dataclass(eq=False)
class Request:
    """A reply to be written, and what has been written of it.

    prompt, max_new_tokens  what to reply to, and at how many tokens the reply is cut
    messages                the prompt before it was encoded, for writers that send it to a server; others ignore it
    key                     names the noise of sampling
    temperature             0 is greedy decoding; log-probs are then those at temperature 1
    processors              what a token is drawn from instead of the policy itself: they get the ids of prompt and
                            reply, [1, L], and the logits, fp32 [1, vocabulary], and give those at the temperature
    top_logps               how many of the likeliest tokens are recorded at each place
    stop(tokens)            may end the reply early
    adapter                 which of the engine's adapters writes; None: the model as it is
    cancelled               takes the request out before its next token

    A writer fills in `tokens` (EOS included), `logps`, the log-prob of each at the sampling temperature, `likeliest`,
    tokens with theirs, and `finish`. Log-probs are the policy's, as the trainer scores them, whatever processors and
    `top_p` left of it. It may fill in `features`, fp32 [hidden], see `score.prompt_features`, where they cost nothing.

    Requests that share a prompt object and an adapter share its prefill.
    """

    prompt: Prompt
    max_new_tokens: int
    _: KW_ONLY
    messages: Sequence[Message] = ()
    key: Key = ()
    temperature: float = 1.0
    top_p: float = 1.0
    processors: LogitsProcessorList | None = None
    top_logps: int = 0
    stop: Callable[[Sequence[int]], bool] | None = None
    adapter: str | None = None
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    likeliest: list[list[tuple[int, float]]] = field(default_factory=list)
    features: Tensor | None = None
    finish: Literal["stop", "length", "cancelled"] | None = None

    def __repr__(self) -> str:
        state = self.finish or "unfinished"
        return f"Request({self.prompt!r}, {len(self.tokens)} of {self.max_new_tokens} tokens, {state})"


class Writer(Protocol):
    """Writes replies to requests, which may join at any time.

    A reply may depend on its request alone, never on which others are being written or in what order they came.
    """

    def add(self, request: Request) -> None:
        """Accepts a request. Raises PromptError if it can never be written."""

    def step(self) -> list[Request]:
        """Continues writing. Returns the requests that finished, perhaps none."""

    def run(self, requests: Sequence[Request]) -> None:
        """Writes all of these replies."""
        for request in requests:
            self.add(request)
        while any(request.finish is None for request in requests):
            self.step()
