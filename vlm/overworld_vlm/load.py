"""Loads a vision-language model from a folder in Hugging Face's layout.

Only local folders and only safetensors: nothing is downloaded, nothing is unpickled, no code in a model folder is run.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from overworld_vlm.budget import MAX_BATCH_TOKENS
from overworld_vlm.families import FAMILIES, Family
from overworld_vlm.sharding import full, shard, whole
from overworld_vlm.vision import Vision

T = TypeVar("T")


class ModelError(Exception):
    """A model or checkpoint that cannot be used; the message says what is wrong with it and what to do."""


@dataclass(eq=False, repr=False)
class VLM:
    """A model with its tokenizer and image processor. `model` may be wrapped by PEFT.

    `batch_tokens` is how many tokens, padding included, go through it at once; see `budget`. `sharded`: whether its
    weights are cut into one part per process.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    batch_tokens: int = MAX_BATCH_TOKENS
    sharded: bool = field(default=False, init=False)

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        adapter = " with adapters" if isinstance(self.model, PeftModel) else ""
        kind = f"{self.core.config.model_type}{adapter}"
        return f"VLM({kind}, {weights / 1e6:.3g} M weights, {str(self.dtype).removeprefix('torch.')} on {self.device})"

    @property
    def core(self) -> Any:
        """The Hugging Face model, without PEFT's wrapper but with its adapter layers."""
        # Not get_base_model(): that needs an active adapter, and the one that was active may have been deleted.
        return self.model.base_model.model if isinstance(self.model, PeftModel) else self.model

    @cached_property
    def family(self) -> Family:
        """What is particular to the model's family."""
        config = self.core.config
        return FAMILIES[config.model_type](config, self.tokenizer, self.image_processor)

    @cached_property
    def vision(self) -> Vision:
        """Its vision tower."""
        return Vision(self.core, self.family)

    def wrapped(self, model: Any) -> VLM:
        """This one after adapters were put into its layers or taken out: `model` is what holds the layers now."""
        vlm = VLM(model, self.tokenizer, self.image_processor, self.batch_tokens)
        vlm.family, vlm.vision = self.family, self.vision
        return vlm

    def shard(self) -> None:
        """Cuts the weights into one part per process; see `sharding`. A frozen vision tower stays whole."""
        shard(self.core, [weight for weight in self.vision.parameters() if not weight.requires_grad])
        self.vision.weights = list(self.vision.parameters())
        self.sharded = True

    def whole(self) -> AbstractContextManager[None]:
        """Has all weights at hand within, if they are sharded: no gradients, and processes need not do the same."""
        return whole(self.core) if self.sharded else nullcontext()

    def gathered(self, *, keep: bool) -> dict[str, torch.Tensor] | None:
        """The trained weights, put together on the CPU, if they are sharded: all processes must call this.

        Only those that `keep` them get any. Weights that share their memory share it here as well.
        """
        if not self.sharded:
            return None
        known: dict[int, torch.Tensor] = {}
        state = {}
        for name, weight in self.model.state_dict(keep_vars=True).items():
            if isinstance(self.model, PeftModel) and not weight.requires_grad:
                continue
            if id(weight) not in known:
                together = full(weight.detach())
                known[id(weight)] = together.cpu() if keep else torch.empty(0)
            state[name] = known[id(weight)]
        return state

    def through(self, function: Callable[..., T], *args: Any) -> T:
        """Calls a function that uses the weights and may be asked for gradients; it gives tensors."""
        result: T = self.core.through(function, *args) if self.sharded else function(*args)
        return result

    def share_vision(self, other: VLM) -> None:
        """Replaces its vision tower by the equal one of `other`: one copy in memory, one memory of features."""
        for name in self.family.vision:
            setattr(self.core.model, name, getattr(other.core.model, name))
        self.vision = other.vision

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.core.lm_head.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        dtype: torch.dtype = self.core.dtype
        return dtype

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        size: int = self.core.config.text_config.hidden_size
        return size

    @property
    def max_length(self) -> int:
        """Most tokens of prompt and reply together."""
        length: int = self.core.config.text_config.max_position_embeddings
        return length

    @property
    def image_token_id(self) -> int:
        """The token that stands for a part of an image."""
        return self.family.image_token_id

    @cached_property
    def end_id(self) -> int:
        """The token that ends a reply in the chat template; a reply to be learnt ends with it."""
        end = self.tokenizer.get_vocab().get(self.family.end_of_turn, self.tokenizer.eos_token_id)
        assert isinstance(end, int)
        return end

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a reply."""
        configured = self.core.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(token for token in (*ids, self.tokenizer.eos_token_id, self.end_id) if token is not None)

    @cached_property
    def special_texts(self) -> list[str]:
        """The special tokens as texts, with those that stand for images."""
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return list(dict.fromkeys([*special, self.family.placeholder, self.family.image_token]))

    @cached_property
    def banned(self) -> torch.Tensor:
        """Tokens that a reply may not contain, bool [vocabulary]: special ones but EOS, and rows that only pad.

        They are banned alike wherever log-probs are computed; a sampled image token would make scoring fail.
        """
        banned = torch.zeros(self.core.lm_head.weight.shape[0], dtype=torch.bool)
        banned[len(self.tokenizer) :] = True
        special = [token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special]
        banned[[*special, self.image_token_id]] = True
        banned[list(self.eos_ids)] = False
        return banned.to(self.device)


def load(
    folder: str | Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    tiling: bool | None = None,
    freeze_vision: bool = False,
) -> VLM:
    """Loads the model in `folder`, ready for inference. Raises ModelError.

    min_pixels, max_pixels, tiling  how images are resized and cut; see `Family.set_images`. `save` keeps them.
    freeze_vision  leaves the vision tower and its projector without gradients (an adapter does so by itself)
    """
    folder = Path(folder)
    family = _family(folder)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds no weights (*.safetensors); if it has only *.bin files, convert them: pickled weights are "
            "not loaded"
        )
    try:
        model, found = family.model_class.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        image_processor = family.image_processor_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers, tokenizers and safetensors each raise their own
        raise ModelError(f"the model in {folder} cannot be loaded: {type(error).__name__}: {error}") from error
    if found["missing_keys"]:  # transformers would fill them with random ones
        raise ModelError(f"the weights in {folder} are incomplete: {', '.join(sorted(found['missing_keys']))} missing")
    if len(tokenizer) > len(model.lm_head.weight):
        raise ModelError(
            f"the tokenizer in {folder} knows {len(tokenizer)} tokens, its model {len(model.lm_head.weight)}: they do "
            "not belong together"
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _chat_template(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    vlm = VLM(model.to(device).eval(), tokenizer, image_processor)
    _set_images(vlm, folder, min_pixels, max_pixels, tiling)
    if freeze_vision:
        for name in family.vision:
            getattr(model.model, name).requires_grad_(False)
    return vlm


def with_images_of(
    vlm: VLM,
    folder: Path,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    tiling: bool | None = None,
) -> VLM:
    """`vlm` with the image processor in `folder`, and settings on top of it as in `load`. Raises ModelError.

    They share the vision tower and its memory.
    """
    try:
        image_processor = vlm.family.image_processor_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as in `load`
        raise ModelError(
            f"the image processor in {folder} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    other = VLM(vlm.model, vlm.tokenizer, image_processor, vlm.batch_tokens)
    _set_images(other, folder, min_pixels, max_pixels, tiling)
    if image_processor.to_dict() == vlm.image_processor.to_dict():
        other.family = vlm.family
    other.vision = vlm.vision
    return other


def save(vlm: VLM, folder: str | Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Writes a whole model in the layout that `load`, transformers and vLLM read.

    state  its weights, if they are not those that the model holds (`VLM.gathered`)
    """
    vlm.core.save_pretrained(folder, state_dict=state)
    save_processors(vlm, folder)


