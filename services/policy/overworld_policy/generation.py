"""A model folder's generation_config.json, which is not applied: what others who serve the folder would sample with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_MAX_BYTES = 1 << 20

_NEUTRAL: dict[str, Any] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "max_new_tokens": None,
    "min_new_tokens": None,
    "min_p": None,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "repetition_penalty": 1,
    "sequence_bias": None,
    "suppress_tokens": None,
    "temperature": 1,
    "top_k": 0,
    "top_p": 1,
    "typical_p": 1,
}
"""What transformers or vLLM change a reply by, and the values that change nothing, besides null."""


def ignored_settings(folder: Path) -> dict[str, Any]:
    """The settings in a model folder that would change its replies; none if there is no readable file."""
    path = folder / "generation_config.json"
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        settings = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):  # whoever loads the model says what is wrong
        return {}
    if not isinstance(settings, dict):
        return {}
    return {
        name: settings[name]
        for name, neutral in _NEUTRAL.items()
        if settings.get(name) is not None and settings[name] != neutral
    }
