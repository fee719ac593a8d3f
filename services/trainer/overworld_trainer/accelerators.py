"""What GPUs can do at most, by the names that PyTorch gives them.

FLOP/s of dense matrix products in bfloat16 with fp32 accumulation, from NVIDIA's data sheets and architecture white
papers. The data sheets of Hopper, Ada and Blackwell give the double, for matrices of which half is zero.
"""

from __future__ import annotations

_TERA = 1e12

PEAK_FLOPS = {
    # H200 Tensor Core GPU data sheet: 1,979 TFLOP/s with sparsity
    "NVIDIA H200": 989 * _TERA,
    # H100 Tensor Core GPU data sheet: SXM 1,979, PCIe 1,513, NVL 1,671 TFLOP/s with sparsity
    "NVIDIA H100 80GB HBM3": 989 * _TERA,
    "NVIDIA H100 PCIe": 756 * _TERA,
    "NVIDIA H100 NVL": 835 * _TERA,
    # A100 Tensor Core GPU data sheet
    "NVIDIA A100-SXM4-40GB": 312 * _TERA,
    "NVIDIA A100-SXM4-80GB": 312 * _TERA,
    "NVIDIA A100-PCIE-40GB": 312 * _TERA,
    "NVIDIA A100 80GB PCIe": 312 * _TERA,
    # A10 and A40 data sheets
    "NVIDIA A10": 125 * _TERA,
    "NVIDIA A40": 149.7 * _TERA,
    # L40S and L4 data sheets: 733 and 242 TFLOP/s with sparsity
    "NVIDIA L40S": 362 * _TERA,
    "NVIDIA L4": 121 * _TERA,
    # GA102 and Ada architecture white papers: GeForce cards accumulate in fp32 at half the speed of fp16
    "NVIDIA GeForce RTX 3090": 71 * _TERA,
    "NVIDIA GeForce RTX 4090": 165 * _TERA,
}