def save_processors(vlm: VLM, folder: str | Path) -> None:
    """Writes tokenizer and image processor."""
    vlm.tokenizer.save_pretrained(folder)
    vlm.image_processor.save_pretrained(folder)


def torch_device(name: str) -> str:
    """The device of a setting; "auto" is a GPU if there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_dtype(name: str) -> torch.dtype:
    """The type of a setting: float32 or bfloat16."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def quieten_transformers() -> None:
    """Keeps transformers' progress bars and deprecation warnings out of a service's log."""
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _set_images(vlm: VLM, folder: Path, min_pixels: int | None, max_pixels: int | None, tiling: bool | None) -> None:
    """Applies settings to the image processor that comes from `folder`. Raises ModelError if it cannot be used."""
    try:
        vlm.family.set_images(min_pixels, max_pixels, tiling)
    except ValueError as error:
        raise ModelError(f"{folder}: {error}") from error
    try:
        vlm.family.process(np.zeros((64, 64, 3), np.uint8))
        vlm.family.image_tokens(64, 64)
    except Exception as error:  # image processors do not check their settings and raise what they like
        raise ModelError(
            f"the image processor in {folder} cannot be used: {type(error).__name__}: {error}; check "
            "preprocessor_config.json"
        ) from error


def _family(folder: Path) -> type[Family]:
    try:
        model_type = str(json.loads((folder / "config.json").read_text())["model_type"])
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{folder} is not a model folder: it has no config.json") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{folder}/config.json cannot be read: {error}") from error
    if model_type not in FAMILIES:
        raise ModelError(
            f"{folder} holds a {model_type!r} model; known are {sorted(FAMILIES)}. To add its family, describe it in a "
            "file of overworld_vlm/families (a subclass of Family) and enter it in FAMILIES there"
        )
    return FAMILIES[model_type]


def _chat_template(folder: Path) -> str:
    """The chat template from where older model folders keep it. Raises ModelError."""
    read: dict[str, Callable[[str], Any]] = {
        "chat_template.jinja": str,
        "chat_template.json": lambda text: json.loads(text)["chat_template"],
    }
    for name, parse in read.items():
        if (folder / name).exists():
            try:
                template = parse((folder / name).read_text())
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise ModelError(f"{folder}/{name} cannot be read: {error!r}") from error
            if not isinstance(template, str):
                raise ModelError(f"{folder}/{name} is not text")
            return template
    raise ModelError(f"{folder} has no chat template (chat_template.jinja, or in tokenizer_config.json)")
