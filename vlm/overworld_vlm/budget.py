"""How many tokens may go through a model at once: a batch is bounded by the memory that its tokens take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch

MAX_BATCH_TOKENS = 16_384
"""More would not keep a device busier."""

_MIN_BATCH_TOKENS = 512
_SHARE = 0.5
"""Of the free memory; the rest is for optimizer states, keys and values, logits and fragments."""
_ADAPTER_FACTOR = 1.5
"""Adapters in fp32 keep copies of their inputs (measured with intermediate = 4 x hidden: 1.52)."""


def token_budget(core: Any, *, checkpointing: bool, adapters: bool) -> int:
    """Tokens, padding included, of one training pass that fit into the free memory of the model's device.

    A power of two, so that small changes of what is free change nothing. Passes without gradients take far less.
    """
    config = core.config.text_config
    per_token = activation_bytes(
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        core.dtype.itemsize,
        checkpointing=checkpointing,
        adapters=adapters,
    )
    fitting = int(_SHARE * free_memory(core.device) / per_token)
    return max(min(1 << max(fitting.bit_length() - 1, 0), MAX_BATCH_TOKENS), _MIN_BATCH_TOKENS)


def activation_bytes(
    hidden: int, intermediate: int, layers: int, itemsize: int, *, checkpointing: bool, adapters: bool
) -> float:
    """Bytes that the backward pass of a language model keeps of each token.

    A layer keeps 12 vectors of the hidden size (two norms with their fp32 copies, queries, keys, values, rotations,
    the attention's output, two residuals) and 4 of the MLP's. With checkpointing all layers keep their input only, and
    one of them the rest.
    """
    layer = (12 * hidden + 4 * intermediate) * itemsize * (_ADAPTER_FACTOR if adapters else 1.0)
    return layers * hidden * itemsize + layer if checkpointing else layers * layer


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated: on a GPU, or here within the limit of the container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
    except OSError:  # no control groups, or of the first version
        return free
    return free if limit == "max" else min(free, max(int(limit) - int(used), 0))
