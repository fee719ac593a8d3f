"""What is kept of each update: its metrics are merged, logged, guarded, exported and shown, and checkpoints written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from overworld_vlm.load import VLM

from overworld_trainer.display import Display, ShowTraining
from overworld_trainer.episodes import Episodes
from overworld_trainer.evaluation import Evaluations
from overworld_trainer.exporter import Exporter
from overworld_trainer.guard import Guard
from overworld_trainer.learner import Learner
from overworld_trainer.log import MetricsLog
from overworld_trainer.metrics import Metric, Metrics
from overworld_trainer.rollout import Rollout
from overworld_trainer.run import Run, TrainerState
from overworld_trainer.samples import Samples
from overworld_trainer.summary import rollout_metrics, sample_metrics


class Recorder:
    """Records a run's updates and keeps its `state` up to date."""

    def __init__(
        self,
        run: Run,
        state: TrainerState,
        vlm: VLM,
        learner: Learner,
        episodes: Episodes,
        *,
        log: MetricsLog,
        exporter: Exporter,
        show: ShowTraining,
    ) -> None:
        self.state = state
        self._run = run
        self._vlm = vlm
        self._learner = learner
        self._episodes = episodes
        self._log = log
        self._exporter = exporter
        self._show = show
        self._guard = Guard(run.config.model.dtype)
        if state.guard is not None:
            self._guard.restore(state.guard)
        self._saved = state.update
        self._evaluated: Metrics = {}
        self._began = time.perf_counter()

    def record(self, rollout: Rollout, samples: Samples, learnt: Metrics) -> None:
        """An update was made: `learnt` are the learner's metrics. Raises RunStoppedError if it must be the last."""
        config, state = self._run.config, self.state
        metrics = learnt | rollout_metrics(rollout, [env.id for env in config.envs])
        metrics |= sample_metrics(samples, max(rollout.reward_scales))
        metrics[Metric.STEPS_PER_SECOND] = len(rollout) / (time.perf_counter() - self._began)

        state.env_steps += len(rollout)
        state.max_logprob_error = max(state.max_logprob_error, metrics.get(Metric.MAX_LOGPROB_ERROR, 0.0))
        self._log.write(state.update, state.env_steps, metrics)
        self._guard.check(metrics, state.update)
        state.update += 1
        self._exporter.update(state.update, state.env_steps, metrics | self._evaluated)
        self._show(state.update, state.env_steps, metrics)
        if state.update % config.checkpoint_every == 0:
            self.save()
        self._began = time.perf_counter()

    def evaluate(self, evaluations: Evaluations) -> None:
        """Evaluates the policy if that is due; it gets a checkpoint first. Raises what `Evaluations.play` raises."""
        if not evaluations.due(self.state.update):
            return
        self.save()
        metrics = evaluations.play(self.state.update)
        if metrics is not None:
            self._evaluated = metrics
            self._log.write(self.state.update - 1, self.state.env_steps, metrics)  # a line of its own
        self._began = time.perf_counter()

    def save(self) -> None:
        """Writes a checkpoint that the run can be resumed from, unless this update has one."""
        if self._saved == self.state.update:
            return
        self.state.slots, self.state.guard = self._episodes.state(), self._guard.state()
        self._run.save(self._vlm, self.state, self._episodes.provenance, self._learner)
        self._saved = self.state.update


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
) -> Iterator[Recorder]:
    """A recorder for the updates made within. Unless they end in an exception, the last one gets a checkpoint."""
    with (
        contextlib.closing(MetricsLog.open(run.folder, state.update, state.env_steps)) as log,
        display.training(state.update) as show,
    ):
        recorder = Recorder(run, state, vlm, learner, episodes, log=log, exporter=exporter, show=show)
        yield recorder
        recorder.save()
