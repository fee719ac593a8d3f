"""Tables of training's episodes: what is in them, that they can be read, replayed and made again."""

import functools
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from overworld import Fallback, Session
from overworld.evaluation import folder as folder_module
from overworld.evaluation.episodes import Episode
from overworld.evaluation.folder import EpisodeFolder, decisions
from overworld.host.process import ServerProcess
from overworld_trainer import tables
from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import Episodes
from overworld_trainer.rollout import Collector
from overworld_trainer.seeds import episode_seed
from overworld_trainer.tables import Tables
from overworld_trainer.train import train
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from overworld_vlm.writer import Request

from tests.support.scripted_model import numbers, run_settings

LONG = {"id": "puppet/Puppet", "slots": 4, "options": {"script": ["go", "go", "go", "go", "win"]}}
LOST = {"id": "puppet/Puppet", "slots": 4, "options": {"script": ["go", "go", "fly"], "max_turns": 5}}
SHORT = {"id": "puppet/Puppet", "slots": 4, "options": {"script": ["go", "raise"]}, "fallback_reward": -0.5}


class Listening(Engine):
    """An engine that remembers what it was asked."""

    def __init__(self, vlm: VLM) -> None:
        super().__init__(vlm)
        self.asked: dict[tuple[int, ...], Request] = {}

    def add(self, request: Request) -> None:
        self.asked[request.key] = request
        super().add(request)


def play(config: TrainerConfig, vlm: VLM, rollouts: int, steps: int = 3) -> Listening:
    writer = Listening(vlm)
    with Episodes.open(config, functools.partial(episode_seed, config.seed)) as episodes:
        recorded = Tables(config, episodes, 0)
        collector = Collector(config, vlm, writer, episodes, on_step=recorded.take)
        for _ in range(rollouts):
            collector.collect(steps)
            recorded.write()
    return writer


def settings(server: ServerProcess, folder: Path, *envs: dict[str, Any], **table: int) -> TrainerConfig:
    return run_settings(server, folder, "unused", envs=list(envs), temperature=0.1, table={"every": 2} | table)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_table_holds_whole_episodes_as_they_were_played(server: ServerProcess, obedient: VLM, tmp_path: Path) -> None:
    config = settings(server, tmp_path / "mine", LOST, episodes=3)
    writer = play(config, obedient, 4)
    assert sorted(path.name for path in (tmp_path / "mine" / "episodes").iterdir()) == [
        "update-000002",
        "update-000004",
    ]
    folder = EpisodeFolder(tmp_path / "mine" / "episodes" / "update-000002")
    header = folder.header
    assert (header.options["script"], header.fallback, header.fallback_reward) == (["go", "go", "fly"], "SKIP", -4.4)
    assert (header.recipe, header.model and header.model.name) == (config.recipe, "mine@1")
    episodes = list(folder)
    assert [len(episode.turns) for episode in episodes] == [5, 5, 5], "three of the four that ended"
    names = {episode_seed(config.seed, 0, slot, 0): slot for slot in range(4)}
    for episode in episodes:
        assert (episode.end, episode.success, episode.total_reward) == ("TIME_LIMIT", False, 1.125 + 1.25 - 3 * 4.4)
        assert [turn.outcome for turn in episode.turns] == ["executed"] * 2 + ["not_admissible"] * 3
        assert [turn.action for turn in episode.turns] == ["go", "go", "fly", "fly", "fly"]
        assert [turn.executed for turn in episode.turns] == ["go", "go", None, None, None]
        assert [turn.thoughts for turn in episode.turns] == ["I shall go."] * 2 + ["I shall fly."] * 3
        assert [turn.fingerprint for turn in episode.turns] == ["mine@0"] * 3 + ["mine@1"] * 2, "it took two rollouts"
        assert all(turn.reply for turn in episode.turns)
    for decision in decisions(folder):
        slot = names[decision.episode.seed]
        asked = writer.asked[config.seed, 0, slot, 0, decision.number].messages
        assert texts(decision.messages) == texts(asked)
        assert all(map(np.array_equal, pictures(decision.messages), pictures(asked)))
    for episode in episodes:
        same_when_replayed(server, folder, episode)


def texts(messages: Any) -> list[str]:
    return [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]


