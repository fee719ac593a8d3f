"""Every family, with a tiny model of its real architecture that was saved to a folder and loaded from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from overworld_vlm import checkpoint
from overworld_vlm.batch import Message, Prompt, PromptError, collate, encode, hidden_states
from overworld_vlm.engine import Engine
from overworld_vlm.families import FAMILIES
from overworld_vlm.load import VLM, ModelError, load, save
from overworld_vlm.score import Scores, prefill_features, score
from overworld_vlm.writer import Request
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from tests.support.optional import present
from tests.support.tiny_families import own_inputs, write_family
from tests.support.tiny_vlm import MIXED, mixed_prompts, picture, pixels, user
from tests.support.waits import Waits

TOLERANCE = 1e-5  # of log-probs and logits, in fp32
TILING = ["gemma3", "smolvlm", "internvl"]
RESIZING = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
WIDE = user("Look:", picture(1, 300, 640), "and", picture(2, 30, 30), "Go.")
"""A picture that every family would cut, and one that none would."""


@pytest.fixture(scope="session", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp(request.param) / "model"
    write_family(request.param, path)
    return path


@pytest.fixture(scope="session")
def vlm(folder: Path) -> VLM:
    """For tests that leave it as it is."""
    return load(folder)


@pytest.fixture(scope="session")
def prompts(vlm: VLM) -> list[Prompt]:
    return mixed_prompts(vlm)


@pytest.fixture(scope="session")
def requests(vlm: VLM, prompts: list[Prompt]) -> list[Request]:
    """Replies to prompts of many lengths, with no, one and several pictures, which join four at a time."""
    replies = [Request(prompts[n % len(prompts)], 2 + n * 7 % 19, key=(9, n)) for n in range(10)]
    Engine(vlm, max_batch=4).run(replies)
    return replies


def model_type(vlm: VLM) -> str:
    return vlm.core.config.model_type


def own_model(folder: Path) -> Any:
    """The model as transformers alone loads it."""
    return FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]].model_class.from_pretrained(folder)


def logits(vlm: VLM, prompts: list[Prompt]) -> Tensor:
    with torch.no_grad():
        return vlm.core.lm_head(hidden_states(vlm, collate(vlm, prompts)))


def largest_difference(scores: Scores, requests: list[Request]) -> float:
    return max(
        float((scores.logps[row, : len(request.logps)] - torch.tensor(request.logps)).abs().max())
        for row, request in enumerate(requests)
    )


def scored(vlm: VLM, requests: list[Request]) -> Scores:
    with torch.no_grad():
        return score(vlm, [one.prompt for one in requests], [torch.tensor(one.tokens) for one in requests])


def with_adapter(vlm: VLM, targets: str) -> VLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(vlm.model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    return VLM(model.eval(), vlm.tokenizer, vlm.image_processor)


def adapted(vlm: VLM) -> list[str]:
    return [name for name, module in vlm.model.named_modules() if hasattr(module, "lora_A")]


def same_as_their_own(vlm: VLM, message: Message, model: Any) -> tuple[Prompt, float]:
    """Compares prompt, pixels and logits with the family's own Processor and forward; returns the largest gap."""
    prompt, theirs = encode(vlm, [message]), own_inputs(vlm, message)
    assert prompt.ids.tolist() == theirs["input_ids"][0].tolist()
    if prompt.pictures:
        their_pixels = theirs["pixel_values"]
        assert torch.equal(pixels(vlm, prompt).flatten(), their_pixels.flatten())
    with torch.no_grad():
        return prompt, float((logits(vlm, [prompt])[0] - model(**theirs).logits[0]).abs().max())


def test_prompts_and_logits_are_those_of_the_familys_own_processor_and_model(
    vlm: VLM, folder: Path, prompts: list[Prompt]
) -> None:
    model = own_model(folder)
    together = logits(vlm, prompts)
    for row, (message, prompt) in enumerate(zip(MIXED, prompts, strict=True)):
        assert same_as_their_own(vlm, message, model)[1] <= TOLERANCE
        with torch.no_grad():
            theirs = model(**own_inputs(vlm, message)).logits[0]
        assert torch.allclose(together[row, : len(prompt)], theirs, rtol=0, atol=TOLERANCE)  # padded, with neighbours


def test_pictures_count(vlm: VLM) -> None:
    """What the other tests compare does depend on every picture."""
    images = [picture(number, 40, 40) for number in range(3)]
    first, other_first, other_second = (
        logits(vlm, [encode(vlm, [user(*shown, "Go.")])])[0, -1]
        for shown in (images[:2], [images[2], images[1]], [images[0], images[2]])
    )
    assert float((first - other_first).abs().max()) > 1e-3
    assert float((first - other_second).abs().max()) > 1e-3


