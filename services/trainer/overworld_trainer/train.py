"""VL-DAC (arXiv 2508.04280), from top to bottom.

start:   a model, perhaps cloned from experts; it is the reference from here on
repeat:  collect a rollout, score it by the reference, compute advantages,
         fit the critic, improve the policy, log, guard, checkpoint
"""

from __future__ import annotations

import logging
import signal
import threading
import time

import torch
from torch import Tensor

from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.display import Display
from overworld_trainer.exporter import Exporter
from overworld_trainer.guard import Guard
from overworld_trainer.learner import Learner
from overworld_trainer.metrics import MetricsLog, rollout_metrics, sample_metrics
from overworld_trainer.policy import load_policy, make_start
from overworld_trainer.reference import score_all
from overworld_trainer.rollout import Collector
from overworld_trainer.run import Progress, Run, read_progress, restore_learner
from overworld_trainer.samples import make_samples
from overworld_trainer.seeds import derive

_logger = logging.getLogger(__name__)


def train(config: TrainerConfig) -> bool:
    """Begins, or goes on with, the run that the settings describe; whether it is finished.

    On SIGTERM it ends after the update, resumable.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    run, display = Run(config), Display(config)
    exporter = Exporter(config.metrics_host, config.metrics_port)
    if config.clone.updates and not run.has_start:
        make_start(run, display)
    resumed = run.latest()
    progress = Progress() if resumed is None else read_progress(resumed)
    vlm, reference = load_policy(run, resumed)
    critic = Critic(vlm.hidden_size, config.critic.layers, derive(config.seed, "critic")).to(vlm.device)
    learner = Learner(config, vlm, critic)
    guard = Guard(config.model.dtype)
    if resumed is not None:
        restore_learner(resumed, learner)
        guard.restore(progress.guard or {})
        _logger.info("going on from %s", resumed)
    log = MetricsLog(config.run, progress.update, progress.env_steps)
    stopping = _sigterm()

    def value(features: Tensor) -> Tensor:
        values: Tensor = critic(features.to(vlm.device))
        return values.cpu()

    with Collector(config, vlm) as collector, display.training(progress.update):
        collector.restore(progress.slots)
        while progress.update < config.updates and not stopping.is_set():
            started = time.perf_counter()
            rollout = collector.collect(config.rollout_steps, value)
            steps = [step for row in rollout.steps for step in row]
            ref_logps = reference.score(steps, config)
            # In bf16 the sampler's kernels round differently: ratios are taken to what the training kernels say.
            fp32 = config.model.dtype == "float32"
            old_logps = [step.logps for step in steps] if fp32 else score_all(vlm, steps, config)
            samples = make_samples(rollout, old_logps, ref_logps, collector.reward_scales, config)
            collected = time.perf_counter()
            metrics = learner.update(samples, progress.update)
            metrics |= rollout_metrics(rollout, [env.id for env in config.envs])
            metrics |= sample_metrics(samples, max(collector.reward_scales))
            metrics["time/learning"] = time.perf_counter() - collected
            metrics["charts/SPS"] = len(steps) / (time.perf_counter() - started)

            progress.env_steps += len(steps)
            progress.max_logprob_error = max(progress.max_logprob_error, metrics.get("losses/max_logprob_error", 0.0))
            log.write(progress.update, progress.env_steps, metrics)
            guard.check(metrics, progress.update)
            progress.update += 1
            exporter.update(progress.update, progress.env_steps, metrics)
            display.updated(progress.update, progress.env_steps, metrics)
            last = progress.update == config.updates or stopping.is_set()
            if last or progress.update % config.checkpoint_every == 0:
                progress.slots, progress.guard = collector.state(), guard.state()
                run.save(vlm, progress, collector.provenance, learner)
    log.close()
    return progress.update >= config.updates


def _sigterm() -> threading.Event:
    """Set when SIGTERM comes."""
    received = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: received.set())
    return received
