"""Branches of recorded episodes, on a real env server; the models are scripted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from overworld import Fleet
from overworld.commands.branch import main
from overworld.errors import EvaluationError, SettingsError
from overworld.evaluation.baselines import ExpertAgent, RandomAgent
from overworld.evaluation.branching import Branching, Outlook, Point
from overworld.evaluation.conversation import Chat, Recipe
from overworld.evaluation.episodes import Episode, ObservationRecord, Turn
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.folder import EpisodeFolder
from overworld.evaluation.replay import Replay, replayed
from overworld.evaluation.verification import Status
from overworld.host.process import ServerProcess

from tests.integration.sdk.test_evaluate import Replies, Scripted, model_url, seeds  # noqa: F401 - a fixture
from tests.integration.sdk.test_verify import check, in_turn, keep, noisy, read, won, write

RECIPE = Recipe()


@pytest.fixture(scope="module")
def kept(toy_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep(toy_server, tmp_path_factory.mktemp("branched") / "eval")


@pytest.fixture(scope="module")
def branching(kept: Path, toy_server: ServerProcess) -> Iterator[Branching]:
    with Branching(EpisodeFolder(kept), [toy_server.address], 8, expert=True) as branching:
        yield branching


def failed(turn: Turn) -> bool:
    return turn.outcome == "failed"


def test_every_turn_of_every_episode_is_taken_up_and_goes_on_as_recorded(branching: Branching) -> None:
    episodes = list(branching.folder)
    replays = [
        Replay(number, episode, frames_comparable=True, start=turn)
        for number, episode in enumerate(episodes)
        for turn in range(len(episode.turns))
    ]
    done = list(replayed(branching.fleet, replays))
    assert len(done) == len(replays) > 80
    assert [one for one in done if one.mismatches or one.unrepeatable] == []
    assert any(episode.prefix for episode in episodes)


def test_a_point_becomes_live_slots(branching: Branching) -> None:
    number = won(read(branching.folder.path))
    point = branching.point(number, 2)
    results = branching.take_up([point] * 8)
    shown = [ObservationRecord.of(result.observation) for result in results]
    assert shown == [point.episode.turns[2].observation] * 8
    up, down = branching.fleet.step({0: "up", 5: "down"})
    assert up.metrics["count"] == down.metrics["count"] + 2


def test_an_agent_is_shown_the_history_that_it_would_have_had(branching: Branching) -> None:
    folder = branching.folder
    chat = Chat(opening="$task", turn="$text")
    for recipe in (Recipe(turns_left=True), Recipe(history=3), Recipe(history=2, chat=chat)):
        folder.header = folder.header.model_copy(update={"recipe": recipe})
        compared = 0
        for number, episode in enumerate(folder):
            for decision in folder.decisions(episode):
                point = Point(number, episode, decision.number)
                (result,) = branching.take_up([point])
                conversation = branching.conversation(point, recipe)
                conversation.observe(result)
                messages = conversation.messages()
                assert [one["role"] for one in messages] == [one["role"] for one in decision.messages]
                shown = [part for message in messages for part in message["content"]]
                expected = [part for message in decision.messages for part in message["content"]]
                for part, other in zip(shown, expected, strict=True):
                    if part["type"] == "text":
                        assert part == other
                    else:
                        np.testing.assert_array_equal(part["image"].pixels, other["image"].pixels)
                compared += 1
        assert compared > 80


def test_an_agent_plays_on_as_often_as_it_is_told_with_other_noise_each_time(
    branching: Branching, toy_server: ServerProcess, tmp_path: Path
) -> None:
    number = next(number for number, one in enumerate(branching.folder) if one.end == "RULE")
    points = [branching.point(number, turn) for turn in (0, 1)]
    outlooks = branching.play(Scripted(noisy), points, times=12, recipe=RECIPE, keep=tmp_path / "branches")
    recorded = {turn.sampling_seed for turn in branching.folder.episode(number).turns}
    for outlook, point in zip(outlooks, points, strict=True):
        assert len(outlook.episodes) == 12
        seeds = [turn.sampling_seed for episode in outlook.episodes for turn in episode.turns]
        assert len(set(seeds) - recorded) == len(seeds), "no reply shares its noise with another, or with the record"
        assert {episode.prefix for episode in outlook.episodes} == {
            tuple(turn.action for turn in point.episode.turns[: point.turn])
        }
        assert outlook.success.high > outlook.success.value
    assert check(tmp_path / "branches", toy_server).status == Status.VERIFIED


def test_baselines_play_on(branching: Branching) -> None:
    number = next(number for number, one in enumerate(branching.folder) if one.end == "RULE")
    point = branching.point(number, 1)
    (expert,) = branching.play(ExpertAgent(branching.folder.spec), [point], times=1, recipe=RECIPE)
    assert (expert.success.value, {turn.actor for turn in expert.episodes[0].turns}) == (1.0, {"expert"})


@pytest.fixture(scope="module")
def listed(toy_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation in an env that lists its actions, none of which hangs."""
    folder = tmp_path_factory.mktemp("listed") / "eval"
    with Fleet([toy_server.address], "toy/Commands", 2, options={"max_turns": 6}) as fleet:
        evaluate(RandomAgent(fleet.spec), fleet, seeds(3, 4), recipe=RECIPE, keep=folder)
    return folder


def test_chance_plays_on(listed: Path, toy_server: ServerProcess) -> None:
    with Branching(EpisodeFolder(listed), [toy_server.address], 4) as branching:
        point = branching.point(1, 2)
        (outlook,) = branching.play(RandomAgent(branching.folder.spec), [point], times=5, recipe=RECIPE)
    assert len({tuple(turn.action for turn in one.turns) for one in outlook.episodes}) > 1
    assert {len(one.prefix) + len(one.turns) for one in outlook.episodes} == {6}


