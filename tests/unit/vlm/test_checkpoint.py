"""Checkpoints: written completely or not at all, verified before they are used, readable by others."""

import hashlib
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, Never

import pytest
import torch
from overworld_vlm import checkpoint
from overworld_vlm.batch import collate, hidden_states
from overworld_vlm.checkpoint import Manifest
from overworld_vlm.load import VLM, ModelError, save
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from tests.support.optional import present
from tests.support.tiny_vlm import make_vlm, mixed_prompts

CRITIC = {"mlp.0.weight": torch.arange(6.0).reshape(2, 3).t(), "mlp.0.bias": torch.tensor([0.5, -0.5])}


def with_adapter(vlm: VLM, seed: int = 0) -> VLM:
    """An adapter that changes something."""
    settings = LoraConfig(r=2, target_modules=vlm.family.lora_targets, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(vlm.model, settings)
    return VLM(model.eval(), vlm.tokenizer, vlm.image_processor)


def logits(vlm: VLM) -> Tensor:
    with torch.no_grad():
        return vlm.core.lm_head(hidden_states(vlm, collate(vlm, mixed_prompts(vlm))))


def write_state(folder: Path) -> None:
    (folder / "state.json").write_text('{"update": 3}')
    save_file({"moment": torch.ones(4)}, folder / "optimizers.safetensors")


def write(folder: Path, vlm: VLM, **changes: Any) -> Manifest:
    arguments: dict[str, Any] = {
        "run": "run-7",
        "update": 3,
        "env_steps": 96,
        "base": None,
        "critic": CRITIC,
        "write_trainer": write_state,
        "recipe": {"history": 2},
        "config": {"seed": 1, "policy": {"lr": 0.001}},
        "provenance": {"toy/Count": {"rules": "toy 1"}},
        "used_expert": True,
    }
    return checkpoint.write(folder, vlm, **(arguments | changes))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: checkpoint 0 is a whole model, 3 an adapter to it, 4 a whole model. Copy it to change it."""
    root = tmp_path_factory.mktemp("runs") / "run-7"
    folder = root / "checkpoints"
    folder.mkdir(parents=True)
    write(folder / "000000", make_vlm(), update=0, critic=None, write_trainer=None)
    write(folder / "000003", with_adapter(make_vlm()), base=folder / "000000" / "weights")
    write(folder / "000004", make_vlm(4))
    return root


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoints, elsewhere."""
    shutil.copytree(written, tmp_path / "run-7")
    return tmp_path / "run-7" / "checkpoints"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def edit_manifest(folder: Path, **fields: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        checkpoint.load_checkpoint(folder)
    for word in (str(folder), *words):
        assert word in str(caught.value)


def test_a_whole_model_comes_back_as_it_was(folder: Path) -> None:
    vlm, manifest = checkpoint.load_checkpoint(folder / "000004")
    assert torch.equal(logits(vlm), logits(make_vlm(4)))
    assert (manifest.run, manifest.update, manifest.env_steps, manifest.kind) == ("run-7", 3, 96, "model")
    assert (manifest.recipe, manifest.config["policy"]) == ({"history": 2}, {"lr": 0.001})
    assert (manifest.provenance, manifest.used_expert) == ({"toy/Count": {"rules": "toy 1"}}, True)
    assert manifest.base is None


def test_an_adapter_comes_back_as_it_was_and_switched_off_is_the_base(folder: Path) -> None:
    vlm, manifest = checkpoint.load_checkpoint(folder / "000003")
    assert manifest.kind == "adapter"
    assert not any(parameter.requires_grad for parameter in vlm.model.parameters())
    assert torch.allclose(logits(vlm), logits(with_adapter(make_vlm())), atol=1e-6)
    base = logits(make_vlm())
    assert float((logits(vlm) - base).abs().max()) > 0.1
    with vlm.model.disable_adapter():
        assert torch.allclose(logits(vlm), base, atol=1e-6)
    assert not vlm.model.training


def test_an_adapter_can_be_trained_on(folder: Path) -> None:
    path = folder / "000003"
    base = make_vlm()
    base.model.requires_grad_(False)
    vlm = checkpoint.add_adapter(base, path, checkpoint.read(path), trainable=True)
    trainable = {name for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in vlm.model.named_parameters() if "lora_" in name}


def test_several_adapters_share_a_base(folder: Path) -> None:
    write(folder / "000005", with_adapter(make_vlm(), 5), base=folder / "000000" / "weights")
    base, _ = checkpoint.load_checkpoint(folder / "000000")
    for name in ("000003", "000005"):
        base = checkpoint.add_adapter(base, folder / name, checkpoint.read(folder / name), name=f"at-{name}")
    for name in ("000003", "000005"):
        base.model.set_adapter(f"at-{name}")
        alone, _ = checkpoint.load_checkpoint(folder / name)
        assert torch.allclose(logits(base), logits(alone), atol=1e-6)


def test_the_critic_comes_back_as_it_was(folder: Path) -> None:
    tensors = checkpoint.load_critic(folder / "000003")
    assert tensors.keys() == CRITIC.keys()
    assert all(torch.equal(tensors[name], CRITIC[name]) for name in CRITIC)
    assert "critic.safetensors" not in files(folder / "000000")


def test_transformers_and_peft_alone_load_the_weights(folder: Path) -> None:
    base = Qwen2VLForConditionalGeneration.from_pretrained(folder / "000000" / "weights")
    tokenizer = AutoTokenizer.from_pretrained(folder / "000003" / "weights")
    vlm = make_vlm()
    assert tokenizer.get_vocab() == vlm.tokenizer.get_vocab()
    assert tokenizer.chat_template == vlm.tokenizer.chat_template
    model = PeftModel.from_pretrained(base, folder / "000003" / "weights").eval()
    ours, _ = checkpoint.load_checkpoint(folder / "000003")
    assert torch.allclose(logits(VLM(model, vlm.tokenizer, vlm.image_processor)), logits(ours), atol=1e-6)


@pytest.mark.parametrize("name", ["000003", "000004"])
def test_any_changed_byte_is_noticed_and_its_file_named(folder: Path, name: str) -> None:
    path = folder / name
    listed = set(checkpoint.read(path).files)
    assert listed == set(files(path)) - {"manifest.json"}
    for file in sorted(listed):
        content = (path / file).read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 1
            (path / file).write_bytes(changed)
            refused(path, file, "has changed", "use another")
        (path / file).write_bytes(content[:-1])
        refused(path, file, "has changed")
        (path / file).write_bytes(content)
    checkpoint.read(path)


@pytest.mark.parametrize("name", ["000003", "000004"])
def test_any_missing_file_is_noticed_and_named(folder: Path, name: str) -> None:
    path = folder / name
    for file in files(path):
        (path / file).rename(folder / "aside")
        refused(path, file, *(() if file == "manifest.json" else ("is missing",)))
        (folder / "aside").rename(path / file)
    checkpoint.read(path)


def test_files_are_hashed_only_if_asked(folder: Path) -> None:
    (folder / "000004" / "critic.safetensors").unlink()
    assert checkpoint.read(folder / "000004", verify=False).update == 3


def test_the_trainers_state_may_be_deleted_but_not_a_part_of_it(folder: Path) -> None:
    shutil.rmtree(folder / "000004" / "trainer")
    checkpoint.load_checkpoint(folder / "000004")
    (folder / "000003" / "trainer" / "state.json").unlink()
    refused(folder / "000003", "trainer/state.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"format": 1}',
        b'{"recipe":' + b"[" * 100_000,
        b"[" * 1_000_000,
    ],
)
def test_a_manifest_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "000004" / "manifest.json").write_bytes(content)
    refused(folder / "000004", "manifest.json", "cannot be read")


