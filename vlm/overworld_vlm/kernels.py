"""Kernels with which a row's numbers do not depend, to the last bit, on the rows that it is computed together with.

Then a reply depends on its request alone: not on who joined when, nor on how a batch was cut. That holds on a CPU in
fp32, where tests compare bits; a GPU's kernels promise nothing of the kind.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

MIN_SIZE = 32
"""With fewer rows or columns, a CPU's matrix product adds in another order (measured with MKL: below 12 rows with two
threads, below 32 columns)."""


def row_by_row(device: torch.device) -> AbstractContextManager[None]:
    """Within it, attention on a CPU is computed by plain matrix products.

    The fused kernel is not faster for a few hundred tokens, and gives a row other last bits on another thread.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
