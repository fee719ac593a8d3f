"""Grammars: replies that must be one of several texts, or JSON of a schema. llguidance does the parsing."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from overworld_vlm.load import VLM
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from overworld_policy.errors import bad_request

_MAX_CHARACTERS = 65_536
_LIMITS = LLParserLimits(initial_lexer_fuel=2_000_000, step_lexer_fuel=200_000, max_grammar_size=100_000)
"""Some 100 ms to compile a grammar, and 15 ms for a token, at most."""


_tokenizers: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, LLTokenizer] = weakref.WeakKeyDictionary()
"""Making one takes up to a second."""


class Grammar(LogitsProcessor):
    """Leaves only tokens with which a reply can go on. One for each reply.

    `failure` says why a reply had to end early; '' if it did not.
    """

    def __init__(self, matcher: LLMatcher, prompt_length: int, eos_ids: Sequence[int]) -> None:
        self._start = matcher
        self._matcher = matcher.deep_copy()
        self._prompt_length = prompt_length
        self._eos_ids = list(eos_ids)
        self._consumed = 0
        self.failure = ""

    def copy(self) -> Grammar:
        """For another reply."""
        return Grammar(self._start, self._prompt_length, self._eos_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Of ids int64 [1, prompt and reply], and scores fp32 [1, vocabulary]."""
        written = input_ids[0, self._prompt_length :].tolist()
        if len(written) < self._consumed:  # the reply is written again from its beginning
            self._matcher, self._consumed = self._start.deep_copy(), 0
        self._matcher.consume_tokens(written[self._consumed :])
        self._consumed = len(written)
        allowed = scores.masked_fill(~_next_tokens(self._matcher, scores.shape[1]).to(scores.device), -torch.inf)
        if not self._matcher.is_error() and torch.isfinite(allowed).any():
            return allowed
        self.failure = _first_line(self._matcher.get_error()) or "no token of the model can continue the reply"
        ended = torch.full_like(scores, -torch.inf)
        ended[:, self._eos_ids] = 0.0
        return ended


def choice(texts: Sequence[str]) -> str:
    """The grammar of replies that are one of these texts."""
    return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, texts)))


def json_object() -> str:
    """The grammar of replies that are a JSON object."""
    return LLMatcher.grammar_from_json_schema({"type": "object"})


def json_schema(schema: Any, param: str) -> str:
    """The grammar of replies that are JSON of a schema. Raises ApiError."""
    text = json.dumps(schema)
    if len(text) > _MAX_CHARACTERS:
        raise bad_request(f"{param} has {len(text):,} characters, at most {_MAX_CHARACTERS:,} are taken", param=param)
    try:
        return LLMatcher.grammar_from_json_schema(text)
    except ValueError as error:
        raise bad_request(f"{param} is not a JSON schema: {error}", param=param) from None


def compiled(grammar: str, vlm: VLM, prompt_length: int, param: str) -> Grammar:
    """A grammar for replies to a prompt of this length. Raises ApiError for one that the model cannot follow."""
    matcher = LLMatcher(_tokenizer(vlm), grammar, limits=_LIMITS)
    problem = matcher.get_error()
    if not problem:
        first = _next_tokens(matcher, len(vlm.banned))
        problem = matcher.get_error()
        if not problem and not first.any():
            problem = "the model's tokenizer cannot spell any such reply"
    if problem:
        raise bad_request(f"{param} cannot be followed: {_first_line(problem)}", param=param)
    return Grammar(matcher, prompt_length, sorted(vlm.eos_ids))


def _tokenizer(vlm: VLM) -> LLTokenizer:
    made = _tokenizers.get(vlm.tokenizer)
    if made is None:
        made = from_tokenizer(vlm.tokenizer, n_vocab=len(vlm.banned), eos_token=sorted(vlm.eos_ids))
        _tokenizers[vlm.tokenizer] = made
    return made


def _next_tokens(matcher: LLMatcher, vocabulary: int) -> Tensor:
    """Which tokens can come next, bool [vocabulary]; none if the matcher has failed."""
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)  # not llguidance.torch: that compiles a kernel first
    return torch.from_numpy(np.unpackbits(bits, count=vocabulary, bitorder="little").astype(bool))


def _first_line(problem: str) -> str:
    """Of llguidance's errors, which go on with the parser's whole state."""
    return problem.partition("\n")[0]