def test_a_manifest_of_another_format_or_with_fields_that_are_not_known(folder: Path) -> None:
    edit_manifest(folder / "000004", format=2)
    refused(folder / "000004", "format")
    edit_manifest(folder / "000004", format=1, more=1)
    refused(folder / "000004", "more")


def test_a_huge_manifest_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "000004" / "manifest.json"
    os.truncate(path, 20 << 20)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    refused(folder / "000004", "too large")


@pytest.mark.parametrize("name", ["../aside", "weights/../../aside", "/etc/hostname", "link"])
def test_a_manifest_may_not_name_files_outside(folder: Path, name: str) -> None:
    path = folder / "000004"
    (folder / "aside").write_text("x")
    (path / "link").symlink_to(folder / "aside")
    edit_manifest(path, files={name: "0" * 64})
    refused(path, name, "outside")


@pytest.mark.parametrize(
    "name", ["a\0b", "a" * 5000, "", "weights", "/"], ids=["nul", "long", "none", "folder", "root"]
)
def test_names_that_no_file_can_have(folder: Path, name: str) -> None:
    edit_manifest(folder / "000004", files={name: "0" * 64})
    refused(folder / "000004")


def test_a_missing_base(folder: Path) -> None:
    shutil.rmtree(folder / "000000")
    refused(folder / "000003", str(folder / "000000" / "weights"), "not there")


