"""The adapter to TRL, used as GRPOTrainer uses it: a factory, reset, a tool, reward functions. It needs no TRL itself.

`make example-trl` runs it in the real trainer.
"""

import inspect
from typing import Any

import numpy as np
import pytest
from overworld import ServerLostError, server_info
from overworld.host.process import ServerProcess

from tests.support.examples import load_example

trl = load_example("trl/overworld_trl.py")


def texts(blocks: list[dict[str, Any]]) -> list[str]:
    return [block["text"] for block in blocks if block["type"] == "text"]


def pixels(blocks: list[dict[str, Any]]) -> Any:
    [picture] = [block["image"] for block in blocks if block["type"] == "image"]
    return np.asarray(picture)


def test_an_episode_earns_what_the_server_says(toy_server: ServerProcess) -> None:
    with trl.Environments([toy_server.address], "toy/Count") as environments:
        environment = environments()
        seen = environment.reset(**trl.rows(environments.spec, [7])[0])
        assert pixels(seen).shape == (32, 32, 3)
        assert texts(seen)[0] == "count 0"
        assert texts(seen)[1].startswith('Actions: ["up", "down"')
        for action in ("up", "down", "up"):
            assert "The episode is over." not in texts(environment.act(action))
        assert trl.episode_return([environment]) == [1.0]
        assert trl.success([environment]) == [0.0]
        environment.act("up")
        assert "The episode is over." in texts(environment.act("up"))
        assert texts(environment.act("up")) == ["The episode is over."]  # and no further step
        assert trl.episode_return([environment], prompts=[], completions=[]) == [3.0]
        assert trl.success([environment]) == [1.0]
        environment.reset(seed=1)
        assert trl.episode_return([environment]) == [0.0]
        assert trl.success([environment]) == [0.0]


def test_a_group_begins_from_the_same_state(toy_server: ServerProcess) -> None:
    with trl.Environments([toy_server.address], "toy/Count") as environments:
        one, other, third = environments(), environments(), environments()
        first = pixels(one.reset(seed=3))
        assert np.array_equal(first, pixels(other.reset(seed=3)))
        assert not np.array_equal(first, pixels(third.reset(seed=4)))
        one.act("up")
        assert (one.total_reward, other.total_reward) == (1.0, 0.0)


@pytest.mark.parametrize("action", ["sideways", "", "u" * 10_000, None, 7, ["up"], {"up": 1}, True])
def test_whatever_a_model_passes_is_an_action_or_skips_a_turn(toy_server: ServerProcess, action: Any) -> None:
    with trl.Environments([toy_server.address], "toy/Count") as environments:
        environment = environments()
        environment.reset(seed=0)
        assert texts(environment.act(action))[-1] == "That is not one of the actions."
        assert environment.total_reward == 0.0


def test_a_failed_simulator_gives_no_reward(toy_server: ServerProcess) -> None:
    with trl.Environments([toy_server.address], "toy/Count") as environments:
        failed, other = environments(), environments()
        failed.reset(seed=0)
        other.reset(seed=0)
        assert texts(failed.act("raise")) == ["The environment failed: RuntimeError: boom"]
        assert texts(failed.act("up")) == ["The episode is over."]
        assert trl.episode_return([failed, other]) == [None, 0.0]
        assert trl.success([failed, other]) == [None, 0.0]
        failed.reset(seed=0)
        failed.act("up")
        assert trl.episode_return([failed]) == [1.0]


def test_a_lost_server_ends_the_training_and_is_no_reward() -> None:
    with ServerProcess("tests.support.toy_env:Toy") as server:
        environments = trl.Environments([server.address], "toy/Count", retry_budget=0.5)
        environment = environments()
        environment.reset(seed=0)
        server.process.kill()
        with pytest.raises(ServerLostError):  # TRL tells this to the model and goes on
            environment.act("up")
        for score in (trl.episode_return, trl.success):
            with pytest.raises(ServerLostError):
                score([environment])


def test_slots_are_leased_one_by_one_and_given_back(toy_server: ServerProcess) -> None:
    free = server_info(toy_server.address).slots_free
    with trl.Environments([toy_server.address], "toy/Count") as environments:
        kept = [environments() for _ in range(3)]
        assert server_info(toy_server.address).slots_free == free - 3
        assert len({id(environment) for environment in kept}) == 3
    assert server_info(toy_server.address).slots_free == free


def test_the_model_is_offered_one_tool() -> None:
    """TRL makes a tool of each public function of the class, from its signature and docstring."""
    public = [name for name, _ in inspect.getmembers(trl.Environment, inspect.isfunction) if not name.startswith("_")]
    assert public == ["act", "reset"]
    assert "Args:\n            action: " in trl.Environment.act.__doc__
