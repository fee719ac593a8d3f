"""A tiny Qwen2-VL with its own tokenizer, made on the spot: it learns on a CPU within minutes.

Measured to make it learn to see: initial weights with a standard deviation of 0.08 (not 0.02), images normalised about
their background (`image_mean`; white), and coloured symbols in the picture. If any one of the three is missing, it
stays at chance. Frames of little contrast, such as MiniWorld's, need their own `image_std`, too: see
docs/results/looking.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from overworld_vlm.load import VLM
from overworld_vlm.tiny_config import TinyConfig

_INITIALIZER_RANGE = 0.08
_PATCH = 14
_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny(texts: Iterable[str], config: TinyConfig | None = None, seed: int = 0) -> VLM:
    """A tiny model whose tokenizer is trained on `texts`, its weights drawn from `seed`."""
    config = config or TinyConfig()
    tokenizer = _tokenizer(texts, config.vocab_size)
    token = tokenizer.convert_tokens_to_ids
    head_size = config.hidden_size // config.heads
    third = head_size // 8
    torch_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": config.hidden_size,
                "intermediate_size": config.intermediate_size,
                "num_hidden_layers": config.layers,
                "num_attention_heads": config.heads,
                "num_key_value_heads": max(config.heads // 2, 1),
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "mrope_section": [head_size // 2 - 2 * third, third, third],
                },
                "initializer_range": _INITIALIZER_RANGE,
                "bos_token_id": None,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config={
                "depth": config.vision_layers,
                "embed_dim": config.hidden_size,
                "hidden_size": config.hidden_size,
                "num_heads": config.heads,
                "patch_size": _PATCH,
                "initializer_range": _INITIALIZER_RANGE,
            },
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
            tie_word_embeddings=True,
            initializer_range=_INITIALIZER_RANGE,
        )
    )
    torch.set_rng_state(torch_state)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    image_processor = Qwen2VLImageProcessorPil(
        image_mean=[config.image_mean] * 3, image_std=[config.image_std] * 3, patch_size=_PATCH
    )
    return VLM(model.eval(), tokenizer, image_processor)


def _tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each digit is a token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = list(texts)
    roles = ["system\n", "user\n", "assistant\n"] * max(len(texts), 2)  # as frequent as in prompts
    bpe.train_from_iterator([*texts, *roles], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[token for token in _SPECIAL if token not in ("<|im_end|>", "<|endoftext|>")],
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
