"""What is kept of each update: its metrics are merged, written to all sinks and guarded, and checkpoints written."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence

from overworld_vlm.load import VLM
from overworld_vlm.stopwatch import Stopwatch

from overworld_trainer.display import Display
from overworld_trainer.episodes import Episodes
from overworld_trainer.evaluation import Evaluations
from overworld_trainer.exporter import Exporter
from overworld_trainer.guard import Guard
from overworld_trainer.learner import Learner
from overworld_trainer.ledger import Ledger
from overworld_trainer.metrics import Metric, Metrics, seconds_by_part
from overworld_trainer.rollout import Rollout
from overworld_trainer.run import Run, TrainerState
from overworld_trainer.samples import Samples
from overworld_trainer.sampling import Sampler
from overworld_trainer.sinks import Sink, open_sinks
from overworld_trainer.stop import InterruptionError, Stop
from overworld_trainer.summary import rollout_metrics, sample_metrics
from overworld_trainer.throughput import Throughput

_logger = logging.getLogger(__name__)


class Recorder:
    """Records a run's updates and keeps its `state` up to date; its `sampler` learns from them which envs to play."""

    def __init__(
        self,
        run: Run,
        state: TrainerState,
        vlm: VLM,
        learner: Learner,
        episodes: Episodes,
        *,
        sinks: Sequence[Sink],
        stopwatch: Stopwatch,
    ) -> None:
        self.state = state
        self._run = run
        self._vlm = vlm
        self._learner = learner
        self._episodes = episodes
        self._sinks = sinks
        self._stopwatch = stopwatch
        self._throughput = Throughput(vlm, run.config.policy.epochs, run.ranks.size)
        self.sampler = Sampler(run.config, state.sampler)
        self._guard = Guard(run.config.model.dtype)
        if state.guard is not None:
            self._guard.restore(state.guard)
        restored = sum(len(slot["actions"]) for slot in state.slots or ())
        self._ledger = Ledger(run.folder / "ledger.jsonl" if run.ranks.first else None, restored)
        self._saved = state.update
        self._saved_at = time.monotonic()
        self._stopwatch.take()  # what came before the first update is not part of it
        self._began = time.perf_counter()

    def record(self, rollout: Rollout, samples: Samples, learnt: Metrics) -> None:
        """An update was made: `learnt` are the learner's metrics. Raises RunStoppedError if it must be the last."""
        config, state = self._run.config, self.state
        metrics = learnt | rollout_metrics(rollout, [env.id for env in config.envs])
        metrics |= sample_metrics(samples, max(rollout.reward_scales))
        metrics[Metric.STEPS_PER_SECOND] = len(rollout) / (time.perf_counter() - self._began)
        seconds = self._stopwatch.take()
        metrics |= self.sampler.metrics(state.env_steps)
        metrics |= seconds_by_part(seconds) | self._throughput.metrics(rollout, seconds)

        failed = sum(step.failed for step in rollout.all_records)
        counts = self._episodes.counts()
        entry = self._ledger.enter(state.update, samples=len(rollout) - failed, failed=failed, now=counts)
        metrics |= entry.metrics

        state.env_steps += len(rollout)
        state.max_logprob_error = max(state.max_logprob_error, metrics.get(Metric.MAX_LOGPROB_ERROR, 0.0))
        with self._stopwatch("record"):
            self._write(state.update, metrics)
        self._guard.check(metrics, state.update)
        state.update += 1
        # Kept now: when a checkpoint of this update is written, the next one's moves may have been made.
        state.slots, state.guard = self._episodes.state(), self._guard.state()
        self.sampler.learn(rollout.episodes, rollout.reward_scales)
        state.sampler = self.sampler.state()
        due = state.update % config.checkpoint_every == 0 or self._checkpoint_is_due()
        if self._run.ranks.largest(due)[0]:  # clocks may differ
            self.save()
        self._began = time.perf_counter()

    def evaluate(self, evaluations: Evaluations) -> None:
        """Evaluates the policy if that is due; it gets a checkpoint first. Raises what `Evaluations.play` raises."""
        if not evaluations.due(self.state.update):
            return
        self.save()
        with self._stopwatch("evaluate"):
            metrics = evaluations.play(self.state.update)
        if metrics is not None:
            self._write(self.state.update - 1, metrics)
        self._began = time.perf_counter()

    def _write(self, update: int, metrics: Metrics) -> None:
        for sink in self._sinks:
            sink.write(update, self.state.env_steps, metrics)

    def save(self) -> None:
        """Writes a checkpoint of the last recorded update, from which the run can be resumed, unless it has one.

        Weights and optimizers must be what they were then.
        """
        if self._saved == self.state.update:
            return
        with self._stopwatch("checkpoint"):
            self._run.save(self._vlm, self.state, self._episodes.provenance, self._learner)
        self._saved = self.state.update
        self._saved_at = time.monotonic()

    def _checkpoint_is_due(self) -> bool:
        minutes = self._run.config.checkpoint_minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes


@contextlib.contextmanager
def recording(
    run: Run,
    state: TrainerState,
    vlm: VLM,
    learner: Learner,
    episodes: Episodes,
    *,
    exporter: Exporter,
    display: Display,
    stopwatch: Stopwatch,
    stop: Stop | None = None,
) -> Iterator[Recorder]:
    """A recorder for the updates made within. Unless they end in an exception, the last one gets a checkpoint.

    An InterruptionError ends them too, and is not passed on: an update that was thrown away leaves no trace. Of several
    ranks the first one writes.
    """
    with contextlib.ExitStack() as opened:
        sinks: list[Sink] = []
        if run.ranks.first:
            sinks += opened.enter_context(open_sinks(run.config, state.update, state.env_steps))
            sinks += [exporter, opened.enter_context(display.training(state.update))]
        recorder = Recorder(run, state, vlm, learner, episodes, sinks=sinks, stopwatch=stopwatch)
        try:
            yield recorder
        except InterruptionError:
            (stop or Stop(run.ranks)).leave()
            _logger.info("update %d is thrown away; the run can be resumed", state.update)
        recorder.save()
