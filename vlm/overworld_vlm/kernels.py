"""Kernels with which a row's numbers do not depend, to the last bit, on the rows that it is computed together with.

Then a reply depends on its request alone: not on who joined when, nor on how a batch was cut. That holds on a CPU in
fp32, where tests compare bits; a GPU's kernels promise nothing of the kind.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BLOCK = 32
"""Sums have a multiple of so many terms: otherwise a CPU adds those at the end in another order. In decoding twice as
many, since PyTorch 2.11 adds 32 terms in another order than more."""

_ROWS_PER_THREAD = 8
_MAX_ROWS = 32


def least_rows(device: torch.device) -> int:
    """With fewer rows, a CPU's matrix product adds in another order (measured with MKL: below 4, with 2 threads 12)."""
    return min(_ROWS_PER_THREAD * torch.get_num_threads(), _MAX_ROWS) if device.type == "cpu" else 1


def row_by_row(device: torch.device) -> AbstractContextManager[None]:
    """Within it, attention on a CPU is computed by plain matrix products.

    The fused kernel is not faster for a few hundred tokens, and gives a row other last bits on another thread.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
