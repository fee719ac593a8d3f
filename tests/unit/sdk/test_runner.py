from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from overworld import ContractError, End, Fallback, Outcome, Reason, Result, Runner
from overworld.authoring.env import Action
from pydantic import ValidationError

from tests.support.optional import present
from tests.support.toy_env import Commands, Reach, Search, Toy, ToyOptions


def toy(**arguments: Any) -> Runner:
    return Runner(Toy(ToyOptions(**arguments.pop("options", {}))), **arguments)


def pixels(result: Result) -> NDArray[np.uint8]:
    return result.observation.images[0].pixels.copy()


def test_an_episode() -> None:
    runner = toy()
    assert runner.reset(seed=1).turn == 0
    results = [runner.step("up") for _ in range(3)]
    assert [result.turn for result in results] == [1, 2, 3]
    assert [result.end for result in results] == [None, None, End.TASK]
    assert [result.success for result in results] == [None, None, True]
    assert results[2].terminated
    assert not results[2].truncated
    assert results[2].metrics == {"count": 3.0}


def test_a_rule_of_the_env_truncates() -> None:
    runner = toy()
    runner.reset()
    result = [runner.step("down") for _ in range(3)][-1]
    assert (result.end, result.success, result.truncated) == (End.RULE, False, True)


def test_the_hosts_limit_is_a_time_limit() -> None:
    runner = toy(options={"max_turns": 2})
    runner.reset()
    assert runner.step("up").end is None
    result = runner.step("down")
    assert (result.end, result.success, result.truncated) == (End.TIME_LIMIT, False, True)


def test_an_end_of_the_task_at_the_limit_is_the_tasks() -> None:
    runner = toy(options={"max_turns": 3})
    runner.reset()
    assert [runner.step("up") for _ in range(3)][-1].end is End.TASK


def test_a_skipped_turn_counts_and_leaves_the_simulator_alone() -> None:
    runner = toy(fallback_reward=-0.5, options={"max_turns": 3})
    before = runner.reset(seed=5)
    for action, outcome in ((None, Outcome.NO_ACTION), ("fly", Outcome.NOT_ADMISSIBLE)):
        result = runner.step(action)
        assert (result.outcome, result.executed, result.reward) == (outcome, None, -0.5)
        assert result.observation is before.observation
    assert runner.step(99).end is End.TIME_LIMIT


def test_a_random_fallback_depends_on_seed_and_turn_only() -> None:
    drawn = []
    for _ in range(2):
        runner = Runner(Commands(), fallback=Fallback.RANDOM)
        admissible = [runner.reset(seed=11).observation.admissible]
        results = [runner.step(None) for _ in range(20)]
        admissible += [result.observation.admissible for result in results]
        drawn.append([result.executed for result in results])
    assert drawn[0] == drawn[1]
    assert all(executed in listed for executed, listed in zip(drawn[0], admissible, strict=False))
    assert len({str(executed).endswith("0") for executed in drawn[0]}) == 2


def test_a_random_fallback_needs_a_list_to_draw_from() -> None:
    with pytest.raises(ContractError, match="toy/Search"):
        Runner(Search(), fallback=Fallback.RANDOM)


@pytest.mark.parametrize("action", ["up", " UP ", 0, np.int64(0)])
def test_ways_to_name_an_action(action: Action) -> None:
    runner = toy()
    runner.reset()
    assert runner.step(action).executed == "up"


@pytest.mark.parametrize("action", ["u", "upp", "", -1, 8, np.zeros(2)])
def test_inadmissible_actions(action: Action) -> None:
    runner = toy()
    runner.reset()
    assert runner.step(action).outcome is Outcome.NOT_ADMISSIBLE


def test_commands_are_compared_whole() -> None:
    runner = Runner(Commands())
    runner.reset()
    runner.step("go to shelf 00")
    assert runner.step("go to shelf 1").executed == "go to shelf 1"
    assert runner.step("go to shelf").outcome is Outcome.NOT_ADMISSIBLE


def test_free_text_is_taken_as_it_is() -> None:
    runner = Runner(Search())
    runner.reset()
    assert runner.step("search[Red Shoes]").executed == "search[Red Shoes]"
    assert runner.step("  ").outcome is Outcome.NOT_ADMISSIBLE


def test_tensors_within_their_bounds() -> None:
    runner = Runner(Reach())
    runner.reset()
    assert runner.step(np.array([0.5, 0.25], np.float32)).reward == 0.75
    for wrong in (
        np.array([2, 0], np.float32),
        np.zeros(2),
        np.zeros(3, np.float32),
        np.array([np.nan, 0], np.float32),
        "a",
    ):
        assert runner.step(wrong).outcome is Outcome.NOT_ADMISSIBLE


def test_a_prefix_leads_to_the_middle_of_the_same_episode() -> None:
    first, second = toy(), toy()
    first.reset(seed=3)
    actions = ["up", None, "down", "nonsense", "up"]
    results = [first.step(action) for action in actions]
    replayed = second.reset(seed=3, prefix=actions)
    assert replayed.turn == 5
    assert (replayed.reward, replayed.outcome) == (results[-1].reward, results[-1].outcome)
    assert np.array_equal(pixels(replayed), pixels(results[-1]))
    assert np.array_equal(pixels(second.step("up")), pixels(first.step("up")))


def test_a_prefix_beyond_the_end_is_refused() -> None:
    with pytest.raises(ContractError, match="ended at turn 3") as caught:
        toy().reset(prefix=["up"] * 4)
    assert caught.value.reason is Reason.PREFIX_TOO_LONG


def test_splits_and_tasks() -> None:
    runner = toy()
    by_task = [pixels(runner.reset(seed=7, split="four", task=task)) for task in range(4)]
    assert np.array_equal(pixels(runner.reset(seed=7, split="four")), by_task[7 % 4])
    for arguments, reason in (
        ({"split": "none"}, Reason.SPLIT_UNKNOWN),
        ({"split": "four", "task": 4}, Reason.TASK_UNKNOWN),
        ({"task": 1}, Reason.TASK_UNKNOWN),
    ):
        with pytest.raises(ContractError) as caught:
            runner.reset(**arguments)
        assert caught.value.reason is reason


def test_acting_without_an_episode_is_refused() -> None:
    runner = toy()
    with pytest.raises(ContractError, match="reset"):
        runner.step("up")
    runner.reset()
    for _ in range(3):
        runner.step("up")
    with pytest.raises(ContractError, match="ended"):
        runner.step("up")


def test_an_expert_speaks_only_when_asked_and_never_after_the_end() -> None:
    assert toy().reset().expert is None
    runner = toy(expert=True)
    assert present(runner.reset().expert).action == "up"
    assert [runner.step("up").expert is None for _ in range(3)] == [False, False, True]


def test_make_takes_installed_envs_by_id() -> None:
    from overworld import make

    result = make("gym_cards/NumberLine", size=64).reset(seed=0)
    assert result.observation.images[0].pixels.shape == (64, 64, 3)
    with pytest.raises(LookupError, match="no simulator 'nothing'"):
        make("nothing/Here")
    with pytest.raises(LookupError, match="gym_cards/NumberLine"):
        make("gym_cards/Poker")
    with pytest.raises(LookupError, match="names 4 envs"):
        make("gym_cards")
    with pytest.raises(LookupError, match="not an Env class"):
        make("tests.support.toy_env:ToyOptions")
    with pytest.raises(ValidationError, match="colour"):
        make("gym_cards/NumberLine", colour="red")
