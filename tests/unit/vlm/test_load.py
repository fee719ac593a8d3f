"""Model folders: what is loaded, what is refused, which tokens are banned."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest
import torch
from overworld_vlm.load import VLM, ModelError, load, save
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.tiny_vlm import make_vlm


@pytest.fixture
def folder(vlm: VLM, tmp_path: Path) -> Path:
    """A folder with a good model."""
    save(vlm, tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    for word in (str(folder), *words):
        assert word in str(caught.value)
    return str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "config.json")


def test_a_folder_without_a_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, "not a model folder", "config.json")


def test_a_file_instead_of_a_folder(folder: Path) -> None:
    refused(folder / "tokenizer.json", "config.json")


@pytest.mark.parametrize("content", ["{", "[1]", "7", "{}", "[" * 100_000, '{"model_type": ["qwen2_vl"]}', "\xff"])
def test_a_config_that_is_none(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    refused(folder)


def test_a_config_that_cannot_be_read(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    refused(folder, "config.json")


def test_a_model_of_an_unknown_family_is_named_with_the_known_ones(folder: Path) -> None:
    edit(folder / "config.json", model_type="llama")
    refused(folder, "'llama'", "qwen2_vl", "gemma3", "overworld_vlm/families", "FAMILIES")


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights", "safetensors")


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], Never], tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(folder, "pickled", "*.bin")


@pytest.mark.parametrize("left", [0, 4, 1000, -1])
def test_truncated_weights(folder: Path, left: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    refused(folder, "cannot be loaded")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    def forget(tensors: dict[str, Tensor]) -> None:
        del tensors[next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))]

    change_weights(folder, forget)
    refused(folder, "incomplete", "layers.0.mlp.up_proj.weight")


def test_weights_of_another_size(folder: Path) -> None:
    def shrink(tensors: dict[str, Tensor]) -> None:
        tensors["model.language_model.norm.weight"] = torch.zeros(3)

    change_weights(folder, shrink)
    refused(folder, "cannot be loaded")


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "BPE"}}'])
def test_a_broken_tokenizer(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    refused(folder, "cannot be loaded")


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    refused(folder, "cannot be loaded")


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    """Its tokens would be rows that the model does not have."""
    content = json.loads((folder / "tokenizer.json").read_text())
    fields = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"].append({"id": len(make_vlm().tokenizer), "content": "<|more|>", **fields})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refused(folder, "tokenizer")


def test_a_folder_without_an_image_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    refused(folder, "image processor")


@pytest.mark.parametrize(
    "size",
    [
        {"height": 3, "width": 4},
        {"shortest_edge": 5},
        {"shortest_edge": "a", "longest_edge": 9},
        {"shortest_edge": 99, "longest_edge": 9},
        7,
    ],
)
def test_an_image_processor_that_bounds_no_area(folder: Path, size) -> None:
    edit(folder / "preprocessor_config.json", size=size)
    refused(folder, "min_pixels", "max_pixels", "preprocessor_config.json")


@pytest.mark.parametrize("change", [{"patch_size": 0}, {"image_mean": [1]}, {"merge_size": "a"}])
def test_an_image_processor_that_takes_no_image(folder: Path, change) -> None:
    edit(folder / "preprocessor_config.json", **change)
    refused(folder, "image processor", "preprocessor_config.json")


def test_a_folder_without_a_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    refused(folder, "no chat template")


def test_a_chat_template_where_older_folders_keep_it(folder: Path, vlm: VLM) -> None:
    template = folder / "chat_template.jinja"
    text = template.read_text()
    template.unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": text}))
    assert load(folder).tokenizer.chat_template == vlm.tokenizer.chat_template


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"chat_template": 7}'])
def test_a_broken_chat_template(folder: Path, content: str) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(content)
    refused(folder, "chat_template.json")


def test_code_of_a_model_is_not_run(folder: Path) -> None:
    (folder / "theirs.py").write_text(f"open({str(folder / 'was here')!r}, 'w')\nclass Theirs: pass\n")
    edit(folder / "config.json", auto_map={"AutoModel": "theirs.Theirs", "AutoConfig": "theirs.Theirs"})
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["theirs.Theirs", "theirs.Theirs"]},
        tokenizer_class="Theirs",
    )
    edit(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "theirs.Theirs"})
    load(folder)
    assert not (folder / "was here").exists()


def test_the_weights_type_is_the_one_asked_for(folder: Path) -> None:
    vlm = load(folder, dtype=torch.bfloat16)
    assert vlm.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.bfloat16}


def test_banned_are_all_special_tokens_but_the_end(vlm: VLM) -> None:
    names = {name for name, row in vlm.tokenizer.get_vocab().items() if vlm.banned[row]}
    assert names == {
        "<|endoftext|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
    }  # fmt: skip
    assert vlm.tokenizer.eos_token == "<|im_end|>"


def test_banned_are_rows_of_the_vocabulary_that_only_pad(tmp_path: Path) -> None:
    vlm = make_vlm()
    known = len(vlm.tokenizer)
    vlm.model.resize_token_embeddings(known + 13)
    save(vlm, tmp_path)
    vlm = load(tmp_path)
    assert vlm.banned.shape == (known + 13,)
    assert vlm.banned[known:].all()
    assert int(vlm.banned[:known].sum()) == 6


def test_every_token_that_the_model_ends_with_is_allowed(tmp_path: Path) -> None:
    vlm = make_vlm()
    pad, end = vlm.tokenizer.pad_token_id, vlm.tokenizer.eos_token_id
    vlm.model.generation_config.eos_token_id = [end, pad]
    save(vlm, tmp_path)
    vlm = load(tmp_path)
    assert vlm.eos_ids == {end, pad}
    assert not vlm.banned[[end, pad]].any()
