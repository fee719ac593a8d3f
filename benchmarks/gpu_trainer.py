"""Training on one GPU with models of real size: whole updates, decoding and memory, beside what the card could do.

    python benchmarks/gpu_trainer.py --config 7b --part decode --json decode.json

decode  replies alone, at two numbers of slots and two lengths, beside the time that it takes the card to read weights,
        keys and values once for each token
update  a whole update (rollout, scoring, two epochs) without and with gradient checkpointing: env steps per second,
        tokens per second, peak memory, model FLOP utilisation

A model of Qwen2-VL's architecture (2b, 7b, or `small` to try the script on a CPU) gets random weights and an adapter of
rank 16; it sees eight frames of 224 px. Its tokenizer has as many tokens as the real one. The env is played in this
process and takes any reply, since random weights give no sensible ones; collector, engine and learner are those of the
trainer. Nothing is downloaded. A part should take less than eight minutes on an H100.

Besides PyTorch, transformers and peft it needs grpcio, grpcio-health-checking, grpcio-reflection, protobuf, psutil,
pydantic-settings, PyYAML, rich and xxhash, and this repository's sdk, vlm and services/trainer on PYTHONPATH.

A token of an update counts 4 FLOPs per weight of the language model's layers (an adapter's forward and backward pass);
recomputation, the vision tower, attention scores and the vocabulary do not count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from frames_env import Frames, FramesOptions
from overworld import Act, Fleet, Reset, Result, Runner
from overworld.evaluation.conversation import Conversation, Recipe
from overworld_trainer.codec import encode_messages
from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.episodes import Episodes, Player
from overworld_trainer.learner import Learner
from overworld_trainer.metrics import Metric
from overworld_trainer.reference import Reference
from overworld_trainer.rollout import Collector
from overworld_trainer.samples import make_samples
from overworld_trainer.throughput import Throughput
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM, quieten_transformers, torch_device
from overworld_vlm.stopwatch import Stopwatch
from overworld_vlm.tiny import make_tiny
from overworld_vlm.writer import Request
from peft import LoraConfig, get_peft_model
from report import Row, finish, parser
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

HISTORY, RANK = 8, 16
TOKENS = 151_665
"""In the tokenizer of Qwen2-VL; its vocabulary has further rows that only pad."""
GOAL_CARD, GOAL_CONFIG = "H100", "7b"
STEPS_PER_SECOND, PEAK_GB, FLOOR_RATIO = 3.0, 40.0, 0.5
MFU = {True: 0.23, False: 0.35}
"""With and without checkpointing."""

BANDWIDTH = {
    # bytes per second, from NVIDIA's data sheets
    "NVIDIA H200": 4.8e12,
    "NVIDIA H100 80GB HBM3": 3.35e12,
    "NVIDIA H100 NVL": 3.9e12,
    "NVIDIA H100 PCIe": 2.0e12,
    "NVIDIA A100-SXM4-80GB": 2.039e12,
    "NVIDIA A100 80GB PCIe": 1.935e12,
    "NVIDIA A100-SXM4-40GB": 1.555e12,
    "NVIDIA L40S": 0.864e12,
    "NVIDIA L4": 0.3e12,
    "NVIDIA GeForce RTX 4090": 1.008e12,
    "NVIDIA GeForce RTX 3090": 0.936e12,
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, and what is measured with it. `batch_tokens`: with and without checkpointing."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    vision: Mapping[str, int]
    slots: tuple[int, int] = (32, 64)
    new_tokens: tuple[int, int] = (64, 128)
    rollout_steps: int = 8
    frame: int = 224
    batch_tokens: Mapping[bool, int]


_VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16}
SIZES = {
    "small": Size(
        hidden=64,
        intermediate=128,
        layers=2,
        heads=4,
        kv_heads=2,
        vocabulary=TOKENS + 7,
        tied=True,
        vision={"depth": 1, "embed_dim": 32, "num_heads": 2},
        slots=(2, 4),
        new_tokens=(3, 6),
        rollout_steps=2,
        frame=56,
        batch_tokens={True: 1024, False: 512},
    ),
    "2b": Size(
        hidden=1536,
        intermediate=8960,
        layers=28,
        heads=12,
        kv_heads=2,
        vocabulary=151_936,
        tied=True,
        vision=_VISION,
        batch_tokens={True: 16_384, False: 8192},
    ),
    "7b": Size(
        hidden=3584,
        intermediate=18_944,
        layers=28,
        heads=28,
        kv_heads=4,
        vocabulary=152_064,
        tied=False,
        vision=_VISION,
        batch_tokens={True: 16_384, False: 4096},
    ),
}


class ScriptedFleet:
    """Slots of `Frames` in this process. Whatever is replied, each turn shows a new frame."""

    def __init__(self, slots: int, size: int) -> None:
        self._runners = [Runner(Frames(FramesOptions(size=size)), slot=slot) for slot in range(slots)]
        self.spec = self._runners[0].spec

    def __len__(self) -> int:
        return len(self._runners)

    def step(self, moves: Mapping[int, Act | Reset]) -> list[Result]:
        """As `Fleet.step`."""
        return [
            self._runners[slot].reset(move.seed) if isinstance(move, Reset) else self._runners[slot].step("ahead")
            for slot, move in moves.items()
        ]

    def close(self) -> None:
        """As `Fleet.close`."""


def main() -> None:
    """Measures and reports."""
    options = parser(__doc__ or "")
    options.add_argument("--part", choices=("decode", "update"), action="append", help="default: both")
    options.add_argument("--config", choices=SIZES, default="7b", help="size of the model (default: 7b)")
    arguments = options.parse_args()
    quieten_transformers()
    parts = arguments.part or ["decode", "update"]
    device = torch.device(torch_device("auto"))
    started = time.perf_counter()
    vlm = make_model(SIZES[arguments.config], device)
    weights = sum(parameter.nbytes for parameter in vlm.core.parameters())
    print(f"{vlm!r}, {weights / 1e9:.2f} GB, made in {time.perf_counter() - started:.0f} s on {card(device)}")
    rows: list[Row] = []
    for part in parts:
        for row in {"decode": decode, "update": update}[part](vlm, arguments.config):
            print(f"{row.name}; {row.setting}: {row.value:.4g} {row.unit}", flush=True)
            rows.append(row)
    finish(rows, arguments.json)


def make_model(size: Size, device: torch.device) -> VLM:
    """A model with random weights in bfloat16 and an adapter in fp32."""
    prompts = [conversation.messages() for conversation in _players(2, size.frame)[1]]
    tiny = make_tiny([prompt[0]["content"][-1]["text"] for prompt in prompts])
    tokenizer = _grown(tiny.tokenizer)
    token = tokenizer.convert_tokens_to_ids
    part = size.hidden // size.heads // 16  # of the rotations: a quarter for time, the rest for rows and columns
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": size.vocabulary,
            "hidden_size": size.hidden,
            "intermediate_size": size.intermediate,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "max_position_embeddings": 32_768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2 * part, 3 * part, 3 * part],
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**size.vision, "hidden_size": size.hidden, "patch_size": 14},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=size.tied,
    )
    torch.manual_seed(0)
    with device:
        model = Qwen2VLForConditionalGeneration._from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        ).requires_grad_(False)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    vlm = VLM(model.eval(), tokenizer, tiny.image_processor)
    adapter = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=vlm.family.lora_targets)
    return vlm.wrapped(get_peft_model(model, adapter).eval())


def decode(vlm: VLM, config: str) -> Iterator[Row]:
    """Milliseconds of a token of all slots, and how near that is to the least that the card needs."""
    size = SIZES[config]
    bandwidth, source = _bandwidth(vlm.device)
    weights = sum(
        weight.nbytes for name, weight in vlm.core.named_parameters() if "visual" not in name and "embed" not in name
    )
    weights += vlm.core.lm_head.weight.nbytes if size.tied else 0  # it goes by the name of the embedding
    kv = 2 * size.layers * size.kv_heads * (size.hidden // size.heads) * vlm.dtype.itemsize
    _write(vlm, size.slots[0], 3, size.frame)
    for slots in size.slots:
        for new_tokens in size.new_tokens:
            _reset_peak(vlm.device)
            seconds, requests = _write(vlm, slots, new_tokens, size.frame)
            steps = max(len(request.tokens) for request in requests) - 1  # the prefill gives the first one
            tokens = sum(len(request.tokens) - 1 for request in requests)
            context = sum(len(request.prompt) + len(request.tokens) / 2 for request in requests)
            floor = (weights + kv * context) / bandwidth * 1e3
            value = seconds["decode"] / steps * 1e3
            goal = FLOOR_RATIO if _goals(vlm.device, config) else None
            setting = f"{config}, {slots} slots, {new_tokens} tokens, {len(requests[0].prompt)} in the prompt"
            yield Row("decode: a token of all slots", setting, value, "ms", source, floor, floor / value, goal)
            yield _plain("decode", setting, tokens / seconds["decode"], "tokens/s")
            prompt_tokens = sum(len(request.prompt) for request in requests)
            yield _plain("prefill, with the vision tower", setting, prompt_tokens / seconds["prefill"], "tokens/s")
            if vlm.device.type == "cuda":
                yield _plain("peak memory", setting, _peak(vlm.device), "GB")


def update(vlm: VLM, config: str) -> Iterator[Row]:
    """A whole update without and with gradient checkpointing, after one step of warm-up."""
    size, goals = SIZES[config], _goals(vlm.device, config)
    slots, new_tokens = size.slots[0], size.new_tokens[1]
    for checkpointing in (False, True):
        fields: dict[str, Any] = {
            "run": "unused",
            "envs": [{"id": "bench/Frames", "slots": slots}],
            "model": {
                "path": "random",
                "dtype": "bfloat16",
                "lora": {"r": RANK, "alpha": 2 * RANK},
                "gradient_checkpointing": checkpointing,
                "batch_tokens": size.batch_tokens[checkpointing],
            },
            "recipe": {"history": HISTORY},
            "max_new_tokens": new_tokens,
            "max_batch": slots,
            "critic": {"warmup_updates": 0},
        }
        settings = TrainerConfig(**fields)
        vlm.batch_tokens = size.batch_tokens[checkpointing]
        vlm.core.gradient_checkpointing_disable()
        stopwatch = Stopwatch(vlm.device)
        critic = Critic(vlm.hidden_size, settings.critic.layers).to(vlm.device)
        learner = Learner(settings, vlm, critic, stopwatch)
        engine = Engine(vlm, max_batch=slots, stopwatch=stopwatch)
        throughput = Throughput(vlm, settings.policy.epochs)
        with _episodes(slots, size.frame) as episodes:
            collector = Collector(settings, vlm, engine, episodes, stopwatch)
            for steps in (1, size.rollout_steps):
                stopwatch.take()
                _reset_peak(vlm.device)
                rollout = collector.collect(steps)
                samples = make_samples(rollout, vlm, Reference(vlm), critic, settings, stopwatch)
                learner.update(samples, 0)
                seconds = stopwatch.take()
        metrics = throughput.metrics(rollout, seconds)
        total = sum(seconds.values())
        how = f"checkpointing {'on' if checkpointing else 'off'}, {vlm.batch_tokens} tokens at once"
        setting = f"{config}, {slots} slots x {size.rollout_steps} steps, {new_tokens} tokens, {how}"
        yield _goal("whole update", setting, len(rollout) / total, "env steps/s", STEPS_PER_SECOND, goals)
        peak = _peak(vlm.device) if vlm.device.type == "cuda" else metrics[Metric.HOST_PEAK_MEMORY] * 2**30 / 1e9
        ratio = PEAK_GB / peak
        yield Row("peak memory", setting, peak, "GB", "goal", PEAK_GB, ratio, 1 if goals and checkpointing else None)
        if Metric.UPDATE_MFU in metrics:
            value, goal = metrics[Metric.UPDATE_MFU], MFU[checkpointing]
            yield _goal("MFU of the epochs", setting, value, "of the card's peak", goal, goals)
        yield _plain("epochs", setting, metrics[Metric.UPDATE_TFLOPS], "TFLOP/s")
        yield _plain("epochs", setting, metrics[Metric.UPDATE_TOKENS_PER_SECOND], "tokens/s")
        yield _plain("decode", setting, metrics[Metric.DECODE_TOKENS_PER_SECOND], "tokens/s")
        yield _plain("prefill", setting, metrics[Metric.PREFILL_TOKENS_PER_SECOND], "tokens/s")
        for part, spent in sorted(seconds.items(), key=lambda item: -item[1]):
            yield Row(f"time: {part}", setting, spent, "s", "update", total, spent / total)


def card(device: torch.device) -> str:
    """The device's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def _grown(small: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with tokens that never occur in a text, so that it has as many as the real one."""
    described = json.loads(small.backend_tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    vocabulary |= {f"unused{number}": number for number in range(len(vocabulary), TOKENS)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        eos_token=small.eos_token,
        pad_token=small.pad_token,
        extra_special_tokens=list(small.extra_special_tokens),
        chat_template=small.chat_template,
        clean_up_tokenization_spaces=False,
    )


def _players(slots: int, frame: int) -> tuple[ScriptedFleet, list[Conversation], list[Result]]:
    """A fleet whose conversations have seen `HISTORY` frames each, and what they saw last."""
    fleet = ScriptedFleet(slots, frame)
    recipe = Recipe(history=HISTORY)
    conversations = [Conversation(fleet.spec, recipe) for _ in range(slots)]
    results = fleet.step({slot: Reset(slot) for slot in range(slots)})
    for turn in range(HISTORY):
        for conversation, result in zip(conversations, results, strict=True):
            conversation.observe(result)
        if turn + 1 < HISTORY:
            results = fleet.step({slot: Act("ahead") for slot in range(slots)})
    return fleet, conversations, results


def _episodes(slots: int, frame: int) -> Episodes:
    """Players in the midst of their episodes."""
    fleet, conversations, results = _players(slots, frame)
    players = [
        Player(
            env=0,
            slot=slot,
            place=slot,
            fleet=cast("Fleet", fleet),
            conversation=conversation,
            result=result,
            turn=HISTORY,
        )
        for slot, (conversation, result) in enumerate(zip(conversations, results, strict=True))
    ]
    return Episodes([cast("Fleet", fleet)], players, lambda env, slot, episode: Reset(slot))


def _write(vlm: VLM, slots: int, new_tokens: int, frame: int) -> tuple[dict[str, float], Sequence[Request]]:
    """Seconds by part of a reply of every slot, whose frames have not been seen before."""
    _, conversations, _ = _players(slots, frame)
    vlm.vision.memory, memory = 0, vlm.vision.memory
    prompts = [encode_messages(vlm, conversation.messages()) for conversation in conversations]
    requests = [Request(prompt, new_tokens, key=(slot,)) for slot, prompt in enumerate(prompts)]
    stopwatch = Stopwatch(vlm.device)
    engine = Engine(vlm, max_batch=slots, stopwatch=stopwatch)
    stopwatch.take()
    engine.run(requests)
    seconds = stopwatch.take()
    vlm.vision.memory = memory
    return seconds, requests


def _bandwidth(device: torch.device) -> tuple[float, str]:
    """Bytes per second that the device reads at most, and where that is from."""
    if (known := BANDWIDTH.get(card(device))) is not None:
        return known, "weights, keys and values at the data sheet's bandwidth"
    source = torch.zeros(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        stopwatch = Stopwatch(device)
        target.copy_(source)
        best = max(best, 2 * source.nbytes / stopwatch.take()["other"])
    return best, "weights, keys and values at the bandwidth of a copy"


def _goals(device: torch.device, config: str) -> bool:
    return GOAL_CARD in card(device) and config == GOAL_CONFIG


def _goal(name: str, setting: str, value: float, unit: str, goal: float, binding: bool) -> Row:
    return Row(name, setting, value, unit, "goal", goal, value / goal, 1 if binding else None)


def _plain(name: str, setting: str, value: float, unit: str) -> Row:
    return Row(name, setting, value, unit, "", value, 1.0)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float:
    """GB (10^9 bytes) of tensors on a GPU, at most."""
    return torch.cuda.max_memory_allocated(device) / 1e9


if __name__ == "__main__":
    main()