def pictures(messages: Any) -> list[Any]:
    images = [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
    return [getattr(image, "pixels", image) for image in images]


def same_when_replayed(server: ServerProcess, folder: EpisodeFolder, episode: Episode) -> None:
    header = folder.header
    with Session(
        server.address, header.env["id"], 1, options=header.options,
        fallback=Fallback[header.fallback], fallback_reward=header.fallback_reward,
    ) as session:  # fmt: skip
        (result,) = session.step({0: episode.reset_at(0)})
        for turn in episode.turns:
            assert [image.xxh64 for image in turn.observation.images] == [
                f"{image.xxh64:016x}" for image in result.observation.images
            ]
            for image, record in zip(result.observation.images, turn.observation.images, strict=True):
                assert np.array_equal(image.pixels, folder.pixels(record))
            assert isinstance(turn.action, str | None)
            (result,) = session.step({0: turn.action})
            assert turn.outcome == "failed" or turn.reward == result.reward


def test_which_episodes_are_chosen_is_a_fair_lot_and_the_same_each_time(
    server: ServerProcess, obedient: VLM, tmp_path: Path
) -> None:
    for name in ("one", "same"):
        play(settings(server, tmp_path / name / "run", LONG, SHORT, episodes=3, every=1), obedient, 6)
    assert contents(tmp_path / "one") == contents(tmp_path / "same")
    slots = set()
    for update in range(1, 7):
        folder = EpisodeFolder(tmp_path / "one" / "run" / "episodes" / f"update-{update:06}" / "1-puppet-Puppet")
        assert folder.header.fallback_reward == -0.5
        episodes = list(folder)
        assert len(episodes) == 3, "each slot ends one or two in three steps"
        assert all(episode.error.startswith("ENV_ERROR") for episode in episodes)
        slots |= {episode.seed for episode in episodes}
    assert len(slots) == 18, "no episode is in two tables"
    other = EpisodeFolder(tmp_path / "one" / "run" / "episodes" / "update-000001" / "0-puppet-Puppet")
    assert other.count() == 0, "none of the long ones had ended"


def test_a_run_writes_tables_and_learns_the_same_without(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    for every in (0, 2):
        config = run_settings(server, tmp_path / f"{every}" / "run", obedient_folder, updates=4, table={"every": every})
        train(config)
    assert numbers(tmp_path / "0" / "run") == numbers(tmp_path / "2" / "run")
    assert not (tmp_path / "0" / "run" / "episodes").exists()
    before = contents(tmp_path / "2" / "run" / "episodes")
    assert any("frames" in name for name in before)
    assert {name.split("/")[0] for name in before} == {"update-000002", "update-000004"}


def test_a_resumed_run_records_only_episodes_of_which_it_knows_all(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    fields = {"envs": [LONG], "temperature": 0.1, "table": {"every": 1, "episodes": 9}}
    train(run_settings(server, tmp_path / "run", obedient_folder, updates=2, **fields))
    train(run_settings(server, tmp_path / "other" / "run", obedient_folder, updates=6, **fields))
    train(run_settings(server, tmp_path / "run", obedient_folder, updates=6, **fields))
    places = {episode_seed(0, 0, slot, episode): (slot, episode) for slot in range(4) for episode in range(4)}
    found = []
    for update in range(3, 7):
        folder, other = (
            EpisodeFolder(run / "episodes" / f"update-{update:06}")
            for run in (tmp_path / "run", tmp_path / "other" / "run")
        )
        episodes = list(folder)
        assert all(episode in list(other) for episode in episodes)
        found += [places[episode.seed] for episode in episodes]
    assert sorted(found) == [(slot, 2) for slot in range(4)], "those with the number 1 were open at the restart"


def test_fewer_slots_are_watched_when_pictures_take_too_much_memory(
    server: ServerProcess,
    obedient: VLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tables, "_MAX_BYTES", 3 * 5 * 28 * 28 * 3)  # five pictures of each of three slots
    config = settings(server, tmp_path / "run", LONG | {"slots": 8}, episodes=9, every=1)
    play(config, obedient, 6)
    watched = [int(number) for number in re.findall(r"only (\d) slots are watched", caplog.text)]
    assert watched == sorted(watched, reverse=True)
    assert 3 <= watched[-1] < 8
    last = EpisodeFolder(tmp_path / "run" / "episodes" / "update-000005")
    assert last.count() == watched[-1]
    assert {len(episode.turns) for episode in last} == {5}


def test_what_the_format_cannot_hold_is_missing_and_training_continues(
    server: ServerProcess,
    obedient: VLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(folder_module, "_MAX_LINE_BYTES", 1200)  # between an episode of two turns and one of five
    play(settings(server, tmp_path / "run", LONG, SHORT, every=1), obedient, 4)
    tables = tmp_path / "run" / "episodes"
    assert [EpisodeFolder(tables / f"update-{n:06}" / "0-puppet-Puppet").count() for n in range(1, 5)] == [0] * 4
    assert [EpisodeFolder(tables / f"update-{n:06}" / "1-puppet-Puppet").count() for n in range(1, 5)] == [4] * 4
    assert caplog.text.count("lack what their format cannot hold") == 1
    assert "the bound is 1,200" in caplog.text


def test_recording_costs_next_to_nothing(server: ServerProcess, clueless: VLM, tmp_path: Path) -> None:
    config = settings(server, tmp_path / "run", {"id": "gym_cards/NumberLine", "slots": 8}, every=100)
    spent = 0.0
    with Episodes.open(config, functools.partial(episode_seed, config.seed)) as episodes:
        recorded = Tables(config, episodes, 0)

        def take(*step: Any) -> None:
            nonlocal spent
            started = time.perf_counter()
            recorded.take(*step)
            spent += time.perf_counter() - started

        started = time.perf_counter()
        Collector(config, clueless, Engine(clueless), episodes, on_step=take).collect(20)
        whole = time.perf_counter() - started
    assert spent < 0.1 * whole, f"{spent / 160 * 1e6:.0f} us a step"
