"""Where metrics go: metrics.jsonl, TensorBoard, and Weights & Biases as the real package writes it offline."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from overworld.errors import MissingExtraError, SettingsError
from overworld_trainer.config import TrainerConfig
from overworld_trainer.sinks import open_sinks
from overworld_trainer.train import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.learning import settings

OFFLINE = {"project": "tests", "group": "seeds", "mode": "offline"}


@pytest.fixture
def config(tmp_path: Path) -> TrainerConfig:
    """Of a run without Weights & Biases."""
    folder = tmp_path / "run"
    folder.mkdir()
    return settings(run=folder)


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainerConfig:
    """Of a run that logs to Weights & Biases, whose package leaves its other files in the test's folder, too."""
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder = tmp_path / "run"
    folder.mkdir()
    return settings(run=folder, wandb=OFFLINE)


def write(config: TrainerConfig, update: int, *values: float, steps: int = 32) -> None:
    """Opens the sinks of a run that has made `update` updates, and makes one for each value of a metric `losses/a`."""
    with open_sinks(config, update, steps * update) as sinks:
        for number, value in enumerate(values, update):
            for sink in sinks:
                sink.write(number, steps * (number + 1), {"losses/a": value})


def lines(config: TrainerConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.run / "metrics.jsonl").read_text().splitlines()]


def board(config: TrainerConfig) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(config.run / "tensorboard")).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_each_update_is_a_line_and_a_point_on_the_board(config: TrainerConfig) -> None:
    with open_sinks(config, 0, 0) as sinks:
        for sink in sinks:
            sink.write(0, 32, {"losses/kl_k1": 0.125, "charts/SPS": 3.0})
            sink.write(1, 64, {"losses/kl_k1": 1 / 3})
    assert lines(config) == [
        {"update": 0, "env_steps": 32, "losses/kl_k1": 0.125, "charts/SPS": 3.0},
        {"update": 1, "env_steps": 64, "losses/kl_k1": 1 / 3},
    ]
    assert board(config) == {"losses/kl_k1": [(32, 0.125), (64, pytest.approx(1 / 3))], "charts/SPS": [(32, 3.0)]}


def test_a_line_is_there_as_soon_as_its_update_is_done(config: TrainerConfig) -> None:
    with open_sinks(config, 0, 0) as sinks:
        for sink in sinks:
            sink.write(0, 32, {"losses/a": 1.0})
        assert len(lines(config)) == len(board(config)["losses/a"]) == 1


@pytest.mark.parametrize("update", [0, 3, 5])
def test_a_resumed_run_cuts_off_what_it_will_write_again(config: TrainerConfig, update: int) -> None:
    write(config, 0, *map(float, range(5)))
    write(config, update, 100.0)
    expected = [*map(float, range(update)), 100.0]
    assert [line["update"] for line in lines(config)] == list(range(update + 1))
    assert [line["losses/a"] for line in lines(config)] == expected
    assert board(config)["losses/a"] == [(32 * (number + 1), value) for number, value in enumerate(expected)]
    assert [path.name for path in config.run.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("torn", ['{"update": 5, "env_st', "\0\0\0\0", "\n"])
def test_a_line_that_was_torn_by_a_crash_is_dropped(config: TrainerConfig, torn: str) -> None:
    write(config, 0, 1.0)
    with (config.run / "metrics.jsonl").open("a") as file:
        file.write(torn)
    write(config, 1, 2.0)
    assert [line["losses/a"] for line in lines(config)] == [1.0, 2.0]


def test_a_crash_while_lines_are_cut_off_costs_none(config: TrainerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    write(config, 0, 1.0, 2.0, 3.0)

    def crash(*_: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", crash)
        write(config, 1)
    assert [line["losses/a"] for line in lines(config)] == [1.0, 2.0, 3.0]
    write(config, 1, 4.0)
    assert [line["losses/a"] for line in lines(config)] == [1.0, 4.0]


def records(config: TrainerConfig) -> dict[str, list[Any]]:
    """What Weights & Biases has kept of a run, by folder, oldest first, as its own reader understands it."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    found = {}
    for path in sorted((config.run / "wandb").glob("offline-run-*/run-*.wandb")):
        store = DataStore()
        store.open_for_scan(str(path))
        found[path.parent.name] = [Record.FromString(data) for data in iter(store.scan_data, None)]
        store.close()
    return found


def history(found: list[Any]) -> list[dict[str, Any]]:
    rows = [one.history for one in found if one.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def test_weights_and_biases_keeps_a_run_offline(logged: TrainerConfig) -> None:
    write(logged, 0, 0.5, 1 / 3)
    ((name, found),) = records(logged).items()
    assert name.endswith((logged.run / "wandb" / "run_id").read_text())
    run = next(one.run for one in found if one.HasField("run"))
    assert (run.project, run.run_group, run.display_name) == ("tests", "seeds", "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update if item.key}
    assert config["policy"]["lr"] == logged.policy.lr
    assert "token" not in config
    rows = history(found)
    assert [(row["_step"], row["env_steps"], row["losses/a"]) for row in rows] == [(0, 32, 0.5), (1, 64, 1 / 3)]
    assert any(one.metric.glob_name == "*" and one.metric.step_metric == "env_steps" for one in found)
    assert [one.exit.exit_code for one in found if one.HasField("exit")] == [0]
    assert [line["losses/a"] for line in lines(logged)] == [0.5, 1 / 3]


def test_a_resumed_run_continues_its_run_in_weights_and_biases(logged: TrainerConfig) -> None:
    write(logged, 0, 1.0, 2.0)
    time.sleep(1.1)  # the package names its folders by the second
    with pytest.raises(ValueError, match="broken"), open_sinks(logged, 1, 32) as sinks:
        for sink in sinks:
            sink.write(1, 64, {"losses/a": 2.0})
        raise ValueError("broken")
    first, second = records(logged).values()
    ids = {one.run.run_id for one in (*first, *second) if one.HasField("run")}
    assert ids == {(logged.run / "wandb" / "run_id").read_text()}
    assert [row["_step"] for row in history(first)] == [0, 1]
    assert [row["_step"] for row in history(second)] == [1]
    assert [one.exit.exit_code for one in (*first, *second) if one.HasField("exit")] == [0, 1]


def test_a_run_that_cannot_be_opened_says_what_to_do(logged: TrainerConfig) -> None:
    online = settings(run=logged.run, wandb=OFFLINE | {"mode": "online"})
    with pytest.raises(SettingsError, match=r"wandb: .*wandb\.mode = offline"):
        write(online, 0)


def test_without_the_package_the_run_does_not_begin(logged: TrainerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'overworld-trainer\[wandb\]'"):
            train(logged)
    assert not any(logged.run.iterdir())


def test_a_run_that_does_not_ask_for_it_does_not_import_it(
    config: TrainerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    with open_sinks(config, 0, 0):
        assert "wandb" not in sys.modules
