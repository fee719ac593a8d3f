"""Batched decoding in this process: requests join and leave between tokens. Trainer and policy server share it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from overworld_vlm.adapters import Adapters
from overworld_vlm.batch import Prompt, PromptError, collate, hidden_states
from overworld_vlm.cache import SlotCache
from overworld_vlm.graphs import Graphs
from overworld_vlm.kernels import BLOCK, least_rows, row_by_row
from overworld_vlm.load import VLM
from overworld_vlm.sampling import draw, log_probs, uniform
from overworld_vlm.score import prompt_features
from overworld_vlm.stopwatch import Stopwatch
from overworld_vlm.writer import Request, Writer

_GATHER_FRACTION = 8
_GATHER_TOKENS = 4
"""Requests wait for company until there is one to every so many running ones, or for so many tokens."""

MAX_BATCHED_PROMPT = 512
"""Longer prompts are prefilled one by one: they keep the device busy alone, and attention without a fused kernel takes
memory by the square of their length."""


_PADDED_FREELY = 160
"""Longer prompts are prefilled together only where they are padded to the same length: of 192 columns or more, MKL adds
up two halves, so that a prompt's last bits would depend on the length of the longest one."""

_GRAPH_ROWS, _GRAPH_COLUMNS = 16, 256
"""Shapes for which graphs are captured are multiples of these."""


_Prefix = tuple[Prompt, str | None]
"""What is prefilled once, whoever shares it: a prompt, read with an adapter."""

_Special = Sequence[tuple[int, Request]]
"""Rows whose requests want more than to be drawn."""


