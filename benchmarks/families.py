"""Model families: how far our prompts, logits and log-probs are from Hugging Face's own, and what a frame costs.

Each family is a tiny model of its real architecture in fp32, with its real kinds of tokenizer and image processor. The
peer is the family's own Processor and forward, prompt by prompt; ours are padded together. Tokens per frame are those
of the published models' image settings.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from overworld_vlm.batch import Prompt, collate, encode, hidden_states
from overworld_vlm.engine import Engine
from overworld_vlm.families import FAMILIES
from overworld_vlm.load import VLM, load, quieten_transformers
from overworld_vlm.score import score
from overworld_vlm.writer import Request
from report import Row, finish, parser
from rich.progress import track

sys.path.append(str(Path(__file__).parents[1]))  # for the tiny models, which the tests use, too

from tests.support.tiny_families import own_inputs, write_family
from tests.support.tiny_vlm import MIXED

ALLOWED = 1e-5
"""The largest difference between logits or log-probs in fp32."""
FRAMES = ((224, 224), (480, 480), (60, 80))
"""Heights and widths."""

PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": ("Qwen2-VL-7B-Instruct", {"min_pixels": 56**2, "max_pixels": 12_845_056}, {}),
    "qwen2_5_vl": ("Qwen2.5-VL-7B-Instruct", {"min_pixels": 56**2, "max_pixels": 12_845_056}, {}),
    "qwen3_vl": ("Qwen3-VL-8B-Instruct", {"min_pixels": 256**2, "max_pixels": 4096**2, "patch_size": 16}, {}),
    "gemma3": (
        "gemma-3-4b-it",
        {"size": {"height": 896, "width": 896}},
        {"mm_tokens_per_image": 256, "image_size": 896},
    ),
    "smolvlm": (
        "SmolVLM2-2.2B-Instruct",
        {"size": {"longest_edge": 4 * 384}, "max_image_size": {"longest_edge": 384}},
        {"patch_size": 14, "scale_factor": 3},
    ),
    "internvl": (
        "InternVL3-8B-hf",
        {"size": {"height": 448, "width": 448}},
        {"image_seq_length": 256, "image_size": [448, 448]},
    ),
}
"""A model of each family, with what its image processor and its config say of images."""


def main() -> None:
    """Prints a row for each difference and each size of a frame."""
    arguments = parser(__doc__ or "").parse_args()
    quieten_transformers()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for model_type in track(FAMILIES, "families"):
        with tempfile.TemporaryDirectory() as folder:
            write_family(model_type, folder)
            vlm = load(folder)
            rows += _differences(model_type, vlm, FAMILIES[model_type].model_class.from_pretrained(folder))
            rows += _tokens(model_type, vlm)
    finish(rows, arguments.json)


@torch.no_grad()
def _differences(model_type: str, vlm: VLM, theirs: Any) -> list[Row]:
    prompts = [encode(vlm, [message]) for message in MIXED]
    logits = vlm.core.lm_head(hidden_states(vlm, collate(vlm, prompts)))
    forward = 0.0
    for row, (message, prompt) in enumerate(zip(MIXED, prompts, strict=True)):
        inputs = own_inputs(vlm, message)
        if inputs["input_ids"][0].tolist() != prompt.ids.tolist():
            sys.exit(f"{model_type}: a prompt differs from its Processor's")
        forward = max(forward, float((logits[row, : len(prompt)] - theirs(**inputs).logits[0]).abs().max()))
    requests = [Request(prompts[n % len(prompts)], 4 + n * 7 % 29, key=(n,)) for n in range(18)]
    Engine(vlm, max_batch=7).run(requests)
    scores = score(vlm, _prompts(requests), [torch.tensor(request.tokens) for request in requests])
    sampler = max(
        float((scores.logps[row, : len(request.logps)] - torch.tensor(request.logps)).abs().max())
        for row, request in enumerate(requests)
    )
    return [
        _allowed(model_type, "logits against Hugging Face's forward", f"{len(prompts)} prompts, 0-3 images", forward),
        _allowed(model_type, "sampler against scoring", f"{len(requests)} requests, 7 at a time", sampler),
    ]


def _prompts(requests: list[Request]) -> list[Prompt]:
    return [request.prompt for request in requests]


def _allowed(model_type: str, what: str, setting: str, difference: float) -> Row:
    ratio = ALLOWED / max(difference, 1e-9)
    return Row(f"{model_type}: {what}", setting, difference, "largest difference", "allowed", ALLOWED, ratio, 1)


def _tokens(model_type: str, tiny: VLM) -> list[Row]:
    name, images, changes = PUBLISHED[model_type]
    config = copy.deepcopy(tiny.core.config)
    for key, value in changes.items():
        setattr(config.vision_config if hasattr(config.vision_config, key) else config, key, value)
    published = type(tiny.family)(config, tiny.tokenizer, tiny.family.image_processor_class(**images))
    rows = []
    for height, width in FRAMES:
        published.set_images()
        whole = published.image_tokens(height, width)
        tiled = whole
        if published.tiling_switch is not None:
            published.set_images(tiling=True)
            tiled = published.image_tokens(height, width)
            published.set_images(tiling=False)
        setting = f"{width} x {height}, {name}"
        rows.append(Row(f"{model_type}: a frame", setting, whole, "tokens", "with tiling", tiled, tiled / whole))
    return rows


if __name__ == "__main__":
    main()
