"""Fields of requests that this server does not act on: those that change nothing, and those that must be neutral.

OpenAI's API and vLLM's additions to it have more fields than are offered here. One that would change the answer is
refused, unless its value says that it should not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from overworld_policy.errors import bad_request

WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""What would change nothing about a reply: accepted with any value."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_decoding_backend": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_whitespace_pattern": (),
    "ignore_eos": (False,),
    "include_reasoning": (True, False),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_logprobs": (0,),
    "reasoning_effort": (),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}
"""What is not offered, and the values besides null that ask for nothing; any other is refused."""


def check(extra: Mapping[str, Any], *, strict: bool) -> list[str]:
    """The names of fields that nobody knows, among those of a request that are not offered.

    Raises ApiError for what is known and not offered; with `strict` for what nobody knows, too.
    """
    unknown = []
    for name, value in extra.items():
        if name in WITHOUT_EFFECT or value is None:
            continue
        if name not in NEUTRAL:
            unknown.append(name[:100])
        elif value not in NEUTRAL[name]:
            raise bad_request(f"{name} is not offered; leave the field out", param=name)
    if strict and unknown:
        raise bad_request(f"{', '.join(unknown[:10])}: no such field, and strict is set", param=unknown[0])
    return unknown
