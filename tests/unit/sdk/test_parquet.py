"""Episodes as a Parquet table, read back by pyarrow."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest
from overworld import Image, Observation
from overworld.errors import EvaluationError
from overworld.evaluation import parquet
from overworld.evaluation.episodes import Episode, ObservationRecord, Turn, action_record
from overworld.evaluation.folder import EpisodeFolder, EpisodeWriter
from overworld.evaluation.parquet import export_parquet

from tests.unit.sdk.test_episodes import GREY, HEADER, PICTURE, episode, turn


@pytest.fixture
def folder(tmp_path: Path) -> EpisodeFolder:
    """An episode of everything, one that broke off at once, one that replayed a prefix."""
    observation = Observation(("look: é", Image("view", PICTURE), Image("map", GREY), "then"), ("up", "down"))
    record = ObservationRecord.of(observation)
    acted = {"action": "up", "executed": 3, "reply": "up!", "thoughts": "hm", "metrics": {"b": 0.1, "a": 2.0}}
    sampled = {"tokens": (1, 2), "logprobs": (-0.5, -0.25), "value": 0.75, "sampling_seed": 2**53 - 1, "cut": True}
    first = turn(observation=record, reward=0.1, fingerprint="weights", **acted, **sampled)
    white = ObservationRecord.of(Observation((Image("white", np.full((4, 4, 3), 255, np.uint8)),)))
    second = turn(observation=record, shown=white.parts, action=action_record(np.ones(2, np.float32)), reward=0.2)
    whole = episode(first, second, seed=2**64 - 1, split="four", task=3, final=record)
    broken = Episode(seed=5, turns=(), error="ENV_ERROR: boom")
    resumed = episode(turn(action=2, outcome="no_action"), prefix=("up", "up"))
    with EpisodeWriter(tmp_path / "kept", HEADER) as writer:
        writer.keep(observation.images, record.images)
        writer.keep([Image("white", np.full((4, 4, 3), 255, np.uint8))], white.images)
        for one in (whole, broken, resumed):
            writer.append(one)
    return EpisodeFolder(tmp_path / "kept")


@pytest.mark.parametrize("rows", [1, 2, 256])
def test_every_observation_is_a_row(
    folder: EpisodeFolder, tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROWS", rows)
    assert export_parquet(folder, tmp_path / "episodes.parquet") == 6
    table = pyarrow.parquet.read_table(tmp_path / "episodes.parquet")
    assert json.loads(table.schema.metadata[b"overworld"]) == json.loads((folder.path / "header.json").read_bytes())
    first, second, last, broken, resumed, end = table.to_pylist()
    assert [(row["episode"], row["turn"]) for row in table.to_pylist()] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (2, 2),
        (2, 3),
    ]
    assert first["text"] == "look: é\nthen"
    assert first["admissible"] == ["up", "down"]
    assert (first["seed"], first["split"], first["task"], first["sample"]) == (2**64 - 1, "four", 3, 0)
    assert (first["reply"], first["thoughts"], first["action"], first["executed"]) == ("up!", "hm", "up", "3")
    assert (first["reward"], first["outcome"], first["metrics"]) == (0.1, "executed", [("a", 2.0), ("b", 0.1)])
    assert (first["tokens"], first["logprobs"], first["value"]) == ([1, 2], [-0.5, -0.25], 0.75)
    assert (first["sampling_seed"], first["cut"], first["fingerprint"]) == (2**53 - 1, True, "weights")
    assert (first["end"], first["success"], first["error"], first["total_reward"]) == ("TASK", True, "", 0.1 + 0.2)
    assert [pixels(image).tolist() for image in first["images"]] == [PICTURE.tolist(), GREY[:, :, 0].tolist()]
    (white,) = second["images"]
    assert np.unique(pixels(white)).tolist() == [255], "a row holds what the agent was shown"
    assert white["path"] in {path.name for path in (folder.path / "frames").iterdir()}
    assert json.loads(second["action"])["shape"] == [2]
    assert (last["reply"], last["reward"], last["outcome"], len(last["images"])) == (None, None, None, 2)
    assert (broken["error"], broken["end"], broken["images"], broken["text"]) == ("ENV_ERROR: boom", None, [], "")
    assert (resumed["action"], resumed["outcome"], end["reward"]) == ("2", "no_action", None)


def pixels(image: dict[str, bytes]) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(image["bytes"])))


def test_every_figure_of_a_turn_has_a_column() -> None:
    names = set(parquet._SCHEMA.names)
    assert set(Turn.model_fields) - {"observation", "shown"} <= names
    assert set(Episode.model_fields) - {"turns", "final", "prefix"} <= names


def test_a_damaged_folder_leaves_no_file(folder: EpisodeFolder, tmp_path: Path) -> None:
    frame = next((folder.path / "frames").iterdir())
    frame.write_bytes(b"nothing")
    with pytest.raises(EvaluationError, match=frame.name):
        export_parquet(folder, tmp_path / "episodes.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_file_is_not_overwritten(folder: EpisodeFolder, tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_text("mine")
    with pytest.raises(EvaluationError, match="exists already"):
        export_parquet(folder, tmp_path / "mine.parquet")
    assert (tmp_path / "mine.parquet").read_text() == "mine"


def test_the_same_folder_gives_the_same_bytes(folder: EpisodeFolder, tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        export_parquet(folder, tmp_path / name)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_the_specification_names_every_column() -> None:
    specification = (Path(__file__).parents[3] / "docs" / "episodes.md").read_text().partition("## As a table")[2]
    assert [name for name in parquet._SCHEMA.names if f"`{name}`" not in specification] == []
