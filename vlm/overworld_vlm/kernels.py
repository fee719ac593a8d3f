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
"""A CPU's matrix product adds in another order below so many rows (measured with MKL: 12 with two threads), below so
many columns (32), and at the end of a sum whose length is not a multiple of its unrolled loop."""


def row_by_row(device: torch.device) -> AbstractContextManager[None]:
    """Within it, attention on a CPU is computed by plain matrix products.

    The fused kernel is not faster for a few hundred tokens, and gives a row other last bits on another thread.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
