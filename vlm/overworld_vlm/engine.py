"""Batched decoding in this process: requests join and leave between tokens. Trainer and policy server share it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from overworld_vlm.batch import PromptError, collate, hidden_states
from overworld_vlm.cache import SlotCache
from overworld_vlm.load import VLM
from overworld_vlm.sampling import draw, log_probs, uniform
from overworld_vlm.score import prompt_features
from overworld_vlm.writer import Request, Writer


class Engine(Writer):
    """Writes replies to up to `max_batch` requests at a time.

    Prompts are prefilled together up to `max_prefill_tokens`. The critic's features of the prompt (`value_input`, see
    `prompt_features`) are recorded on the way.
    """

    def __init__(
        self,
        vlm: VLM,
        *,
        max_batch: int = 64,
        max_prefill_tokens: int = 16_384,
        value_input: str = "last_prompt_token",
    ) -> None:
        self._vlm = vlm
        self._max_batch = max_batch
        self._max_prefill_tokens = max_prefill_tokens
        self._value_input = value_input
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
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
        joined = self._prefill()
        if not joined and self._running:
            self._decode()
        rows = [row for row, request in enumerate(self._running) if request.finish is not None]
        return finished + [self._remove(row) for row in reversed(rows)]

    def _prefill(self) -> bool:
        """Lets waiting requests join and writes their first tokens."""
        joining: list[Request] = []
        longest = 0
        while self._waiting and len(self._running) + len(joining) < self._max_batch:
            longest = max(longest, len(self._waiting[0].prompt))
            if joining and longest * (len(joining) + 1) > self._max_prefill_tokens:
                break
            joining.append(self._waiting.popleft())
        if not joining:
            return False
        batch = collate(self._vlm, [request.prompt for request in joining])
        cache = DynamicCache()
        hidden = hidden_states(self._vlm, batch, cache)
        features = prompt_features(hidden, batch.prompt_lengths, self._value_input).cpu()
        for request, feature in zip(joining, features, strict=True):
            request.features = feature.clone()
        self._cache.join(cache, batch.prompt_lengths)
        self._running += joining
        rows = torch.arange(len(joining), device=hidden.device)
        self._choose(joining, hidden[rows, batch.prompt_lengths - 1])
        return True

    def _decode(self) -> None:
        device = self._vlm.device
        mask = self._cache.begin_token()
        positions = [request.prompt.next + len(request.tokens) - 1 for request in self._running]
        family = self._vlm.family
        hidden = family.hidden_states(
            self._vlm.core,
            torch.tensor([[request.tokens[-1]] for request in self._running], device=device),
            mask,
            torch.tensor(positions, device=device)[None, :, None].expand(family.position_axes, -1, 1),
            {},
            self._cache,
        )
        self._choose(self._running, hidden[:, 0])

    def _choose(self, requests: Sequence[Request], hidden: Tensor) -> None:
        """Chooses the next token of each request from its hidden state, [B, hidden]."""
        logits = self._vlm.core.lm_head(hidden)
        temperatures = torch.tensor([request.temperature or 1.0 for request in requests], device=hidden.device)
        logps = log_probs(logits, self._vlm.banned, temperatures[:, None])
        uniforms = [uniform(request.key, len(request.tokens)) for request in requests]
        drawn = draw(
            logps,
            torch.tensor(uniforms, dtype=torch.float64, device=hidden.device),
            torch.tensor([request.top_p for request in requests], device=hidden.device),
        )
        greedy = torch.tensor([request.temperature == 0 for request in requests], device=hidden.device)
        chosen = torch.where(greedy, logps.argmax(-1), drawn)
        chosen_logps = logps.gather(1, chosen[:, None]).squeeze(1).tolist()
        for request, token, logp in zip(requests, chosen.tolist(), chosen_logps, strict=True):
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
