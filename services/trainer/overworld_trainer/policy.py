"""The model at the start of RL, and the model trained from it."""

from __future__ import annotations

from pathlib import Path

import torch
from overworld_vlm import checkpoint
from overworld_vlm.budget import token_budget
from overworld_vlm.load import VLM, ModelError, load, torch_device, torch_dtype
from overworld_vlm.tiny import make_tiny
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model

from overworld_trainer.clone import clone
from overworld_trainer.config import LoraConfig, ModelConfig, TrainerConfig
from overworld_trainer.demonstrations import open_demonstrations, texts
from overworld_trainer.display import Display
from overworld_trainer.memory import needing
from overworld_trainer.reference import Reference
from overworld_trainer.run import Run, TrainerState
from overworld_trainer.seeds import derive
from overworld_trainer.stop import Stop


def make_start(run: Run, display: Display, stop: Stop | None = None) -> None:
    """Clones demonstrations and writes the result as checkpoint 0, always as a whole model.

    Of several ranks the first one does so, and calls `stop.company` after each update.
    """
    config = run.config
    with open_demonstrations(config) as demonstrations, display.cloning() as show:

        def on_update(update: int, loss: float) -> None:
            show(update, loss)
            if stop is not None:
                stop.company()

        if config.model.path == "tiny":
            vlm = make_tiny(texts(demonstrations), config.model.tiny, derive(config.seed, "tiny"))
            vlm.model.to(torch_device(config.model.device), torch_dtype(config.model.dtype))
            _bound(vlm, config.model)
        else:
            vlm = _load(config.model.path, config.model)
        if config.clone.lora is not None:
            vlm = _with_new_adapter(vlm, config.clone.lora, derive(config.seed, "clone adapter"))
        with needing("model.batch_tokens", vlm.batch_tokens):
            clone(vlm, demonstrations.batch, config.clone, on_update)
        if config.clone.lora is not None:
            vlm = vlm.wrapped(vlm.model.merge_and_unload())
        run.save(vlm, TrainerState(), demonstrations.provenance, used_expert=demonstrations.used_expert)


def load_policy(run: Run, resumed: Path | None) -> tuple[VLM, Reference]:
    """The model to train, from the checkpoint `resumed` if there is one, and the reference. Raises ModelError."""
    config = run.config
    if run.has_start:
        checkpoint.read(run.start)
    start = _load(run.base, config.model)
    start.model.requires_grad_(False)
    if config.model.lora is None:
        vlm = _load(run.base if resumed is None else resumed / "weights", config.model)
        start.batch_tokens = vlm.batch_tokens  # found when both were in memory
        if config.model.freeze_vision:
            start.share_vision(vlm)
        return _sharded(vlm, config), Reference(vlm, frozen=_sharded(start, config))
    if resumed is None:
        vlm = _with_new_adapter(start, config.model.lora, derive(config.seed, "adapter"))
    else:
        manifest = checkpoint.read(resumed)
        if checkpoint.base_folder(resumed, manifest).resolve() != run.base.resolve():
            raise ModelError(f"{resumed} belongs to another base model than {run.base}")
        vlm = checkpoint.add_adapter(
            start,
            resumed,
            manifest,
            trainable=True,
            min_pixels=config.model.min_pixels,
            max_pixels=config.model.max_pixels,
            tiling=config.model.tiling,
        )
    return _sharded(vlm, config), Reference(vlm)


def _sharded(vlm: VLM, config: TrainerConfig) -> VLM:
    """`vlm`, cut into one part per rank if the settings say so."""
    if config.parallel == "shard":
        vlm.shard()
    return vlm


def _load(folder: str | Path, config: ModelConfig) -> VLM:
    """The model in a folder with the run's settings. Raises ModelError."""
    vlm = load(
        folder,
        torch_device(config.device),
        torch_dtype(config.dtype),
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        tiling=config.tiling,
        freeze_vision=config.freeze_vision,
    )
    _bound(vlm, config)
    return vlm


def _bound(vlm: VLM, config: ModelConfig) -> None:
    """Bounds the memory that a model takes besides its weights."""
    vlm.vision.memory = int(config.vision_memory * 2**30)
    vlm.batch_tokens = config.batch_tokens or token_budget(
        vlm.core, checkpointing=config.gradient_checkpointing, adapters=config.lora is not None
    )


def _with_new_adapter(vlm: VLM, lora: LoraConfig, seed: int) -> VLM:
    """The model with a fresh adapter, which changes nothing yet; only the adapter is trained."""
    settings = PeftLoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=vlm.family.lora_targets, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(vlm.model, settings)
    return vlm.wrapped(model.eval())
