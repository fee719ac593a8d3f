"""Tiny models of every family's real architecture, with its real kinds of tokenizer and image processor."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from overworld_vlm.batch import Message
from overworld_vlm.families import FAMILIES
from overworld_vlm.load import VLM
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    GemmaTokenizer,
    GPT2Tokenizer,
    Qwen2Tokenizer,
)
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor

from tests.support.tiny_vlm import TEXTS

Parts = tuple[Any, Any, dict[str, Any]]
"""Tokenizer, image processor, config."""

_STD = 0.1  # with 0.02 a picture would hardly be felt
_LENGTH = 4096
_IMAGE = 32
_IMAGE_TOKENS = 16
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": _LENGTH,
    "initializer_range": _STD,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": _STD,
}

_QWEN_TOKENS = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_INTERNVL_TEMPLATE = _QWEN_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
_GEMMA_TEMPLATE = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
    "{%- if messages[0]['content'] is string -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- else -%}{%- set first = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}"
    "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
    "{%- for message in rest -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif -%}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n'"
    " + (first if loop.first else '') }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- else -%}"
    "{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
"""Each as the published models have it, shortened where nothing depends on it."""


def write_family(model_type: str, folder: str | Path) -> None:
    """Writes a tiny model of that type to a folder in Hugging Face's layout."""
    family = FAMILIES[model_type]
    tokenizer, image_processor, config = _PARTS[model_type]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family.model_class(AutoConfig.for_model(model_type, **config))
        if model_type == "gemma3":  # it begins with zeros, which would make every picture the same
            torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=_STD)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)


def own_processor(vlm: VLM) -> Any:
    """The family's own Processor around the model's tokenizer and image processor.

    Those that also take a video processor, which needs torchvision, are made without one: nothing else of them differs.
    """

    processor: Any = _PROCESSORS[vlm.core.config.model_type]

    class ForImages(processor):  # type: ignore[misc]  # which class it is depends on the model
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> None:
            if argument_name != "video_processor":
                super().check_argument_for_proper_class(argument_name, argument)

    arguments: dict[str, Any] = {"image_processor": vlm.image_processor, "tokenizer": vlm.tokenizer}
    if "video_processor" in ForImages.get_attributes():
        arguments["video_processor"] = None
    if issubclass(ForImages, SmolVLMProcessor):
        processing_smolvlm.num2words = processing_smolvlm.num2words or str  # it only writes how long a video is
        arguments["image_seq_len"] = _IMAGE_TOKENS
    if issubclass(ForImages, Gemma3Processor | InternVLProcessor):
        arguments["image_seq_length"] = _IMAGE_TOKENS
    return ForImages(**arguments)


def own_inputs(vlm: VLM, message: Message) -> Any:
    """What the family's own Processor makes of one message with its pictures."""
    parts = [part["image"] for part in message["content"] if part["type"] == "image"]
    images = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in parts]
    text = vlm.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    settings: dict[str, Any] = {"text": [text], "return_tensors": "pt", "add_special_tokens": False}
    if images:
        settings |= {"images": images, "input_data_format": "channels_last"}
    for switch in ("crop_to_patches", "do_pan_and_scan"):  # these Processors do not ask the image processor
        if hasattr(vlm.image_processor, switch):
            settings[switch] = getattr(vlm.image_processor, switch)
    return own_processor(vlm)(**settings)


_PROCESSORS = {
    "qwen2_vl": Qwen2VLProcessor,
    "qwen2_5_vl": Qwen2_5_VLProcessor,
    "qwen3_vl": Qwen3VLProcessor,
    "gemma3": Gemma3Processor,
    "smolvlm": SmolVLMProcessor,
    "internvl": InternVLProcessor,
}


