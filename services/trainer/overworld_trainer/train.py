"""VL-DAC (arXiv 2508.04280), from top to bottom. `algorithms` says what its baselines do otherwise.

start:   a model, perhaps cloned from experts; it is the reference from here on
repeat:  collect a rollout                                          Collector.collect
         score it, estimate values and advantages (GAE)             samples.make_samples, advantages.gae
         fit the critic, improve the policy (PPO on every token)    Learner.update, losses.policy_loss
         record: metrics, guard, checkpoints                        Recorder.record
         now and then: evaluate on held-out episodes                Recorder.evaluate
"""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import threading
from contextlib import AbstractContextManager

import torch
from overworld_vlm.engine import Engine
from overworld_vlm.stopwatch import Stopwatch

from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.display import Display
from overworld_trainer.episodes import Episodes
from overworld_trainer.evaluation import Evaluations
from overworld_trainer.exporter import Exporter, serve_metrics
from overworld_trainer.learner import Learner
from overworld_trainer.memory import needing
from overworld_trainer.policy import load_policy, make_start
from overworld_trainer.profiling import traced
from overworld_trainer.ranks import joined
from overworld_trainer.recorder import recording
from overworld_trainer.rollout import Collector
from overworld_trainer.run import Run, TrainerState, read_state, restore_learner
from overworld_trainer.samples import make_samples
from overworld_trainer.seeds import derive, episode_seed
from overworld_trainer.sinks.weights_and_biases import import_wandb
from overworld_trainer.stop import Stop
from overworld_trainer.tables import Tables

_logger = logging.getLogger(__name__)


def train(config: TrainerConfig) -> bool:
    """Begins or resumes the run that the settings describe. Returns whether it is finished.

    After SIGTERM the update under way is thrown away, the one before it gets a checkpoint, and the run can be resumed.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.wandb is not None:
        import_wandb()  # a missing package should not be found out after hours of cloning
    with joined(config) as ranks:
        if not ranks.first:  # what there is to say of the run, the first one says
            logging.getLogger().setLevel(logging.WARNING)
            logging.getLogger("overworld_trainer").setLevel(logging.ERROR)
        run, display, stop = Run.open(config, ranks), Display(config), Stop(ranks)
        port = config.metrics_port if ranks.first else 0
        with serve_metrics(config.metrics_host, port) as exporter:
            if config.clone.updates and not ranks.decided(lambda: run.has_start):
                stop.alone(lambda: make_start(run, display, stop))
            return _improve(run, display, exporter, stop)


def _improve(run: Run, display: Display, exporter: Exporter, stop: Stop) -> bool:
    """Trains the policy from the start of RL, or from the newest checkpoint."""
    config, ranks, resumed = run.config, run.ranks, run.latest()
    state = TrainerState() if resumed is None else read_state(resumed)
    vlm, reference = load_policy(run, resumed)
    critic = Critic(vlm.hidden_size, config.critic.layers, derive(config.seed, "critic")).to(vlm.device)
    stopwatch = Stopwatch(vlm.device)
    learner = Learner(config, vlm, critic, stopwatch, stop, ranks)
    if resumed is not None:
        restore_learner(resumed, learner)
        _logger.info("resuming from %s", resumed)
    writer = Engine(
        vlm,
        max_batch=config.max_batch,
        value_input=config.critic.input,
        stopwatch=stopwatch,
        graphs=config.model.cuda_graphs and vlm.device.type == "cuda",
    )
    _on_sigterm(stop)
    seeds = functools.partial(episode_seed, config.seed, slots_per_task=config.slots_per_task)
    checkpointing = () if config.model.gradient_checkpointing else ("model.gradient_checkpointing = true",)
    with (
        Episodes.open(config, seeds, state.slots, ranks=ranks) as episodes,
        recording(
            run, state, vlm, learner, episodes, exporter=exporter, display=display, stopwatch=stopwatch, stop=stop
        ) as recorder,
    ):
        evaluations = Evaluations.open(run, vlm, update=state.update, stop=stop)
        tables = Tables(config, episodes, state.update, ranks)
        collector = Collector(config, vlm, writer, episodes, stopwatch, stop, tables.take, ranks)
        recorder.evaluate(evaluations)  # what was killed before it was finished
        while not _spent(config, state) and not evaluations.exhausted(state.update):
            with _traced(run, state.update, stopwatch):
                with (
                    needing("max_batch", config.max_batch, f"model.batch_tokens = {vlm.batch_tokens // 2}"),
                    vlm.whole(),
                ):
                    rollout = collector.collect(config.steps_per_slot, recorder.sampler.slots(state.env_steps))
                tables.write()
                with needing("model.batch_tokens", vlm.batch_tokens, *checkpointing):
                    samples = make_samples(rollout, vlm, reference, critic, config, stopwatch, stop, ranks)
                    metrics = learner.update(samples, state.update)
            recorder.record(rollout, samples, metrics)
            recorder.evaluate(evaluations)
    if evaluations.exhausted(state.update):
        _logger.info(
            "the run is finished: %d evaluations since the best one, after update %d, were no better "
            "(evaluation.patience); checkpoints/best names its checkpoint",
            config.evaluation.patience,
            evaluations.best(state.update),
        )
        return True
    return _spent(config, state) and not evaluations.due(state.update)


def _spent(config: TrainerConfig, state: TrainerState) -> bool:
    """Whether the run has made all of its updates, or all of its env steps."""
    bound = config.max_env_steps
    return state.update >= config.updates or (bound is not None and state.env_steps >= bound)


def _traced(run: Run, update: int, stopwatch: Stopwatch) -> AbstractContextManager[None]:
    """Writes a trace of what is done within if `update` is the one to be profiled."""
    if update != run.config.profile_update or not run.ranks.first:
        return contextlib.nullcontext()
    return traced(run.folder / "traces" / f"update-{update:06}.json.gz", stopwatch)


def _on_sigterm(stop: Stop) -> None:
    """Lets SIGTERM ask to stop."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: stop.ask())
