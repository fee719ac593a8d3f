"""The model at the start of RL, and the model trained from it."""

from __future__ import annotations

from pathlib import Path

import torch
from overworld_vlm import checkpoint
from overworld_vlm.load import VLM, ModelError, load, torch_device, torch_dtype
from overworld_vlm.tiny import make_tiny
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model

from overworld_trainer.clone import Demonstrations, clone
from overworld_trainer.config import LoraConfig
from overworld_trainer.display import Display
from overworld_trainer.reference import Reference
from overworld_trainer.run import Run, TrainerState
from overworld_trainer.seeds import derive


def make_start(run: Run, display: Display) -> None:
    """Clones the experts of the run's envs and writes the result as checkpoint 0, always as a whole model."""
    config = run.config
    with Demonstrations.open(config) as demonstrations, display.cloning() as show:
        if config.model.path == "tiny":
            vlm = make_tiny(demonstrations.texts(), config.model.tiny, derive(config.seed, "tiny"))
        else:
            vlm = load(config.model.path)
        vlm.model.to(torch_device(config.model.device), torch_dtype(config.model.dtype))
        if config.clone.lora is not None:
            vlm = _with_new_adapter(vlm, config.clone.lora, derive(config.seed, "clone adapter"))
        clone(vlm, demonstrations.batch, config.clone, show)
        if config.clone.lora is not None:
            vlm = vlm.wrapped(vlm.model.merge_and_unload())
        run.save(vlm, TrainerState(), demonstrations.provenance)


def load_policy(run: Run, resumed: Path | None) -> tuple[VLM, Reference]:
    """The model to train, from the checkpoint `resumed` if there is one, and the reference. Raises ModelError."""
    config = run.config
    device, dtype = torch_device(config.model.device), torch_dtype(config.model.dtype)
    if run.has_start:
        checkpoint.read(run.start)
    start = load(run.base, device, dtype)
    start.model.requires_grad_(False)
    if config.model.lora is None:
        vlm = load(run.base if resumed is None else resumed / "weights", device, dtype)
        return vlm, Reference(vlm, frozen=start)
    if resumed is None:
        vlm = _with_new_adapter(start, config.model.lora, derive(config.seed, "adapter"))
    else:
        manifest = checkpoint.read(resumed)
        if checkpoint.base_folder(resumed, manifest).resolve() != run.base.resolve():
            raise ModelError(f"{resumed} belongs to another base model than {run.base}")
        vlm = checkpoint.add_adapter(start, resumed, manifest, trainable=True)
    return vlm, Reference(vlm)


def _with_new_adapter(vlm: VLM, lora: LoraConfig, seed: int) -> VLM:
    """The model with a fresh adapter, which changes nothing yet; only the adapter is trained."""
    settings = PeftLoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=vlm.family.lora_targets, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(vlm.model, settings)
    return vlm.wrapped(model.eval())
