"""The trainer: VL-DAC (arXiv 2508.04280) over gRPC env servers. `train.py` reads like the algorithm."""
