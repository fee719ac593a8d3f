"""The tiny model: made from a seed, saved and loaded, able to see."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from overworld_vlm.batch import Prompt, collate, encode, hidden_states
from overworld_vlm.load import VLM, load, save
from overworld_vlm.tiny import make_tiny
from overworld_vlm.tiny_config import TinyConfig
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration

from tests.support.tiny_vlm import MIXED, SIZES, TEXTS, make_vlm, media, pixels, user


def logits(vlm: VLM, prompts: list[Prompt]) -> Tensor:
    with torch.no_grad():
        return vlm.core.lm_head(hidden_states(vlm, collate(vlm, prompts)))


def test_a_saved_model_loads_back_with_the_same_prompts_and_identical_logits(
    vlm: VLM, prompts: list[Prompt], tmp_path: Path
) -> None:
    save(vlm, tmp_path)
    again = load(tmp_path)
    for message, prompt in zip(MIXED, prompts, strict=True):
        other = encode(again, [message])
        assert torch.equal(other.ids, prompt.ids)
        assert torch.equal(other.positions, prompt.positions)
        theirs, ours = media(again, other), media(vlm, prompt)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert torch.equal(logits(again, prompts), logits(vlm, prompts))
    assert again.eos_ids == vlm.eos_ids
    assert not again.model.training


def test_transformers_alone_loads_it(vlm: VLM, tmp_path: Path) -> None:
    save(vlm, tmp_path)
    model = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path)
    for name, tensor in vlm.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_one_seed_makes_one_model_and_another_seed_another() -> None:
    one, again, other = make_vlm(7), make_vlm(7), make_vlm(8)
    assert one.tokenizer.get_vocab() == again.tokenizer.get_vocab()
    ours, theirs = one.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(ours["lm_head.weight"], other.model.state_dict()["lm_head.weight"])


def test_making_one_leaves_the_random_numbers_of_the_process_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_vlm(1)
    assert torch.equal(torch.rand(3), expected)


def test_digits_are_single_tokens_however_often_they_meet() -> None:
    vlm = make_tiny(["2026 2026 12 12 12 345"] * 50, SIZES)
    ids = vlm.tokenizer("12 2026345", add_special_tokens=False)["input_ids"]
    assert vlm.tokenizer.convert_ids_to_tokens(ids) == ["1", "2", "Ġ", "2", "0", "2", "6", "3", "4", "5"]


def test_any_text_comes_back_from_its_tokens(vlm: VLM) -> None:
    text = 'tabs\tand\nlines, {"JSON": "ünïcode"} 🃏 <|im_start|'
    assert vlm.tokenizer.decode(vlm.tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_what_makes_it_see_is_in_place(vlm: VLM) -> None:
    """Measured: weights of std 0.08 and pictures normalised about white; without either it stays at chance."""
    layer = vlm.model.model.language_model.layers[0].mlp.up_proj.weight
    assert float(layer.detach().std()) == pytest.approx(0.08, rel=0.1)
    assert float(vlm.model.model.visual.blocks[0].attn.qkv.weight.detach().std()) == pytest.approx(0.08, rel=0.1)
    white, black = (pixels(vlm, encode(vlm, [user(np.full((28, 28, 3), value, np.uint8))])) for value in (255, 0))
    assert float(white.abs().max()) < 1e-6
    assert float((black + 2.5).abs().max()) < 1e-6  # (0 - 1) / 0.4


def test_sizes_are_those_asked_for() -> None:
    vlm = make_tiny(TEXTS, TinyConfig(hidden_size=64, intermediate_size=48, layers=3, heads=4, vocab_size=320))
    config = vlm.model.config.text_config
    assert (vlm.hidden_size, config.intermediate_size, config.num_hidden_layers) == (64, 48, 3)
    assert len(vlm.tokenizer) == len(vlm.banned) <= 320
    assert vlm.max_length == 4096


def test_images_are_normalised_about_their_background() -> None:
    dark = make_tiny(TEXTS, TinyConfig(image_mean=0.25)).image_processor
    background = dark(PIL.Image.new("RGB", (28, 28), (64, 64, 64)), return_tensors="pt")["pixel_values"]
    assert background.abs().max() < 0.01


def test_images_of_little_contrast_can_be_spread() -> None:
    faint = make_tiny(TEXTS, TinyConfig(image_mean=0.4, image_std=0.1)).image_processor
    spread = faint(PIL.Image.new("RGB", (28, 28), (128, 128, 128)), return_tensors="pt")["pixel_values"]
    assert spread.mean().item() == pytest.approx((128 / 255 - 0.4) / 0.1, abs=1e-3)
