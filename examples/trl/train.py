"""Trains a tiny Gemma 3 with TRL's GRPOTrainer on an env server: `make example-trl`.

A model with random weights calls no tools, so it is first cloned on random play: then it knows how to act and not what
to do. That it learns from the rewards of episodes over gRPC.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from clone import clone, play
from datasets import Dataset
from overworld.host.process import ServerProcess
from overworld_trl import Environments, episode_return, rows, success
from tiny_gemma import make_tiny_gemma
from transformers.utils import get_json_schema
from trl import GRPOConfig, GRPOTrainer

_ENV = "gym_cards/Blackjack"
_OPTIONS = {"size": 56, "colours": True}
_EVALUATED = 200  # episodes
_GROUP = 8  # episodes that begin from the same state


def main() -> None:
    """Clones, then trains, with an evaluation of both on other deals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clone-steps", type=int, default=120)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # tensors as small as these gain nothing from a second one
    with (
        ServerProcess("gym_cards", arguments=("--slots", "256")) as server,
        Environments([server.address], _ENV, options=_OPTIONS) as environments,
    ):
        spec, environment = environments.spec, environments()
        texts = [json.dumps(get_json_schema(environment.act)), json.dumps(play(environment, spec, 0), default=str)]
        model, processor = make_tiny_gemma(texts, arguments.seed)
        started = time.monotonic()
        loss = clone(model, processor, environment, spec, arguments.clone_steps)
        print(f"cloned in {time.monotonic() - started:.0f} s: loss {loss:.3f}", flush=True)
        trainer = GRPOTrainer(
            model,
            reward_funcs=[success, episode_return],
            args=GRPOConfig(
                output_dir="runs/example-trl",
                seed=arguments.seed,
                max_steps=arguments.steps,
                per_device_train_batch_size=8 * _GROUP,
                num_generations=_GROUP,
                per_device_eval_batch_size=50,
                num_generations_eval=1,
                max_completion_length=512,
                max_tool_calling_iterations=8,
                reward_weights=[1.0, 0.0],  # the return is only logged
                temperature=0.6,  # so small a model misspells a call now and then; this keeps it from being sampled
                learning_rate=5e-4,
                lr_scheduler_type="constant",
                logging_steps=1,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=Dataset.from_list(rows(spec, range(10_000))),
            eval_dataset=Dataset.from_list(rows(spec, range(10_000, 10_000 + _EVALUATED))),
            processing_class=processor,
            environment_factory=environments,
        )
        started = time.monotonic()
        before = trainer.evaluate()
        trainer.train()
        after = trainer.evaluate()
    print(f"{arguments.steps} steps in {time.monotonic() - started:.0f} s")
    for name in (
        "rewards/success/mean",
        "rewards/episode_return/mean",
        "tools/call_frequency",
        "tools/failure_frequency",
    ):
        print(f"{name}: {before[f'eval_{name}']:.2f} -> {after[f'eval_{name}']:.2f}")


if __name__ == "__main__":
    main()