def test_a_changed_base(folder: Path) -> None:
    path = folder / "000000" / "weights" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    refused(folder / "000003", str(folder / "000000" / "weights"), "not the one")


def test_a_runs_folder_can_be_moved(folder: Path, tmp_path: Path) -> None:
    """The base within the run is found from the checkpoint's own place."""
    expected = logits(checkpoint.load_checkpoint(folder / "000003")[0])
    (tmp_path / "run-7").rename(tmp_path / "elsewhere")
    vlm, manifest = checkpoint.load_checkpoint(tmp_path / "elsewhere" / "checkpoints" / "000003")
    assert present(manifest.base).path == "../000000/weights"
    assert torch.equal(logits(vlm), expected)


def test_a_base_outside_of_the_run_is_found_where_it_was(folder: Path, tmp_path: Path) -> None:
    save(make_vlm(), tmp_path / "model")
    manifest = write(folder / "000005", with_adapter(make_vlm()), base=tmp_path / "model")
    assert present(manifest.base).path == str(tmp_path / "model")
    checkpoint.load_checkpoint(folder / "000005")


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], Never], tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


def test_a_pickled_adapter_is_not_opened(folder: Path) -> None:
    path = folder / "000003"
    (path / "weights" / "adapter_model.safetensors").unlink()
    (path / "weights" / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    edit_manifest(path, files={})
    refused(path, "adapter_model.safetensors")


def test_a_broken_adapter(folder: Path) -> None:
    path = folder / "000003"
    (path / "weights" / "adapter_model.safetensors").write_bytes(b"\0" * 20)
    edit_manifest(path, files={})
    refused(path, "cannot be loaded")


class LostPowerError(Exception):
    pass


def test_an_interrupted_write_leaves_no_checkpoint_and_the_next_one_works(folder: Path) -> None:
    def interrupted(trainer: Path) -> Never:
        write_state(trainer)
        raise LostPowerError

    with pytest.raises(LostPowerError):
        write(folder / "000005", make_vlm(5), write_trainer=interrupted)
    assert not (folder / "000005").exists()
    assert [path.name for path in checkpoint.find(folder)] == ["000000", "000003", "000004"]
    write(folder / "000005", make_vlm(5), write_trainer=None)
    checkpoint.load_checkpoint(folder / "000005")
    assert not [file for file in files(folder / "000005") if file.startswith("trainer")]
    assert sorted(path.name for path in folder.iterdir()) == ["000000", "000003", "000004", "000005"]


def test_the_manifest_is_the_last_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Path) -> Never:
        raise LostPowerError

    monkeypatch.setattr(checkpoint, "weights_digest", interrupted)
    with pytest.raises(LostPowerError):
        write(folder / "000005", make_vlm(5))
    (unfinished,) = folder.glob(".*")
    assert "weights/model.safetensors" in files(unfinished)
    assert "trainer/state.json" in files(unfinished)
    assert "manifest.json" not in files(unfinished)


