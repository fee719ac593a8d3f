"""What a request does to the model's distribution before a token is drawn, as a list of transformers' processors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from overworld_vlm.batch import Prompt
from overworld_vlm.load import VLM
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from overworld_policy import grammar
from overworld_policy.errors import bad_request
from overworld_policy.grammar import Grammar
from overworld_policy.messages import ChatRequest

_MIN_TEMPERATURE = 1e-3


def temperature(asked: ChatRequest) -> float:
    """Temperatures next to 0 are greedy decoding: dividing by them leaves the range of fp32."""
    wanted = 1.0 if asked.temperature is None else asked.temperature
    return wanted if wanted >= _MIN_TEMPERATURE else 0.0


def read_grammar(asked: ChatRequest, vlm: VLM, prompt: Prompt) -> Grammar | None:
    """The grammar that the reply is to follow, if there is one. Raises ApiError."""
    wanted: list[tuple[str, str]] = []
    form, structured = asked.response_format, asked.structured_outputs
    if form is not None and form.type == "json_object":
        wanted.append(("response_format", grammar.json_object()))
    if form is not None and form.type == "json_schema":
        if form.json_schema is None:
            raise bad_request("response_format.json_schema is missing", param="response_format")
        param = "response_format.json_schema.schema"
        wanted.append((param, grammar.json_schema(form.json_schema.schema_, param)))
    if structured is not None and structured.choice is not None:
        wanted.append(("structured_outputs.choice", grammar.choice(structured.choice)))
    if structured is not None and structured.json_ is not None:
        param = "structured_outputs.json"
        wanted.append((param, grammar.json_schema(structured.json_, param)))
    if len(wanted) > 1:
        raise bad_request(f"{' and '.join(param for param, _ in wanted)} exclude each other; keep one")
    return grammar.compiled(wanted[0][1], vlm, len(prompt), wanted[0][0]) if wanted else None


def processors(asked: ChatRequest, vlm: VLM, prompt: Prompt, grammar: Grammar | None) -> LogitsProcessorList | None:
    """What tokens are drawn from instead of the policy; None: from the policy. Raises ApiError.

    In vLLM's order: penalties, biases and what may end the reply, then the temperature, then what cuts the tail off.
    """
    length, vocabulary = len(prompt), len(vlm.banned)
    _check_ids("logit_bias", list(asked.logit_bias or ()), vocabulary)
    _check_ids("stop_token_ids", asked.stop_token_ids or [], vocabulary)
    made: list[LogitsProcessor] = []
    if asked.repetition_penalty not in (None, 1):
        made.append(RepetitionPenaltyLogitsProcessor(float(asked.repetition_penalty)))
    if asked.presence_penalty or asked.frequency_penalty:
        made.append(_Penalties(length, asked.presence_penalty or 0.0, asked.frequency_penalty or 0.0))
    if asked.logit_bias:
        made.append(_Bias(asked.logit_bias))
    if asked.min_tokens:
        ends = sorted({*vlm.eos_ids, *(asked.stop_token_ids or ())})
        made.append(MinNewTokensLengthLogitsProcessor(length, asked.min_tokens, ends, device=str(vlm.device)))
    if grammar is not None:
        made.append(grammar)
    heat = temperature(asked)
    cuts: list[LogitsProcessor] = []
    if (asked.top_k or 0) > 0:
        cuts.append(TopKLogitsWarper(min(asked.top_k or 0, vocabulary)))
    if asked.min_p:
        cuts.append(MinPLogitsWarper(asked.min_p))
    if not made and (not cuts or not heat):
        return None
    return LogitsProcessorList([*made, *([TemperatureLogitsWarper(heat), *cuts] if heat else [])])


def _check_ids(name: str, ids: Sequence[int], vocabulary: int) -> None:
    for token in ids:
        if not 0 <= token < vocabulary:
            raise bad_request(f"{name}: {token} is not a token; there are {vocabulary}, from 0", param=name)


class _Penalties(LogitsProcessor):
    """OpenAI's presence and frequency penalties, for tokens of the reply."""

    def __init__(self, prompt_length: int, presence: float, frequency: float) -> None:
        self._prompt_length = prompt_length
        self._presence = presence
        self._frequency = frequency

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Of ids int64 [1, prompt and reply], and scores fp32 [1, vocabulary]."""
        counts = torch.bincount(input_ids[0, self._prompt_length :], minlength=scores.shape[1])
        return scores - self._frequency * counts - self._presence * (counts > 0)


class _Bias(LogitsProcessor):
    """OpenAI's logit_bias."""

    def __init__(self, biases: dict[int, float]) -> None:
        self._ids = torch.tensor(list(biases))
        self._biases = torch.tensor(list(biases.values()))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Of ids int64 [1, prompt and reply], and scores fp32 [1, vocabulary]."""
        return scores.index_add(1, self._ids.to(scores.device), self._biases.to(scores.device)[None])
