"""A Gemma 3 of a million weights with its processor, made on the spot, which can call tools. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

_SIDE, _PATCH, _IMAGE_TOKENS = 56, 14, 16
_STD = 0.08  # with Gemma's 0.02 so small a model would hardly see
_TURNS = ["<start_of_turn>", "<tool_call>", "</tool_call>"]
# "<|image|>" and not Gemma's "<image_soft_token>": TRL finds images in tools' answers by this name.
_IMAGES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<|image|>"}

TOOL_CALLS = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<start_of_turn>model\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "<end_of_turn>", "content": "text"},
    },
}
"""How transformers parses a reply of chat_template.jinja."""


class _ImageProcessor(Gemma3ImageProcessorPil):
    """Without `num_crops`: TRL hands all that this returns to `generate`, which refuses it. There are no crops here."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        inputs = super().__call__(*arguments, **keywords)
        del inputs["num_crops"]
        return inputs


class _Processor(Gemma3Processor):
    """Reads no `num_crops`."""

    def replace_image_token(self, image_inputs: Any, image_idx: int, **_: Any) -> str:
        return str(self.full_image_sequence)


def make_tiny_gemma(texts: Iterable[str], seed: int) -> tuple[Gemma3ForConditionalGeneration, Gemma3Processor]:
    """The model, its weights drawn from `seed`, and its processor, whose tokenizer is trained on `texts`."""
    tokenizer = make_tokenizer(texts)
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={
                **shape,
                "vocab_size": len(tokenizer),
                "num_key_value_heads": 2,
                "head_dim": 24,
                "query_pre_attn_scalar": 24,
                "max_position_embeddings": 4096,
                "layer_types": ["full_attention"] * 2,
                "initializer_range": _STD,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config={
                **shape,
                "model_type": "siglip_vision_model",
                "image_size": _SIDE,
                "patch_size": _PATCH,
                "initializer_range": _STD,
            },
            mm_tokens_per_image=_IMAGE_TOKENS,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
            image_token_index=tokenizer.image_token_id,
            initializer_range=_STD,
        )
    )
    # Gemma begins with zeros here, which would make every picture the same.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=_STD)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    images = _ImageProcessor(
        size={"height": _SIDE, "width": _SIDE},
        image_mean=[1.0] * 3,
        image_std=[0.4] * 3,
        image_seq_length=_IMAGE_TOKENS,
    )
    return model, _Processor(images, tokenizer, tokenizer.chat_template, image_seq_length=_IMAGE_TOKENS)


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE, trained on `texts`, in which each digit is a token; with Gemma's names for special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<end_of_turn>", *_TURNS, *_IMAGES.values()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<bos>",
        eos_token="<end_of_turn>",
        pad_token="<pad>",
        extra_special_tokens=_IMAGES,
        additional_special_tokens=_TURNS,
        chat_template=(Path(__file__).parent / "chat_template.jinja").read_text(),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.response_template = TOOL_CALLS
    return tokenizer
