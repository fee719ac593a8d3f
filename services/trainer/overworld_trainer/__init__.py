"""The trainer: VL-DAC (arXiv 2508.04280) over gRPC env servers. `train.py` reads as the algorithm."""

import os

# Before torch is imported: its threads must not spin while they wait, since they share their cores with other services.
# On cores that are busy or limited that makes it slower by an order of magnitude.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
