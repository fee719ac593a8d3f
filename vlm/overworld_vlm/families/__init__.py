"""Model families: how messages and images become a model's inputs, and which of its layers and tokens are which."""

from overworld_vlm.families.family import Family, Picture
from overworld_vlm.families.qwen2_vl import Qwen2VL

FAMILIES: dict[str, type[Family]] = {
    "qwen2_vl": Qwen2VL,
}
"""`model_type` of config.json -> the family."""

__all__ = ["FAMILIES", "Family", "Picture"]
