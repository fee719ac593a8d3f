"""Batched decoding in this process: requests join and leave between tokens. Trainer and policy server share it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from overworld_vlm.batch import PromptError, collate, hidden_states
from overworld_vlm.cache import SlotCache
from overworld_vlm.kernels import BLOCK, row_by_row
from overworld_vlm.load import VLM
from overworld_vlm.sampling import draw, log_probs, uniform
from overworld_vlm.score import prompt_features
from overworld_vlm.stopwatch import Stopwatch
from overworld_vlm.writer import Request, Writer

_GATHER_FRACTION = 8
_GATHER_TOKENS = 4
"""Requests wait for company until there is one to every so many running ones, or for so many tokens."""

_MAX_BATCHED_PROMPT = 512
"""Longer prompts are prefilled one by one: they keep the device busy alone, and attention without a fused kernel takes
memory by the square of their length."""


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What the next token of each row is computed from, [rows] each, on the device.

    ids, positions  of the latest token
    ends            the row's length with that token
    top_p           None if no row has it
    """

    ids: Tensor
    positions: Tensor
    ends: Tensor
    uniforms: Tensor
    temperatures: Tensor
    top_p: Tensor | None


class Engine(Writer):
    """Writes replies to up to `max_batch` requests at a time.

    Prompts are prefilled together up to the model's `batch_tokens`. The critic's features of the prompt (`value_input`,
    see `prompt_features`) are recorded on the way. Its parts are `prefill` and `decode`.
    """

    def __init__(
        self,
        vlm: VLM,
        *,
        max_batch: int = 64,
        value_input: str = "last_prompt_token",
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._vlm = vlm
        self._stopwatch = stopwatch or Stopwatch(vlm.device)
        self._max_batch = max_batch
        self._value_input = value_input
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._gathering = 0  # tokens written since a request has waited for company
        self._cache = SlotCache(vlm.core.config.text_config)

    def __repr__(self) -> str:
        return f"Engine({self._vlm!r}, {len(self._running)} requests running, {len(self._waiting)} waiting)"

    @property
    def idle(self) -> bool:
        """Whether no request is waiting or running."""
        return not self._waiting and not self._running

    def add(self, request: Request) -> None:
        """Accepts a request, which joins before the next token. Raises PromptError if it can never fit."""
        if request.max_new_tokens < 1:
            raise ValueError("a reply has at least 1 token")
        if len(request.prompt) + request.max_new_tokens > self._vlm.max_length:
            raise PromptError(
                f"a prompt of {len(request.prompt)} and a reply of {request.max_new_tokens} tokens exceed the model's "
                f"{self._vlm.max_length}"
            )
        self._waiting.append(request)

    @torch.no_grad()
    def step(self) -> list[Request]:
        """Writes one token of each running reply, after new ones have joined. Returns those that finished."""
        assert not self._vlm.model.training, "decode in eval mode: dropout would change the policy"
        finished = self._drop_cancelled()
        joining = self._next_to_join()
        if joining:
            with self._stopwatch("prefill"):
                self._prefill(joining)
        elif self._running:
            with self._stopwatch("decode"):
                self._decode()
        rows = [row for row, request in enumerate(self._running) if request.finish is not None]
        finished += [self._remove(row) for row in reversed(rows)]
        if self.idle:
            self._cache.clear()
        return finished

    def _next_to_join(self) -> list[Request]:
        """The waiting requests that are prefilled now; none while it pays to let more of them gather."""
        few = len(self._waiting) * _GATHER_FRACTION < len(self._running)
        if not self._waiting or (few and self._gathering < _GATHER_TOKENS):
            self._gathering += bool(self._waiting)
            return []
        joining: list[Request] = []
        longest = 0
        while self._waiting and len(self._running) + len(joining) < self._max_batch:
            length = len(self._waiting[0].prompt)
            longest = max(longest, length)
            if joining and (longest > _MAX_BATCHED_PROMPT or longest * (len(joining) + 1) > self._vlm.batch_tokens):
                break
            joining.append(self._waiting.popleft())
        self._gathering = 0
        return joining

    def _prefill(self, joining: Sequence[Request]) -> None:
        """Lets requests join and writes their first tokens."""
        lengths = [len(request.prompt) for request in joining]
        batch = collate(self._vlm, [request.prompt for request in joining], multiple_of=BLOCK)
        cache = DynamicCache()
        with contextlib.nullcontext() if lengths[0] > _MAX_BATCHED_PROMPT else row_by_row(self._vlm.device):
            hidden = hidden_states(self._vlm, batch, cache)
        features = prompt_features(hidden, batch.prompt_lengths, self._value_input).cpu()
        for request, feature in zip(joining, features, strict=True):
            request.features = feature.clone()
        self._cache.join(cache, lengths)
        self._running += joining
        last = hidden[torch.arange(len(joining), device=hidden.device), batch.prompt_lengths - 1]
        self._choose(joining, last, self._upload(joining))

    def _decode(self) -> None:
        inputs = self._upload(self._running)
        mask = self._cache.begin_token(inputs.ends)
        family = self._vlm.family
        with row_by_row(self._vlm.device):
            hidden = family.hidden_states(
                self._vlm.core,
                inputs.ids[:, None],
                mask,
                inputs.positions[None, :, None].expand(family.position_axes, -1, 1),
                None,
                self._cache,
            )
        self._choose(self._running, hidden[:, 0], inputs)

    def _upload(self, requests: Sequence[Request]) -> _Inputs:
        """What the next tokens of requests are computed from, in one transfer."""
        spare = [0.0] * max(BLOCK - len(requests), 0)
        columns = [
            [request.tokens[-1] if request.tokens else 0 for request in requests] + spare,
            [request.prompt.next + len(request.tokens) - 1 for request in requests] + spare,
            [len(request.prompt) + len(request.tokens) for request in requests] + [1.0] * len(spare),
            [uniform(request.key, len(request.tokens)) for request in requests] + spare,
            [request.temperature for request in requests] + spare,
            [request.top_p for request in requests] + [1.0] * len(spare),
        ]
        table = torch.tensor(columns, dtype=torch.float64).to(self._vlm.device)  # whole numbers stay exact
        ids, positions, ends = table[:3].long()
        cut = any(request.top_p < 1 for request in requests)
        return _Inputs(ids, positions, ends, uniforms=table[3], temperatures=table[4], top_p=table[5] if cut else None)

    def _choose(self, requests: Sequence[Request], hidden: Tensor, inputs: _Inputs) -> None:
        """Chooses the next token of each request from its hidden state, [B, hidden]."""
        hidden = pad(hidden, (0, 0, 0, len(inputs.ids) - len(hidden)))
        greedy = inputs.temperatures == 0
        temperatures = inputs.temperatures.masked_fill(greedy, 1).float()[:, None]
        logps = log_probs(self._vlm.core.lm_head(hidden), self._vlm.banned, temperatures)
        chosen = torch.where(greedy, logps.argmax(-1), draw(logps, inputs.uniforms, inputs.top_p))
        chosen_logps = logps.gather(1, chosen[:, None]).squeeze(1)
        # The one place where a token waits for the device.
        tokens, values = torch.stack([chosen.double(), chosen_logps.double()]).tolist()
        for request, token, logp in zip(requests, map(int, tokens), values, strict=False):  # spare rows follow
            request.tokens.append(token)
            request.logps.append(logp)
            if token in self._vlm.eos_ids or (request.stop is not None and request.stop(request.tokens)):
                request.finish = "stop"
            elif len(request.tokens) >= request.max_new_tokens:
                request.finish = "length"

    def _drop_cancelled(self) -> list[Request]:
        dropped = [request for request in self._waiting if request.cancelled]
        for request in dropped:
            self._waiting.remove(request)
        rows = [row for row, request in enumerate(self._running) if request.cancelled]
        dropped += [self._remove(row) for row in reversed(rows)]
        for request in dropped:
            request.finish = "cancelled"
        return dropped

    def _remove(self, row: int) -> Request:
        request = self._running[row]
        self._cache.leave(row)
        self._running[row] = self._running[-1]
        self._running.pop()
        return request