def test_all_is_on_the_disk_before_it_gets_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Path | str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(fd: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def noted_rename(path: Path, target: Path) -> Path:
        done.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    write(folder / "000005", make_vlm(5))
    unfinished = folder / ".000005.unfinished"
    here = [folder / "000005", *(folder / "000005").rglob("*")]
    before, after = done[: done.index("rename")], done[done.index("rename") + 1 :]
    assert set(before) == {unfinished / path.relative_to(folder / "000005") for path in here}
    assert after == [folder]


def test_a_checkpoint_can_be_written_again(folder: Path) -> None:
    write(folder / "000004", make_vlm(6))
    vlm, _ = checkpoint.load_checkpoint(folder / "000004")
    assert torch.equal(logits(vlm), logits(make_vlm(6)))


def test_the_digest_names_the_weights(folder: Path) -> None:
    def digest(name: str) -> str:
        return checkpoint.read(folder / name).digest

    same = write(folder / "000005", make_vlm(4), update=9, critic=None, recipe={}, config={"seed": 2})
    assert same.digest == digest("000004")
    assert len({digest(name) for name in ("000000", "000003", "000004")}) == 3
    other = write(folder / "000006", with_adapter(make_vlm(4)), base=folder / "000004" / "weights")
    assert checkpoint.weights_digest(folder / "000006" / "weights") == checkpoint.weights_digest(
        folder / "000003" / "weights"
    )
    assert other.digest != digest("000003")  # the same adapter to another base


def test_checkpoints_are_found_oldest_first(folder: Path) -> None:
    (folder / "000007").mkdir()
    shutil.copytree(folder / "000004", folder / ".000008.unfinished")
    write(folder / "000002", make_vlm())
    assert [path.name for path in checkpoint.find(folder)] == ["000000", "000002", "000003", "000004"]
    assert list(checkpoint.find(folder / "nothing")) == []


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read in order to hash them."""
    names = []
    file_digest = hashlib.file_digest

    def noted(file: BufferedReader, algorithm: str) -> Any:
        names.append(Path(file.name).name)
        return file_digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return names


def test_a_base_is_hashed_once_and_a_checkpoint_once_when_written(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_YOUNG_NS", -1)
    checkpoint.load_checkpoint(folder / "000000")
    assert hashed.count("model.safetensors") == 1
    for number in range(5, 8):
        write(folder / f"{number:06}", with_adapter(make_vlm()), base=folder / "000000" / "weights")
    assert hashed.count("model.safetensors") == 1
    assert hashed.count("adapter_model.safetensors") == 3
    checkpoint.load_checkpoint(folder / "000007")
    assert hashed.count("model.safetensors") == 1
    write(folder / "000008", make_vlm(8))
    assert hashed.count("model.safetensors") == 2


def test_a_file_that_has_changed_is_hashed_again(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if size and time of modification are what they were."""
    path = folder / "000004" / "weights" / "model.safetensors"
    monkeypatch.setattr(checkpoint, "_YOUNG_NS", -1)
    checkpoint.read(folder / "000004")
    checkpoint.read(folder / "000004")
    assert hashed.count("model.safetensors") == 1
    stat = path.stat()
    time.sleep(0.02)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ModelError, match="has changed"):
        checkpoint.read(folder / "000004")


def test_a_young_file_is_hashed_each_time(folder: Path, hashed: list[str]) -> None:
    """It may change within the resolution of its times."""
    write(folder / "000009", make_vlm())
    hashed.clear()
    checkpoint.read(folder / "000009")
    checkpoint.read(folder / "000009")
    assert hashed.count("model.safetensors") == 2
