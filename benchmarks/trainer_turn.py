"""The part `turn` of trainer.py: what it costs to turn a conversation into a prompt, and to keep the prompt."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import trainer_runs
from overworld import Image
from overworld.evaluation.conversation import Message
from overworld_trainer.codec import as_arrays, encode_messages, encode_reply
from overworld_vlm.batch import Prompt
from overworld_vlm.load import VLM
from overworld_vlm.score import score
from peft import LoraConfig, get_peft_model
from report import Row

sys.path.append(str(Path(__file__).parents[1]))  # for the tiny models, which the tests use, too

from tests.support.tiny_families import own_processor
from tests.support.tiny_vlm import make_vlm

HISTORY, PIXELS = 8, 480
TURNS, KEPT_TURNS = 9, 24
ENCODE_MS, STEP_MB, PASSES, DIFFERENCE = 20.0, 6.0, 1.0, 1e-6
TEXT = 'Count to three.\ncount 2\nActions: "up", "down"\nReply: {"thoughts": "...", "action": "..."}'


def rows() -> Iterator[Row]:
    """A row for each of the part's targets."""
    torch.set_num_threads(1)
    yield from _encoding()
    yield _memory()
    yield from trainer_runs.passes(PASSES)
    yield _gradients()


def _encoding() -> Iterator[Row]:
    vlm = make_vlm()
    processor = own_processor(vlm)
    ours: list[float] = []
    theirs: list[float] = []
    prompt: Prompt | None = None
    for messages in _turns(HISTORY + TURNS)[HISTORY - 1 :]:
        started = time.process_time()
        prompt = encode_messages(vlm, messages, prompt)
        # What the vision tower will be given, for all frames at first, and then for the new one.
        for picture in prompt.pictures[0 if not ours else -1 :]:
            vlm.family.process(picture.pixels)
        ours.append(time.process_time() - started)
        started = time.process_time()
        inputs = _processed(vlm, processor, messages)
        theirs.append(time.process_time() - started)
        if inputs["input_ids"][0].tolist() != prompt.ids.tolist():
            sys.exit("turn: our prompt is not that of Hugging Face's Processor")
    value, peer = statistics.median(ours[1:]) * 1e3, statistics.median(theirs[1:]) * 1e3
    setting = f"{HISTORY} frames of {PIXELS} px, 1 of them new"
    yield Row("encoding a turn", setting, value, "CPU-ms", "at most", ENCODE_MS, ENCODE_MS / value, 1)
    yield Row("encoding a turn", setting, value, "CPU-ms", "Qwen2VLProcessor", peer, peer / value)


def _memory() -> Row:
    """Resident memory, so that it does not matter who holds a step's frames and how."""
    vlm, turns = make_vlm(), _turns(HISTORY + KEPT_TURNS)
    kept: list[Prompt] = []
    for messages in turns[:HISTORY]:
        kept.append(encode_messages(vlm, messages, kept[-1] if kept else None))
    before = _resident()
    frames = KEPT_TURNS * PIXELS**2 * 3  # made before: they belong to the steps all the same
    for messages in turns[HISTORY:]:
        kept.append(encode_messages(vlm, messages, kept[-1]))
    value = (_resident() - before + frames) / KEPT_TURNS / 1e6
    del kept
    setting = f"{HISTORY} frames of {PIXELS} px"
    return Row("memory of a step", setting, value, "MB", "at most", STEP_MB, STEP_MB / value, 1)


def _gradients() -> Row:
    """Gradients of replies' log-probs, from pictures seen before against Hugging Face's forward from their pixels."""
    vlm = make_vlm()
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules=vlm.family.lora_targets, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vlm = VLM(get_peft_model(vlm.model, adapter).eval(), vlm.tokenizer, vlm.image_processor)
    reply = encode_reply(vlm, '{"thoughts": "The count is 2.", "action": "up"}')
    turns = _turns(HISTORY + 1, size=112)
    seen = [encode_messages(vlm, messages) for messages in turns][-2:]
    with torch.no_grad():
        score(vlm, seen, [reply] * len(seen))
    ours = _gradient(vlm, sum(score(vlm, [prompt], [reply]).logps.sum() for prompt in seen))
    processor = own_processor(vlm)
    logps: Any = 0.0
    for messages in turns[-2:]:
        inputs = _processed(vlm, processor, messages)
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], reply[None]], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == vlm.image_token_id).int()
        logits = vlm.core(**inputs).logits[0, length - 1 : -1].float().masked_fill(vlm.banned, -1e9)
        logps = logps + logits.log_softmax(-1).gather(1, reply[:, None]).sum()
    theirs = _gradient(vlm, logps)
    difference = float((ours - theirs).norm() / theirs.norm())
    setting = f"{len(seen)} prompts of {HISTORY} frames, adapter"
    ratio = DIFFERENCE / max(difference, 1e-12)
    return Row("gradients from kept pictures", setting, difference, "relative", "allowed", DIFFERENCE, ratio, 1)


def _gradient(vlm: VLM, value: Any) -> torch.Tensor:
    weights = [weight for weight in vlm.model.parameters() if weight.requires_grad]
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(value, weights)])


def _processed(vlm: VLM, processor: Any, messages: list[Message]) -> Any:
    """What a user of transformers calls at every turn."""
    arrays = as_arrays(messages)
    text = processor.apply_chat_template(
        arrays, tokenize=False, add_generation_prompt=True, chat_template=_template(vlm)
    )
    images = [part["image"] for part in arrays[0]["content"] if part["type"] == "image"]
    return processor(text=[text], images=images, return_tensors="pt", input_data_format="channels_last")


def _template(vlm: VLM) -> str:
    assert isinstance(vlm.tokenizer.chat_template, str)
    return vlm.tokenizer.chat_template


def _turns(count: int, size: int = PIXELS) -> list[list[Message]]:
    """The prompts of a conversation: each turn shows one more frame, and the last eight of them."""
    draw = np.random.default_rng(0).integers
    frames = [Image("view", draw(0, 256, (size, size, 3), np.uint8)) for _ in range(count)]
    conversation = []
    for turn in range(count):
        shown = frames[max(0, turn + 1 - HISTORY) : turn + 1]
        parts: list[dict[str, Any]] = [{"type": "image", "image": frame} for frame in shown]
        conversation.append([{"role": "user", "content": [*parts, {"type": "text", "text": TEXT}]}])
    return conversation


def _resident() -> int:
    """Bytes of resident memory, after what was freed has been given back."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)
