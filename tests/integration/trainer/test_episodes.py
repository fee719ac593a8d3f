"""Episodes played without any model: what comes of a move, and where players continue after a restart."""

import functools
import json
import threading
from collections.abc import Sequence

import pytest
from overworld import Act, End, Outcome
from overworld.host.process import ServerProcess
from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import EnvError, Episodes, Played, Player, PlayerState
from overworld_trainer.seeds import episode_seed

from tests.support.scripted_env import CHOICE
from tests.support.scripted_model import run_settings


def settings(server: ServerProcess, *envs: dict[str, object], **changes: object) -> TrainerConfig:
    return run_settings(server, "unused", "", envs=list(envs), clone={"updates": 1}, **changes)


def puppet(slots: int = 2, **options: object) -> dict[str, object]:
    return {"id": "puppet/Puppet", "slots": slots, "options": options}


def opened(config: TrainerConfig, state: Sequence[PlayerState] | None = None, *, expert: bool = False) -> Episodes:
    return Episodes.open(config, functools.partial(episode_seed, config.seed), state, expert=expert)


def play(episodes: Episodes, word: str | None) -> list[Played]:
    """One move of every player."""
    episodes.send({player: Act(word) for player in episodes.players})
    played = episodes.receive_all()
    return [played[player] for player in episodes.players]


def text(player: Player) -> str:
    return str(player.messages()[-1]["content"][-1]["text"])


def test_a_move_has_a_result_and_the_player_sees_the_next_prompt(server: ServerProcess) -> None:
    with opened(settings(server, puppet(script=["go", "win"]))) as episodes:
        assert ["Do: go" in text(player) for player in episodes.players] == [True, True]
        played = play(episodes, "go")
        assert [(one.turn, one.result.reward, one.result.outcome) for one in played] == [
            (0, 1.125, Outcome.EXECUTED)
        ] * 2
        assert [(one.final, one.statistics) for one in played] == [(None, None)] * 2
        assert ["Do: win" in text(player) for player in episodes.players] == [True, True]
        assert [(player.turn, player.episode, player.reward) for player in episodes.players] == [(1, 0, 1.125)] * 2
        assert repr(episodes.players[1]) == "Player(puppet/Puppet, slot 1: episode 0, turn 1, reward 1.125)"


def test_without_sight_every_prompt_shows_white_pictures(server: ServerProcess) -> None:
    number_line = {"id": "gym_cards/NumberLine", "slots": 2, "options": {"size": 56}}

    def darkest(**changes: object) -> list[int]:
        with opened(settings(server, number_line, **changes)) as episodes:
            shown = [player.messages()[-1]["content"][0]["image"].pixels.min() for player in episodes.players]
            play(episodes, "+")
            return shown + [player.messages()[-1]["content"][0]["image"].pixels.min() for player in episodes.players]

    assert darkest(blank_frames=True) == [255] * 4
    assert max(darkest()) < 255


def test_an_episode_that_ends_leaves_its_statistics_and_the_next_has_begun(server: ServerProcess) -> None:
    with opened(settings(server, puppet(script=["go", "win"]))) as episodes:
        play(episodes, "go")
        ended = [one.statistics for one in play(episodes, "win")]
        assert [(one.env, one.reward, one.length, one.success, one.end) for one in ended if one] == [
            (0, 3.125, 2, True, End.TASK)
        ] * 2
        assert [(player.turn, player.episode, player.actions) for player in episodes.players] == [(0, 1, [])] * 2
        assert ["Do: go" in text(player) for player in episodes.players] == [True, True]


def test_a_time_limit_leaves_the_prompt_with_the_final_observation(server: ServerProcess) -> None:
    with opened(settings(server, puppet(script=["go", "fly", "mumble"], max_turns=2))) as episodes:
        play(episodes, "go")
        for one in play(episodes, "go"):
            assert one.result.end is End.TIME_LIMIT
            assert one.final is not None
            assert "Do: mumble" in one.final[-1]["content"][-1]["text"]
        assert ["Do: go" in text(player) for player in episodes.players] == [True, True]


def test_players_may_move_alone_and_while_others_wait(server: ServerProcess) -> None:
    with opened(settings(server, puppet(), puppet(script=["fly"]))) as episodes:
        first, second, third, _ = episodes.players
        assert episodes.receive(wait=True) == {}
        episodes.send({first: Act("go"), third: Act("win")})
        episodes.send({second: Act("go")})
        played: dict[Player, Played] = {}
        while len(played) < 3:
            arrived = episodes.receive(wait=True)
            assert arrived
            played |= arrived
        assert {player: what.result.reward for player, what in played.items()} == {
            first: 1.125,
            second: 1.125,
            third: 2.0,
        }
        assert episodes.receive(wait=False) == episodes.receive_all() == {}
        assert [player.turn for player in episodes.players] == [1, 1, 0, 0]
        assert [player.episode for player in episodes.players] == [0, 0, 1, 0]
        assert repr(episodes) == "Episodes(4 of puppet/Puppet)"


def test_players_continue_where_their_state_says(server: ServerProcess) -> None:
    config = settings(server, puppet(script=["go", "fly", "win"]))
    with opened(config) as episodes:
        play(episodes, "win")
        play(episodes, "go")
        play(episodes, None)
        state = json.loads(json.dumps(episodes.state()))
        assert state == [{"episode": 1, "actions": ["go", None], "reward": 1.125 - 4.4}] * 2
        expected = [(text(player), player.turn) for player in episodes.players]
        after = [one.result.observation.images[0].xxh64 for one in play(episodes, "go")]
        assert episodes.state() != state
    with opened(config, state) as episodes:
        assert episodes.state() == state
        assert [(text(player), player.turn) for player in episodes.players] == expected
        assert [one.result.observation.images[0].xxh64 for one in play(episodes, "go")] == after


def test_experts_advise_only_if_asked(server: ServerProcess) -> None:
    config = settings(server, puppet(script=["win"]))
    with opened(config, expert=True) as episodes:
        assert [player.result.expert.action for player in episodes.players if player.result.expert] == ["win"] * 2
    with opened(config) as episodes:
        assert [player.result.expert for player in episodes.players] == [None] * 2


def test_slots_are_given_back_when_they_cannot_be_used() -> None:
    """Else each failed start would leave fewer of them, until the server's sessions time out."""
    with ServerProcess(CHOICE, arguments=("--workers", "1", "--slots", "4")) as server:
        config = settings(server, {"id": "puppet/Choice", "slots": 3}, retry_budget=5.0)
        before = threading.active_count()
        for _ in range(3):
            with pytest.raises(EnvError, match="knows 1 slots, the settings ask for 3: give each env as many"):
                opened(config, [{"episode": 0, "actions": [], "reward": 0.0}])
        with opened(config) as episodes:
            assert len(episodes.players) == 3
        assert threading.active_count() <= before + 2
