"""Model families: how messages and images become a model's inputs, and which of its layers and tokens are which."""

from overworld_vlm.families.family import Family, Layout, Processed
from overworld_vlm.families.gemma3 import Gemma3
from overworld_vlm.families.internvl import InternVL
from overworld_vlm.families.qwen2_5_vl import Qwen25VL
from overworld_vlm.families.qwen2_vl import Qwen2VL
from overworld_vlm.families.qwen3_vl import Qwen3VL
from overworld_vlm.families.smolvlm import SmolVLM

FAMILIES: dict[str, type[Family]] = {
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
    "gemma3": Gemma3,
    "smolvlm": SmolVLM,
    "internvl": InternVL,
}
"""`model_type` of config.json -> the family."""

__all__ = ["FAMILIES", "Family", "Layout", "Processed"]
