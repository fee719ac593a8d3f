"""What is kept of each update."""

import functools
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest
from overworld.host.process import ServerProcess
from overworld_trainer.display import Display
from overworld_trainer.episodes import Episodes
from overworld_trainer.exporter import Exporter
from overworld_trainer.guard import RunStoppedError
from overworld_trainer.metrics import Metric
from overworld_trainer.recorder import Recorder, recording
from overworld_trainer.rollout import Collector, Rollout
from overworld_trainer.run import Run, TrainerState, read_state
from overworld_trainer.samples import Samples
from overworld_trainer.seeds import episode_seed
from overworld_trainer.stop import InterruptionError
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from overworld_vlm.stopwatch import Stopwatch

from tests.support.learning import make_learner, make_samples
from tests.support.scripted_model import lines, run_settings

Update = tuple[Run, TrainerState, VLM, Episodes, Rollout, Samples, Exporter]


@pytest.fixture
def update(server: ServerProcess, clueless: VLM, tmp_path: Path) -> Iterator[Update]:
    """A run that writes a checkpoint every two updates, and what an update of it consists of."""
    envs = [{"id": "puppet/Puppet", "slots": 2}]
    run = Run.open(run_settings(server, tmp_path / "run", "", envs=envs, clone={"updates": 1}))
    with Episodes.open(run.config, functools.partial(episode_seed, 0)) as episodes:
        rollout = Collector(run.config, clueless, Engine(clueless), episodes).collect(2)
        yield run, TrainerState(), clueless, episodes, rollout, make_samples(clueless, 4), Exporter()


def recorder(update: Update) -> AbstractContextManager[Recorder]:
    run, state, vlm, episodes, _, _, exporter = update
    learner = make_learner(vlm, run.config)
    display, stopwatch = Display(run.config), Stopwatch()
    return recording(run, state, vlm, learner, episodes, exporter=exporter, display=display, stopwatch=stopwatch)


def saved(run: Run) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_every_nth_update_has_a_checkpoint_and_so_has_the_last(update: Update) -> None:
    run, state, _, episodes, rollout, samples, exporter = update
    with recorder(update) as one:
        for number in range(3):
            one.record(rollout, samples, {Metric.MAX_LOGPROB_ERROR: number * 1e-6})
            assert saved(run) == ["000002"] * (number > 0)
    assert saved(run) == ["000002", "000003"]
    assert (state.update, state.env_steps, state.max_logprob_error) == (3, 12, 2e-6)
    assert read_state(run.checkpoint(3)) == state
    assert state.slots == episodes.state()
    assert [len(lines(run.folder)), len(list(exporter.collect())) > 10] == [3, True]
    assert repr(run) == f"Run({run.folder}, checkpoints [2, 3])"


@pytest.mark.parametrize(("minutes", "expected"), [(10.0, [2, 4, 5, 6]), (60.0, [5, 6]), (None, [5, 6])])
def test_when_minutes_have_passed_since_the_last_one_the_next_update_has_a_checkpoint(
    update: Update, minutes: float | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every update takes six minutes; the fifth has one by its number, the sixth since it is the last."""
    elapsed = 0.0
    clock = SimpleNamespace(monotonic=lambda: elapsed, perf_counter=time.perf_counter)
    monkeypatch.setattr("overworld_trainer.recorder.time", clock)
    run, *_, rollout, samples, _ = update
    run.config = run.config.model_copy(update={"checkpoint_every": 5, "checkpoint_minutes": minutes})
    with recorder(update) as one:
        for _ in range(6):
            elapsed += 6 * 60
            one.record(rollout, samples, {})
    assert saved(run) == [f"{number:06}" for number in expected]


def test_an_interrupted_update_leaves_a_checkpoint_of_the_one_before(update: Update) -> None:
    """With its episodes as they were then, though moves have been made since."""
    run, state, vlm, episodes, rollout, samples, _ = update
    with recorder(update) as one:
        one.record(rollout, samples, {})
        slots = episodes.state()
        Collector(run.config, vlm, Engine(vlm), episodes).collect(1)
        assert episodes.state() != slots
        raise InterruptionError
    assert saved(run) == ["000001"]
    assert read_state(run.checkpoint(1)) == state
    assert state.slots == slots


def test_a_checkpoint_is_not_written_twice(update: Update) -> None:
    run, _, _, _, rollout, samples, _ = update
    with recorder(update) as one:
        for _ in range(2):
            one.record(rollout, samples, {})
        written = (run.checkpoint(2) / "manifest.json").stat()
    assert (run.checkpoint(2) / "manifest.json").stat() == written
    assert saved(run) == ["000002"]


def test_an_update_that_must_be_the_last_is_logged_and_gets_no_checkpoint(update: Update) -> None:
    run, state, _, _, rollout, samples, _ = update
    with pytest.raises(RunStoppedError, match="update 1: losses/policy_loss is not a number"):
        with recorder(update) as one:
            one.record(rollout, samples, {})
            one.record(rollout, samples, {Metric.POLICY_LOSS: math.nan})
    assert saved(run) == []
    assert len(lines(run.folder)) == 2
    assert state.update == 1