class Engine(Writer):
    """Writes replies to up to `max_batch` requests at a time.

    Prompts are prefilled together up to the model's `batch_tokens`. The critic's features of the prompt (`value_input`,
    see `prompt_features`) are recorded on the way. Its parts are `prefill` and `decode`.

    With `adapters`, those in the model's layers, each request may name the one that it is written with.

    With `graphs` the kernels of a token are launched as CUDA graphs. They hold the addresses of the model's weights,
    which may change in place only, and know one set of adapters.
    """

    def __init__(
        self,
        vlm: VLM,
        *,
        max_batch: int = 64,
        value_input: str = "last_prompt_token",
        stopwatch: Stopwatch | None = None,
        graphs: bool = False,
        adapters: Adapters | None = None,
    ) -> None:
        self._vlm = vlm
        self._adapters = adapters
        self._stopwatch = stopwatch or Stopwatch(vlm.device)
        self._max_batch = max_batch
        self._value_input = value_input
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._gathering = 0  # tokens written since a request has waited for company
        # torch 2.11 sums over 32 keys in another order than over more of them.
        self._cache = SlotCache(vlm.core.config.text_config, _GRAPH_COLUMNS if graphs else 2 * BLOCK)
        self._graphs = Graphs(self._next_tokens, vlm.device) if graphs else None
        self._captured_moves = 0

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
        if request.adapter is not None and self._adapters is None:
            raise ValueError("this engine has no adapters to choose from")
        if self._graphs is not None and _is_special(request):
            raise ValueError("processors and top_logps cannot be part of a graph")
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
        if self.idle and self._graphs is None:
            self._cache.clear()
        return finished

    def _next_to_join(self) -> list[Request]:
        """The waiting requests that are prefilled now; none while it pays to let more of them gather."""
        few = len(self._waiting) * _GATHER_FRACTION < len(self._running)
        if not self._waiting or (few and self._gathering < _GATHER_TOKENS):
            self._gathering += bool(self._waiting)
            return []
        joining: list[Request] = []
        prompts: set[_Prefix] = set()
        longest = 0
        while self._waiting and len(self._running) + len(joining) < self._max_batch:
            prefix = _prefix(self._waiting[0])
            if prefix not in prompts:
                padded = -(-len(prefix[0]) // BLOCK) * BLOCK
                alike = padded == longest or max(padded, longest) <= _PADDED_FREELY
                longest = max(longest, padded)
                too_many = longest > MAX_BATCHED_PROMPT or longest * (len(prompts) + 1) > self._vlm.batch_tokens
                if joining and (too_many or not alike):
                    break
                prompts.add(prefix)
            joining.append(self._waiting.popleft())
        self._gathering = 0
        return joining

    def _prefill(self, joining: Sequence[Request]) -> None:
        """Lets requests join and writes their first tokens."""
        prefixes = list(dict.fromkeys(map(_prefix, joining)))
        prompts = [prompt for prompt, _ in prefixes]
        rows = [prefixes.index(_prefix(request)) for request in joining]
        batch = collate(self._vlm, prompts, multiple_of=BLOCK)
        cache = DynamicCache()
        kernels = contextlib.nullcontext() if len(prompts[0]) > MAX_BATCHED_PROMPT else row_by_row(self._vlm.device)
        with kernels, self._adapted([adapter for _, adapter in prefixes]):
            hidden = hidden_states(self._vlm, batch, cache)
        features = prompt_features(hidden, batch.prompt_lengths, self._value_input).cpu()
        for request, row in zip(joining, rows, strict=True):
            request.features = features[row].clone()
        self._cache.join(cache, rows, [len(request.prompt) for request in joining])
        self._running += joining
        last = hidden[torch.arange(len(prompts), device=hidden.device), batch.prompt_lengths - 1][rows]
        table, cut = self._table(joining)
        last = pad(last, (0, 0, 0, table.shape[1] - len(joining)))
        self._take(joining, self._choose(last, table.to(self._vlm.device), cut, _special(joining)))

    def _decode(self) -> None:
        """Writes the next token of each running reply."""
        table, cut = self._table(self._running)
        self._cache.begin_token(table.shape[1])
        adapters = [request.adapter for request in self._running]
        adapters += adapters[-1:] * (table.shape[1] - len(adapters))
        with row_by_row(self._vlm.device), self._adapted(adapters):
            if self._graphs is None:
                special = _special(self._running)
                chosen = self._next_tokens(table.to(self._vlm.device), self._cache.longest, cut, special)
            else:
                if self._captured_moves != self._cache.moves:
                    self._graphs.forget()
                    self._captured_moves = self._cache.moves
                chosen = self._graphs(table, self._cache.longest, cut)
        self._take(self._running, chosen)

    def _adapted(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Within it, each row of a batch is computed with its adapter."""
        return contextlib.nullcontext() if self._adapters is None else self._adapters.rows(adapters)

    def _table(self, requests: Sequence[Request]) -> tuple[Tensor, bool]:
        """All that the next tokens of requests are computed from, fp64 [6, rows] on the CPU, and whether one has top_p.

        The table's rows: latest token, its position, length with it, noise, temperature, top_p. Spare columns make up
        the numbers of rows that kernels want. Whole numbers stay exact.
        """
        count = len(requests)
        spare = -count % _GRAPH_ROWS if self._graphs is not None else max(least_rows(self._vlm.device) - count, 0)
        columns = [
            (
                request.tokens[-1] if request.tokens else 0,
                request.prompt.next + len(request.tokens) - 1,
                len(request.prompt) + len(request.tokens),
                uniform(request.key, len(request.tokens)),
                request.temperature,
                request.top_p,
            )
            for request in requests
        ]
        table = torch.tensor(columns + [(0, 0, 1, 0.0, 0.0, 1.0)] * spare, dtype=torch.float64).T.contiguous()
        return table, any(request.top_p < 1 for request in requests)

    def _next_tokens(self, table: Tensor, longest: int, cut: bool, special: _Special = ()) -> Tensor:
        """The next tokens of all rows and their log-probs, fp64 [2, rows], without waiting for the device.

        `longest`, the columns that attention sees, is the cache's: graphs are captured for each value of it.
        """
        assert longest == self._cache.longest
        ids, positions, ends = table[:3].long()
        family = self._vlm.family
        hidden = family.hidden_states(
            self._vlm.core,
            ids[:, None],
            self._cache.mask(ends),
            positions[None, :, None].expand(family.position_axes, -1, 1),
            None,
            self._cache,
        )
        return self._choose(hidden[:, 0], table, cut, special)

    def _choose(self, hidden: Tensor, table: Tensor, cut: bool, special: _Special) -> Tensor:
        """As `_next_tokens`, from the hidden states, [rows, hidden]."""
        uniforms, temperatures, top_p = table[3:]
        greedy = temperatures == 0
        temperatures = temperatures.masked_fill(greedy, 1).float()[:, None]
        logits = self._vlm.core.lm_head(hidden)
        logps = log_probs(logits, self._vlm.banned, temperatures)
        drawn_from = self._processed(logits, logps, special) if special else logps
        chosen = torch.where(greedy, drawn_from.argmax(-1), draw(drawn_from, uniforms, top_p if cut else None))
        return torch.stack([chosen.double(), logps.gather(1, chosen[:, None]).squeeze(1).double()])

    def _processed(self, logits: Tensor, logps: Tensor, special: _Special) -> Tensor:
        """Log-probs after the processors of the requests that have some. Records the likeliest before them."""
        processed = logps.clone()
        for row, request in special:
            if request.top_logps:
                best = logps[row].topk(request.top_logps)
                request.likeliest.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
            if request.processors is not None:
                ids = torch.cat([request.prompt.ids, torch.tensor(request.tokens, dtype=torch.int64)])
                scores = logits[row : row + 1].float().masked_fill(self._vlm.banned, -torch.inf)
                scores = request.processors(ids[None].to(scores.device), scores)
                processed[row] = torch.log_softmax(scores[0], dim=-1)
        return processed

    def _take(self, requests: Sequence[Request], chosen: Tensor) -> None:
        """Adds the chosen tokens to their requests. Only here does a token wait for the device."""
        tokens, logps = chosen.tolist()
        for request, token, logp in zip(requests, map(int, tokens), logps, strict=False):  # spare rows follow
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


def _prefix(request: Request) -> _Prefix:
    return request.prompt, request.adapter


def _is_special(request: Request) -> bool:
    return request.processors is not None or request.top_logps > 0


def _special(requests: Sequence[Request]) -> _Special:
    return [(row, request) for row, request in enumerate(requests) if _is_special(request)]
