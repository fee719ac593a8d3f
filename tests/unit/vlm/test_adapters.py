"""Several adapters in one model: each row has its own, and the numbers that it would have alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from overworld_vlm.adapters import Adapters, read
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM, ModelError
from overworld_vlm.score import score
from overworld_vlm.writer import Request
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import with_adapter
from tests.support.optional import present
from tests.support.tiny_vlm import make_vlm, mixed_prompts

KINDS: dict[str, dict[str, Any]] = {
    "rank 4": {},
    "another of rank 4": {},
    "rank 1": {"r": 1, "lora_alpha": 8},
    "rank 40, other layers": {"r": 40, "target_modules": r".*language_model.*\.(q_proj|down_proj)"},
    "rank 5, another scale": {"r": 5, "use_rslora": True, "lora_alpha": 8},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PEFT's folders of adapters of `make_vlm()`."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, (name, settings) in enumerate(KINDS.items()):
        with_adapter(make_vlm(), seed, **settings).model.save_pretrained(root / name)
    return {name: root / name for name in KINDS}


@pytest.fixture
def vlm() -> VLM:
    return make_vlm()


@pytest.fixture
def adapters(vlm: VLM, folders: dict[str, Path]) -> Adapters:
    adapters = Adapters(vlm.core)
    for name, folder in folders.items():
        adapters.add(name, present(read(folder, vlm)))
    return adapters


def make_requests(vlm: VLM) -> list[Request]:
    """One for each prompt and each adapter, or none."""
    return [
        Request(prompt, 3 + number % 9, key=(number,), adapter=name)
        for number, prompt in enumerate(mixed_prompts(vlm))
        for name in (*KINDS, None)
    ]


def write(vlm: VLM, adapters: Adapters, requests: list[Request], **arguments: Any) -> None:
    Engine(vlm, adapters=adapters, **arguments).run(requests)


def assert_equal(request: Request, expected: Request) -> None:
    """Not one bit differs."""
    assert (request.tokens, request.logps) == (expected.tokens, expected.logps)
    assert torch.equal(present(request.features), present(expected.features))


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> list[Request]:
    """Each in an engine of its own, of a model that holds no other adapter."""
    vlm = make_vlm()
    requests = make_requests(vlm)
    for name in (*KINDS, None):
        adapters = Adapters(vlm.core)
        if name is not None:
            adapters.add(name, present(read(folders[name], vlm)))
        for request in requests:
            if request.adapter == name:
                write(vlm, adapters, [request])
        if name is not None:
            adapters.remove(name)
    return requests


@pytest.mark.parametrize(("max_batch", "backwards"), [(5, True), (64, False)])
def test_a_reply_is_to_the_last_bit_what_it_would_be_alone(
    vlm: VLM, adapters: Adapters, alone: list[Request], max_batch: int, backwards: bool
) -> None:
    together = make_requests(vlm)
    write(vlm, adapters, together[::-1] if backwards else together, max_batch=max_batch)
    for request, expected in zip(together, alone, strict=True):
        assert_equal(request, expected)
    assert len({tuple(request.tokens) for request in together}) > len(together) // 2


@pytest.mark.parametrize("name", KINDS)
def test_an_adapter_is_the_one_that_peft_makes_of_it(
    vlm: VLM, adapters: Adapters, folders: dict[str, Path], name: str
) -> None:
    requests = [Request(prompt, 6, key=(1,), adapter=name) for prompt in mixed_prompts(vlm)]
    write(vlm, adapters, requests)
    reference = make_vlm()
    reference = reference.wrapped(PeftModel.from_pretrained(reference.model, folders[name]).eval())
    tokens = [torch.tensor(request.tokens) for request in requests]
    prompts = [request.prompt for request in requests]
    with torch.no_grad():
        scores = score(reference, prompts, tokens)
        with reference.model.disable_adapter():
            plain = score(reference, prompts, tokens)
    for row, request in enumerate(requests):
        logps = torch.tensor(request.logps)
        assert torch.allclose(scores.logps[row, : len(logps)], logps, rtol=0, atol=1e-5)
        assert not torch.allclose(plain.logps[row, : len(logps)], logps, rtol=0, atol=1e-2)


def test_an_adapter_that_overflows_spoils_its_own_rows_only(
    vlm: VLM, adapters: Adapters, folders: dict[str, Path]
) -> None:
    weights = present(read(folders["rank 4"], vlm))
    adapters.add("huge", {path: (a * 1e38, b) for path, (a, b) in weights.items()})
    path, (a, _) = next(iter(weights.items()))
    linear, inputs = vlm.core.get_submodule(path), torch.full((3, 1, len(a)), 10.0)
    with torch.no_grad(), adapters.rows(["huge", "rank 4", None]):
        huge, *others = linear(inputs)
    with torch.no_grad(), adapters.rows(["rank 4", "rank 4", None]):
        _, *expected = linear(inputs)
    assert not huge.isfinite().all()
    assert torch.equal(torch.stack(others), torch.stack(expected))


def test_adapters_come_and_go_between_replies(
    vlm: VLM, adapters: Adapters, folders: dict[str, Path], alone: list[Request]
) -> None:
    for name in KINDS:
        adapters.remove(name)
    assert repr(adapters) == "Adapters(0 in 0 layers)"
    assert not any(module._forward_hooks for module in vlm.core.modules())
    adapters.add("rank 4", present(read(folders["rank 4"], vlm)))
    pairs = [pair for pair in zip(make_requests(vlm), alone, strict=True) if pair[1].adapter in ("rank 4", None)]
    write(vlm, adapters, [request for request, _ in pairs])
    for request, expected in pairs:
        assert_equal(request, expected)


def test_an_adapter_that_is_not_there_is_not_left_out_in_silence(vlm: VLM, adapters: Adapters) -> None:
    with pytest.raises(AssertionError, match="taken out"):
        write(vlm, adapters, [Request(mixed_prompts(vlm)[0], 1, adapter="unknown")])
    with pytest.raises(ValueError, match="no adapters to choose from"):
        Engine(vlm).add(Request(mixed_prompts(vlm)[0], 1, adapter="rank 4"))


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"target_modules": r".*(visual\.blocks\..*\.qkv|q_proj)"},
        {"bias": "all"},
    ],
)
def test_other_kinds_of_adapters_are_left_to_peft(vlm: VLM, tmp_path: Path, settings: dict[str, Any]) -> None:
    with_adapter(make_vlm(), 0, **settings).model.save_pretrained(tmp_path)
    assert read(tmp_path, vlm) is None


@pytest.mark.parametrize("damage", ["rank", "shape", "one matrix", "settings", "file"])
def test_damaged_adapters_are_left_to_peft(vlm: VLM, folders: dict[str, Path], tmp_path: Path, damage: str) -> None:
    settings = json.loads((folders["rank 4"] / "adapter_config.json").read_text())
    tensors = load_file(folders["rank 4"] / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_A" in name)
    if damage == "rank":
        settings["r"] = 0
    elif damage == "shape":
        tensors[name] = tensors[name][:, 1:].contiguous()
    elif damage == "one matrix":
        del tensors[name]
    (tmp_path / "adapter_config.json").write_text("[]" if damage == "settings" else json.dumps(settings))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    if damage == "file":
        (tmp_path / "adapter_model.safetensors").write_bytes(b"no tensors")
    assert read(tmp_path, vlm) is None


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_adapter_that_has_diverged_is_refused(
    vlm: VLM, folders: dict[str, Path], tmp_path: Path, number: float
) -> None:
    """Its rows would be nonsense, and zero times its weights is not zero."""
    (tmp_path / "adapter_config.json").write_text((folders["rank 4"] / "adapter_config.json").read_text())
    tensors = load_file(folders["rank 4"] / "adapter_model.safetensors")
    list(tensors.values())[-1][0, 0] = number
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="not finite"):
        read(tmp_path, vlm)


def test_in_bf16_it_is_peft_s_policy_too(folders: dict[str, Path]) -> None:
    half = make_vlm()
    half.model.to(torch.bfloat16)
    adapters = Adapters(half.core)
    adapters.add("it", present(read(folders["rank 4"], half)))
    requests = [Request(prompt, 6, key=(1,), adapter="it") for prompt in mixed_prompts(half)]
    write(half, adapters, requests)
    reference = make_vlm()
    reference.model.to(torch.bfloat16)
    reference = reference.wrapped(PeftModel.from_pretrained(reference.model, folders["rank 4"]).eval())
    with torch.no_grad():
        scores = score(
            reference,
            [request.prompt for request in requests],
            [torch.tensor(request.tokens) for request in requests],
        )
    written = torch.nn.utils.rnn.pad_sequence([torch.tensor(one.logps) for one in requests], batch_first=True)
    assert float((scores.logps - written).abs()[scores.mask].mean()) < 0.05