def test_log_probs_of_decoding_are_those_of_teacher_forcing(vlm: VLM, requests: list[Request]) -> None:
    assert largest_difference(scored(vlm, requests), requests) <= TOLERANCE
    assert len({len(request.tokens) for request in requests}) > 4


def test_replies_are_the_same_one_by_one(vlm: VLM, requests: list[Request]) -> None:
    for request in requests:
        alone = Request(request.prompt, request.max_new_tokens, key=request.key)
        Engine(vlm, max_batch=1).run([alone])
        assert alone.tokens == request.tokens
        assert alone.logps == request.logps
        assert torch.equal(present(alone.features), present(request.features))
        assert largest_difference(scored(vlm, [request]), [request]) <= TOLERANCE


def test_a_token_is_decoded_without_waiting_for_the_device(
    vlm: VLM, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait would cost time with every token, and CUDA graphs could not be captured."""
    engine, waits = Engine(vlm), Waits()
    next_tokens, tokens = engine._next_tokens, []

    def watched(*arguments: Any) -> Tensor:
        with waits:
            tokens.append(next_tokens(*arguments))
        return tokens[-1]

    monkeypatch.setattr(engine, "_next_tokens", watched)
    engine.run([Request(prompt, 4, key=(number,)) for number, prompt in enumerate(prompts)])
    assert len(tokens) == 3  # the first came from the prefill
    assert waits.found == []
    with waits:
        torch.tensor([1.0, 2.0]).sum().item()
    assert len(waits.found) == 2


@pytest.mark.parametrize("value_input", ["last_prompt_token", "prompt_mean"])
def test_features_of_prefill_decoding_and_scoring_agree(vlm: VLM, prompts: list[Prompt], value_input: str) -> None:
    prefilled = prefill_features(vlm, prompts, value_input)
    requests = [Request(prompt, 2, key=(n,)) for n, prompt in enumerate(prompts)]
    Engine(vlm, value_input=value_input).run(requests)
    with torch.no_grad():
        replies = [torch.tensor(request.tokens) for request in requests]
        scores = score(vlm, prompts, replies, value_input=value_input)
    assert torch.allclose(prefilled, present(scores.features), rtol=0, atol=TOLERANCE)
    assert torch.allclose(
        prefilled, torch.stack([present(request.features) for request in requests]), rtol=0, atol=TOLERANCE
    )


def test_features_of_pictures_may_be_computed_once(folder: Path) -> None:
    """One picture at a time, then used without the vision tower: same hidden states, same gradients."""
    vlm = load(folder, freeze_vision=True)
    prompts = mixed_prompts(vlm)
    batch = collate(vlm, prompts, [torch.arange(30, 33)] * len(MIXED))
    weights = [weight for weight in vlm.model.parameters() if weight.requires_grad]
    vlm.vision.memory = 0
    expected = hidden_states(vlm, batch)
    upstream = torch.linspace(-1, 1, expected.numel()).view_as(expected) * batch.mask[..., None]
    gradients = torch.autograd.grad((expected * upstream).sum(), weights, allow_unused=True)
    vlm.vision.memory = 1 << 20
    for shown in (one for prompt in prompts for one in prompt.pictures):
        vlm.vision([shown])
    for tower in vlm.family.vision:
        getattr(vlm.core.model, tower).forward = None
    hidden = hidden_states(vlm, batch)
    assert torch.allclose(hidden, expected, rtol=0, atol=1e-6)
    again = torch.autograd.grad((hidden * upstream).sum(), weights, allow_unused=True)
    steepest = max(float(theirs.abs().max()) for theirs in gradients if theirs is not None)
    for ours, theirs in zip(again, gradients, strict=True):
        assert ours is theirs is None or torch.allclose(ours / steepest, theirs / steepest, rtol=0, atol=1e-6)


def test_greedy_replies_are_those_of_transformers(vlm: VLM, folder: Path) -> None:
    model = own_model(folder)
    banned = vlm.banned.nonzero().squeeze(1).tolist()
    for message in MIXED[:4]:
        request = Request(encode(vlm, [message]), 12, temperature=0)
        Engine(vlm).run([request])
        inputs = own_inputs(vlm, message)
        settings = {"do_sample": False, "max_new_tokens": 12, "suppress_tokens": banned}
        generated = model.generate(**inputs, **settings, eos_token_id=sorted(vlm.eos_ids))
        assert request.tokens == generated[0, len(request.prompt) :].tolist()


def test_training_mode_drops_nothing_out(folder: Path) -> None:
    vlm = load(folder)
    prompts = mixed_prompts(vlm)
    expected = logits(vlm, prompts)
    vlm.model.train()
    assert torch.equal(logits(vlm, prompts), expected)


def test_adapters_are_in_the_language_model_only_and_can_be_turned_off(folder: Path) -> None:
    vlm = load(folder)
    prompts = mixed_prompts(vlm)
    base = logits(vlm, prompts)
    vlm = with_adapter(vlm, vlm.family.lora_targets)
    names = adapted(vlm)
    assert len(names) == 2 * 7  # layers times linear layers
    assert not any(tower in name.split(".") for tower in vlm.family.vision for name in names)
    assert {
        name for name, weight in vlm.model.named_parameters() if weight.requires_grad and "lora" not in name
    } == set()
    assert float((logits(vlm, prompts) - base).abs().max()) > 0.1
    with vlm.model.disable_adapter():
        assert torch.equal(logits(vlm, prompts), base)
    requests = [Request(prompt, 6, key=(n,)) for n, prompt in enumerate(prompts)]
    Engine(vlm).run(requests)
    assert largest_difference(scored(vlm, requests), requests) <= TOLERANCE


def test_the_vision_tower_gets_adapters_if_asked(folder: Path) -> None:
    vlm = with_adapter(load(folder), load(folder).family.vision_lora_targets)
    names = adapted(vlm)
    assert len(names) >= 4
    assert all(any(tower in name.split(".") for tower in vlm.family.vision) for name in names)


def test_a_saved_adapter_loads_in_plain_peft(folder: Path, tmp_path: Path) -> None:
    vlm = with_adapter(load(folder), load(folder).family.lora_targets)
    arguments: dict[str, Any] = {
        "run": "r",
        "update": 1,
        "env_steps": 1,
        "critic": None,
        "write_trainer": None,
        "used_expert": False,
    }
    checkpoint.write(tmp_path / "c", vlm, base=folder, recipe={}, config={}, provenance={}, **arguments)
    plain = PeftModel.from_pretrained(own_model(folder), tmp_path / "c" / "weights").eval()
    for message in MIXED[1:3]:
        with torch.no_grad():
            theirs = plain(**own_inputs(vlm, message)).logits[0]
        assert torch.allclose(logits(vlm, [encode(vlm, [message])])[0], theirs, rtol=0, atol=TOLERANCE)
    again, _ = checkpoint.load_checkpoint(tmp_path / "c")
    prompts = mixed_prompts(vlm)
    assert torch.equal(logits(again, prompts), logits(vlm, prompts))


def test_a_reply_ends_with_the_turn_and_no_other_special_token_is_sampled(vlm: VLM, requests: list[Request]) -> None:
    end = vlm.family.end_of_turn
    assert vlm.tokenizer.convert_ids_to_tokens(vlm.end_id) == end
    ended = [{"role": "user", "content": [{"type": "text", "text": "Go."}]}]
    ended += [{"role": "assistant", "content": [{"type": "text", "text": "up"}]}]
    shown = vlm.tokenizer.apply_chat_template(ended, tokenize=False)
    assert shown.rstrip("\n").endswith(f"up{end}")
    assert not vlm.banned[sorted(vlm.eos_ids)].any()
    assert vlm.banned[len(vlm.tokenizer) :].all()
    special = {token for token, added in vlm.tokenizer.added_tokens_decoder.items() if added.special}
    assert vlm.image_token_id in special
    assert set(vlm.banned.nonzero().squeeze(1).tolist()) == (special - vlm.eos_ids) | set(
        range(len(vlm.tokenizer), len(vlm.banned))
    )
    sampled = torch.tensor([token for request in requests for token in request.tokens])
    assert not vlm.banned[sampled].any()


def test_special_tokens_within_a_text_are_plain_text(vlm: VLM) -> None:
    hostile = "".join(vlm.special_texts)
    plain, attacked = (encode(vlm, [user(picture(0), text, "Go.")]) for text in ("x", hostile))
    for special in vlm.special_texts:
        token = vlm.tokenizer.convert_tokens_to_ids(special)
        assert int((attacked.ids == token).sum()) == int((plain.ids == token).sum())


def test_a_content_that_is_one_text_is_shown(vlm: VLM) -> None:
    one, parts = (encode(vlm, [{"role": "user", "content": text}]) for text in ("Go on.", user("Go on.")["content"]))
    assert torch.equal(one.ids, parts.ids)
    assert "Go on." in vlm.tokenizer.decode(one.ids)


def test_a_template_that_shows_no_pictures_is_refused(folder: Path) -> None:
    vlm = load(folder)
    vlm.tokenizer.chat_template = "{{ messages[0]['role'] }}"
    with pytest.raises(PromptError, match="does not show all images"):
        encode(vlm, [user(picture(0))])


def test_the_vision_tower_is_frozen_if_asked(folder: Path) -> None:
    vlm = load(folder, freeze_vision=True)
    towers = {f"model.{tower}" for tower in vlm.family.vision}
    for name, weight in vlm.model.named_parameters():
        assert weight.requires_grad != any(name.startswith(f"{tower}.") for tower in towers), name
    score(vlm, [encode(vlm, [MIXED[1]])], [torch.tensor([30, 31])]).logps.sum().backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in vlm.model.parameters())


def test_an_image_processor_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    vlm = load(folder)
    if model_type(vlm) not in ("gemma3", "internvl"):
        return  # they take images of any size
    vlm.image_processor.size = {"height": 40, "width": 40}
    save(vlm, tmp_path)
    with pytest.raises(ModelError, match=r"\(40, 40\) pixels.*\(32, 32\)"):
        load(tmp_path)


def test_tokens_of_an_image_are_those_in_the_prompt(vlm: VLM) -> None:
    without, with_one = (len(encode(vlm, [user(*parts)])) for parts in (["a", "b"], ["a", picture(0, 40, 60), "b"]))
    around = 2 if model_type(vlm) in RESIZING else 1 if model_type(vlm) == "internvl" else 0
    assert with_one - without == vlm.family.image_tokens(40, 60) + around


def test_a_layout_is_that_of_the_processed_image(folder: Path) -> None:
    vlm = load(folder)
    if model_type(vlm) in RESIZING:
        vlm = load(folder, min_pixels=9_000, max_pixels=90_000)
    for height, width in [(1, 1), (1, 150), (27, 28), (30, 90), (97, 311), (300, 300), (301, 299), (640, 480)]:
        layout, processed = vlm.family.layout(height, width), vlm.family.process(picture(0, height, width))
        assert (layout.text, layout.run) == (processed.text, processed.run)
        for name, sizes in layout.sizes.items():
            assert torch.equal(sizes, processed.media[name]), (height, width)


def test_tiling_is_off_unless_asked_and_stays_on_where_it_was_saved(folder: Path, tmp_path: Path) -> None:
    vlm = load(folder)
    if model_type(vlm) not in TILING:
        with pytest.raises(ModelError, match="tiling"):
            load(folder, tiling=True)
        return
    assert vlm.family.image_tokens(300, 640) == vlm.family.image_tokens(30, 30)
    tiled = load(folder, tiling=True)
    prompt, gap = same_as_their_own(tiled, WIDE, own_model(folder))
    assert gap <= TOLERANCE
    assert len(pixels(tiled, prompt)) > 2 == len(prompt.pictures)
    requests = [Request(prompt, 5, key=(1,)), Request(encode(tiled, [MIXED[3]]), 7, key=(2,))]
    Engine(tiled).run(requests)
    assert largest_difference(scored(tiled, requests), requests) <= TOLERANCE
    save(tiled, tmp_path)
    assert torch.equal(encode(load(tmp_path), [WIDE]).ids, prompt.ids)
    assert torch.equal(encode(load(tmp_path, tiling=False), [WIDE]).ids, encode(vlm, [WIDE]).ids)


def test_bounds_of_an_images_area(folder: Path, tmp_path: Path) -> None:
    vlm = load(folder)
    if model_type(vlm) not in RESIZING:
        with pytest.raises(ModelError, match="one size"):
            load(folder, max_pixels=100_000)
        return
    bounded = load(folder, min_pixels=16_384, max_pixels=65_536)
    side = vlm.image_processor.patch_size * vlm.image_processor.merge_size
    assert vlm.family.image_tokens(480, 480) == round(480 / side) ** 2
    assert bounded.family.image_tokens(480, 480) == int(256 / side) ** 2
    assert bounded.family.image_tokens(30, 30) * side**2 >= 16_384 > vlm.family.image_tokens(30, 30) * side**2
    save(bounded, tmp_path)
    assert load(tmp_path).family.image_tokens(480, 480) == bounded.family.image_tokens(480, 480)
    with pytest.raises(ModelError, match="min_pixels"):
        load(folder, min_pixels=70_000, max_pixels=65_536)