def _byte_level() -> dict[str, Any]:
    """Vocabulary and merges of a byte-level BPE."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return _train(bpe, 330, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))


def _train(bpe: Tokenizer, size: int, **settings: Any) -> dict[str, Any]:
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=size, show_progress=False, **settings))
    model = json.loads(bpe.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def _qwen_tokenizer(template: str, extra: list[str] | dict[str, str]) -> Any:
    return Qwen2Tokenizer(
        **_byte_level(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=extra,
        chat_template=template,
    )


def _qwen(patch: int, text: dict[str, Any], vision: dict[str, Any]) -> Parts:
    tokenizer = _qwen_tokenizer(_QWEN_TEMPLATE, _QWEN_TOKENS)
    token = tokenizer.convert_tokens_to_ids
    config = {
        "text_config": {
            **_TEXT,
            "vocab_size": len(tokenizer) + 3,  # published models have rows that only pad, too
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1], **text},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        "vision_config": {"patch_size": patch, "num_heads": 2, "initializer_range": _STD, "hidden_size": 32, **vision},
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "tie_word_embeddings": True,
        "initializer_range": _STD,
    }
    processor = FAMILIES["qwen2_vl"].image_processor_class(patch_size=patch)
    return tokenizer, processor, config


def _qwen2_vl() -> Parts:
    return _qwen(14, {}, {"depth": 1, "embed_dim": 32})


def _qwen2_5_vl() -> Parts:
    vision = {"depth": 2, "intermediate_size": 48, "out_hidden_size": 32, "window_size": 56}
    return _qwen(14, {}, {**vision, "fullatt_block_indexes": [1]})


def _qwen3_vl() -> Parts:
    vision = {"depth": 2, "intermediate_size": 48, "out_hidden_size": 32, "num_position_embeddings": 16}
    tokenizer, processor, config = _qwen(16, {"mrope_interleaved": True}, {**vision, "deepstack_visual_indexes": [0]})
    config["text_config"]["head_dim"] = 8
    return tokenizer, processor, config


def _gemma3() -> Parts:
    bpe = Tokenizer(models.BPE(byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    named = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    whole = ["\n\n\n\n", "\n\n\n", "\n\n"]  # Gemma's vocabulary has them, so newlines around an image become one token
    trained = _train(bpe, 400, special_tokens=named + [f"<0x{byte:02X}>" for byte in range(256)])
    for text in whole:
        trained["vocab"][text] = len(trained["vocab"])
    tokenizer = GemmaTokenizer(
        **trained,
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
            "sot_token": "<start_of_turn>",
            "eot_token": "<end_of_turn>",
        },
        chat_template=_GEMMA_TEMPLATE,
    )
    tokenizer.add_tokens(whole)
    config = {
        "text_config": {
            **_TEXT,
            "vocab_size": len(tokenizer) + 5,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 6,  # shorter than an image
            "layer_types": ["sliding_attention", "full_attention"],
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        "vision_config": {"model_type": "siglip_vision_model", **_VISION, "image_size": _IMAGE, "patch_size": 4},
        "mm_tokens_per_image": _IMAGE_TOKENS,
        "boi_token_index": tokenizer.boi_token_id,
        "eoi_token_index": tokenizer.eoi_token_id,
        "image_token_index": tokenizer.image_token_id,
        "initializer_range": _STD,
    }
    processor = FAMILIES["gemma3"].image_processor_class(size={"height": _IMAGE, "width": _IMAGE})
    return tokenizer, processor, config


def _smolvlm() -> Parts:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = GPT2Tokenizer(
        **_byte_level(),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        extra_special_tokens=["<fake_token_around_image>", "<global-img>", "<image>", *tiles],
        chat_template=processing_smolvlm.DEFAULT_CHAT_TEMPLATE,
    )
    config = {
        "text_config": {
            **_TEXT,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        "vision_config": {**_VISION, "image_size": _IMAGE, "patch_size": 4},
        "scale_factor": 2,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "initializer_range": _STD,
    }
    sizes = {"size": {"longest_edge": 2 * _IMAGE}, "max_image_size": {"longest_edge": _IMAGE}}
    return tokenizer, FAMILIES["smolvlm"].image_processor_class(**sizes), config


def _internvl() -> Parts:
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = _qwen_tokenizer(_INTERNVL_TEMPLATE, {**named, "video_token": "<video>", "turn_token": "<|im_start|>"})
    config = {
        "text_config": {
            **_TEXT,
            "model_type": "qwen2",
            "vocab_size": len(tokenizer) + 2,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        "vision_config": {**_VISION, "image_size": [_IMAGE, _IMAGE], "patch_size": [4, 4]},
        "image_token_id": tokenizer.context_image_token_id,
        "image_seq_length": _IMAGE_TOKENS,
        "initializer_range": _STD,
    }
    processor = FAMILIES["internvl"].image_processor_class(size={"height": _IMAGE, "width": _IMAGE})
    return tokenizer, processor, config


_PARTS = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "gemma3": _gemma3,
    "smolvlm": _smolvlm,
    "internvl": _internvl,
}