def other_frame(turn: dict[str, Any]) -> None:
    turn["observation"]["parts"][0]["xxh64"] = "0" * 16


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "reward": lambda turn: turn.update(reward=turn["reward"] + 2**-40),
    "observation.parts.0": other_frame,
    "observation.parts.1": lambda turn: turn["observation"]["parts"].__setitem__(1, "count 9"),
    "executed": lambda turn: turn.update(executed="private"),
    "outcome": lambda turn: turn.update(outcome="no_action"),
    "not_admissible": lambda turn: turn.update(action=4_000_000_000),
}


@pytest.mark.parametrize("field", CHANGES)
def test_what_differs_from_the_record_is_told_by_turn_and_not_played(
    branching: Branching, toy_server: ServerProcess, field: str, tmp_path: Path
) -> None:
    """Turn 1 of the record is changed, and turn 2 branched."""
    copy = tmp_path / "eval"
    copy.mkdir()
    for file in branching.folder.path.iterdir():
        (copy / file.name).symlink_to(file)
    (copy / "episodes.jsonl").unlink()
    write(copy, read(branching.folder.path))
    number = in_turn(CHANGES[field])(copy)
    with Branching(EpisodeFolder(copy), [toy_server.address], 2) as changed:
        with pytest.raises(EvaluationError, match=rf"turn 2 of episode {number} .* turn 1 is not .*{field}"):
            changed.point(number, 2)
        point = Point(number, changed.folder.episode(number), 1)
        if field.startswith("observation"):
            with pytest.raises(EvaluationError, match=rf"turn 1 is not .*{field}"):
                changed.take_up([point])
            with pytest.raises(EvaluationError, match=rf"turn 1 is not .*{field}"):
                changed.play(Scripted(noisy), [point], times=2, recipe=RECIPE)
        else:
            changed.take_up([point])  # nothing that led there was changed


def test_a_turn_that_was_not_decided_is_refused(branching: Branching) -> None:
    episodes = list(branching.folder)
    with pytest.raises(EvaluationError, match=f"no episode {len(episodes)}: name one of 0 to {len(episodes) - 1}"):
        branching.point(len(episodes), 0)
    last = len(episodes[0].turns)
    with pytest.raises(EvaluationError, match=f"episode 0 has no decision in turn {last}: .* 0 to {last - 1}"):
        branching.point(0, last)
    number = next(number for number, one in enumerate(episodes) if one.error)
    turns = episodes[number].turns
    assert failed(turns[-1])
    assert branching.point(number, len(turns) - 1).turn == len(turns) - 1, "before it failed, it had not failed"


def test_a_value_is_the_mean_discounted_return_from_the_point() -> None:
    def episode(*rewards: float) -> Episode:
        turns = tuple(Turn(observation=ObservationRecord(), outcome="executed", reward=reward) for reward in rewards)
        return Episode(seed=1, turns=turns, final=ObservationRecord(), end="TASK", success=rewards[-1] > 0)

    outlook = Outlook([episode(0.0, 0.0, 1.0), episode(-1.0, 1.0), episode(-1.0)])
    assert outlook.value(0.5).value == pytest.approx((0.25 - 0.5 - 1.0) / 3)
    value = outlook.value()
    assert value.low < value.value < value.high
    assert value.value == pytest.approx((1.0 + 0.0 - 1.0) / 3)
    assert outlook.success.value == pytest.approx(2 / 3)


def test_the_command(
    kept: Path, listed: Path, toy_server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, number = tmp_path / "branch.json", won(read(kept))
    arguments = [f"servers={toy_server.address}", "turn=1", "--json", str(written), f"keep={tmp_path / 'kept'}"]
    assert main([str(listed), "episode=0", *arguments, "--model", "random", "times=4"]) == 0
    assert json.loads(written.read_text())["agents"]["random"]["times"] == 4
    assert main([str(kept), f"episode={number}", *arguments, "model=expert"]) == 0
    printed = capsys.readouterr().out
    assert f"from turn 1 of episode {number}" in printed
    assert "is as recorded" in printed
    figures = json.loads(written.read_text())
    assert figures["agents"]["expert"]["times"] == 1
    assert figures["recorded"]["success"]["value"] == figures["agents"]["expert"]["success"]["value"] == 1.0
    for folder in ("toy-Commands/random", "toy-Count/expert"):
        assert check(tmp_path / "kept" / folder, toy_server).status == Status.VERIFIED
    with pytest.raises(SettingsError, match="temperature 0"):
        main([str(kept), f"episode={number}", *arguments, "model=mine", "temperature=0"])


def test_models_play_on_and_are_named_as_at_the_start(
    kept: Path,
    toy_server: ServerProcess,
    model_url: str,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    Replies.updates[:] = [3, 20]
    written, number = tmp_path / "branch.json", next(n for n, one in enumerate(read(kept)) if one.get("end") == "RULE")
    arguments = [str(kept), f"episode={number}", "turn=1", f"servers={toy_server.address}", "times=3"]
    assert main([*arguments, f"url={model_url}", "model=mine@latest,mine@3,silent", "--json", str(written)]) == 0
    agents = json.loads(written.read_text())["agents"]
    assert [(name, one["success"]["value"]) for name, one in agents.items()] == [
        ("mine@20", 1.0), ("mine@3", 0.0), ("silent", 0.0),
    ]  # fmt: skip
    assert agents["silent"]["invalid_replies"] == 1.0
    assert agents["mine@3"]["ends"] == {"RULE": 3}
