"""Actions of Gymnasium's spaces in words and numbers, and envs that cannot be bridged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium
import numpy as np
import overworld
import pytest
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from hypothesis import given
from hypothesis import strategies as st
from overworld.authoring.gymnasium.actions import Actions
from overworld.authoring.gymnasium.env import GymnasiumOptions, from_gymnasium
from overworld.authoring.gymnasium.presets import Preset
from overworld.authoring.runner import Runner
from overworld.bridges.gymnasium import OverworldEnv
from overworld.bridges.gymnasium.infos import together
from overworld.errors import ContractError, EnvUnknownError

BOX = spaces.Box(np.array([[-1.0, 0.0]], np.float32), np.array([[1.0, 0.1]], np.float32))


class _Odd(gymnasium.Env[Any, Any]):
    """What it returns, tests set."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}  # type: ignore[misc]
    observation: ClassVar[Any] = 0
    frame: ClassVar[Any] = np.zeros((2, 3, 3), np.uint8)
    reward: ClassVar[Any] = 1.0
    told: ClassVar[dict[str, Any]] = {}
    closed = 0

    def __init__(self, **_: Any) -> None:
        self.action_space = getattr(type(self), "actions", spaces.Discrete(2, start=-1))
        self.observation_space = spaces.Discrete(1)
        self.acted: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.acted.append(action)
        return self.observation, self.reward, len(self.acted) == 3, False, self.told

    def render(self) -> Any:
        return self.frame

    def close(self) -> None:
        _Odd.closed += 1


@pytest.fixture
def odd() -> Iterator[type[_Odd]]:
    """A class to change, registered as Odd-v0."""

    class Odd(_Odd):
        pass

    gymnasium.register("Odd-v0", Odd)
    yield Odd
    del gymnasium.registry["Odd-v0"]


def test_numbers_are_read_from_any_notation_and_written_in_one() -> None:
    actions = Actions(BOX, {})
    assert [actions.executable(text) for text in ("[[-1, 0.1]]", "-1.0,1e-1", " -1;.1 ")] == ["-1 0.1"] * 3
    np.testing.assert_array_equal(actions.action("-1 0.1"), BOX.high * [[-1, 1]])
    assert Actions(spaces.MultiDiscrete([3, 2]), {}).executable("(2, 1)") == "2 1"
    assert Actions(spaces.MultiBinary(2), {}).executable("0 1") == "0 1"
    assert Actions(spaces.Box(-np.inf, np.inf, (1,), np.float64), {}).executable("1e300") == "1e+300"


@pytest.mark.parametrize(
    "text", ["", "left", "0", "0 0 0", "nan 0", "inf 0", "1e999 0", "0 0.2", "-1.1 0", "1_0 0", "0x1 0", "٣ 0", "0 0]x"]
)
def test_what_is_not_an_action_of_a_box_is_not_admissible(text: str) -> None:
    assert Actions(BOX, {}).executable(text) is None


@pytest.mark.parametrize("text", ["3 0", "-1 0", "0.5 0", "0", "9" * 45 + " 0"])
def test_what_is_not_an_action_of_a_multi_discrete_is_not_admissible(text: str) -> None:
    assert Actions(spaces.MultiDiscrete([3, 2]), {}).executable(text) is None


@given(st.text(max_size=40))
def test_every_text_is_an_action_of_the_space_or_none(text: str) -> None:
    actions = Actions(BOX, {})
    executable = actions.executable(text)
    assert executable is None or actions.action(executable) in BOX


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2))
def test_an_action_keeps_its_bits_through_text(numbers: list[float]) -> None:
    space = spaces.Box(0, 1, (2,))
    actions = Actions(space, {})
    executable = actions.executable(str(numbers))
    assert executable is not None
    np.testing.assert_array_equal(actions.action(executable), np.array(numbers, np.float32))


def test_words_stand_for_actions_of_any_space() -> None:
    assert Actions(spaces.Discrete(2, start=5), {}).spec.vocabulary == ("5", "6")
    assert Actions(spaces.Discrete(3), {"go": 2}).action("go") == 2
    np.testing.assert_array_equal(Actions(BOX, {"go": [[1, 0]], "stop": [[0, 0]]}).action("go"), [[1, 0]])
    assert not Actions(spaces.Discrete(5000), {}).spec.vocabulary
    assert Actions(spaces.Discrete(5000), {}).action("4999") == 4999


@pytest.mark.parametrize("action", [[2, 0], [[2, 0]], "x", None, [[1, 0], [1]], [[float("nan"), 0]], 10**400])
def test_a_word_for_what_is_not_an_action_is_refused(action: Any) -> None:
    with pytest.raises(ValueError, match=r"actions: 'go' is .*expected a word and numbers of shape \[1, 2\]"):
        Actions(BOX, {"go": action})


def test_action_spaces_that_have_no_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot be put in words; .* Wrap the env"):
        Actions(spaces.Dict(go=spaces.Discrete(2)), {})
    with pytest.raises(ValueError, match="4096 numbers; at most 1024"):
        Actions(spaces.MultiBinary(4096), {})


@pytest.mark.parametrize(
    ("space", "sent"),
    [(BOX, "float32"), (spaces.MultiBinary(3), "int32"), (spaces.Box(-1, 1, (2,), np.float16), "float32")],
)
def test_actions_as_tensors_keep_their_bits(space: spaces.Space[Any], sent: str) -> None:
    actions = Actions(space, {}, tensors=True)
    low = actions.spec.low
    assert low is not None
    assert (low.dtype.name, low.shape) == (sent, space.shape)
    space.seed(0)
    for _ in range(10):
        sample = space.sample()
        action = actions.action(sample.astype(sent))
        assert action.dtype == space.dtype
        np.testing.assert_array_equal(action, sample)


def test_discrete_and_named_actions_are_not_sent_as_tensors(odd: type[_Odd]) -> None:
    with pytest.raises(ValueError, match=r"tensor_actions: the action space is Discrete\(2\); tensors are for Box"):
        Actions(spaces.Discrete(2), {}, tensors=True)
    odd.actions = BOX  # type: ignore[attr-defined]
    found = from_gymnasium("Odd-v0")
    with pytest.raises(ValueError, match="tensor_actions: the words for actions are named, too"):
        found(GymnasiumOptions(tensor_actions=True, actions={"go": [[1, 0]]}))
    runner = Runner(found(GymnasiumOptions(tensor_actions=True)))
    runner.reset(1)
    assert runner.step(np.array([[2, 0]], np.float32)).executed is None  # out of bounds
    assert runner.step("1 0").executed is None
    assert runner.step(BOX.high).executed is not None


def test_an_option_names_the_actions(odd: type[_Odd]) -> None:
    found = from_gymnasium("Odd-v0")
    runner = Runner(found(GymnasiumOptions(actions={"Go Left": -1})))
    assert (found.spec.action.vocabulary, runner.spec.action.vocabulary) == (("-1", "0"), ("Go Left",))
    runner.reset(1)
    assert runner.step("go  left").executed == "Go Left"
    assert runner.step("0").executed is None
    closed = _Odd.closed
    with pytest.raises(ValueError, match="'up' is 7"):
        found(GymnasiumOptions(actions={"up": 7}))
    assert _Odd.closed == closed + 1


def test_observations_become_texts_and_tensors(odd: type[_Odd]) -> None:
    reused = np.ones(2, np.float32)
    odd.observation = {"say": "hello", "inner": {"x": 1, "pair": (np.float16(1), reused)}}
    look = Runner(from_gymnasium("Odd-v0")()).reset(1).observation
    assert look.text == "say: hello"
    described = {name: (array.dtype.name, array.shape) for name, array in look.tensors.items()}
    assert described == {"inner.x": ("int64", ()), "inner.pair.0": ("float32", ()), "inner.pair.1": ("float32", (2,))}
    reused[:] = 7
    assert look.tensors["inner.pair.1"].tolist() == [1, 1], "it is the env's own memory"


def test_success_is_what_the_env_says_or_its_last_reward(odd: type[_Odd]) -> None:
    for told, reward, success in (
        ({}, 1, True),
        ({}, 0, False),
        ({"is_success": False}, 1, False),
        ({"success": 1}, 0, 1),
    ):
        odd.told, odd.reward = told, reward
        runner = Runner(from_gymnasium("Odd-v0")())
        runner.reset(1)
        results = [runner.step("0") for _ in range(3)]
        assert (results[-1].end, results[-1].success) == (overworld.End.TASK, success)
        assert results[-1].metrics == {name: float(value) for name, value in told.items()}


@pytest.mark.parametrize(
    ("replies", "success"), [(["left", "right"], True), (["left", "what?"], False), ([None, None], False)]
)
def test_lasting_until_the_limit_is_a_success_only_with_an_action_in_each_turn(
    replies: list[str | None], success: bool
) -> None:
    assert not Preset("", survival=True).succeeded(True, 1, {})
    cart_pole = from_gymnasium("CartPole-v1")
    runner = Runner(cart_pole(cart_pole.options_model(max_turns=2)))
    for _ in range(2):  # the second episode counts for itself
        runner.reset(1)
        results = [runner.step(reply) for reply in replies]
        assert (results[-1].end, results[-1].success) == (overworld.End.TIME_LIMIT, success)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame": None}, r"render\(\) gave NoneType; expected an array uint8 \[height, width, 3\]"),
        ({"frame": np.zeros((2, 3, 4), np.uint8)}, r"render\(\) gave uint8 \[2, 3, 4\]"),
        ({"observation": {"x": object()}}, "the observation 'x' is of type object"),
        ({"observation": [1, 2]}, "the observation is of type list"),
        ({"observation": np.array(["a"])}, "the observation is of type <U1"),
        ({"metadata": {"render_modes": ["human"]}}, r"does not render pictures: its render_modes are \['human'\]"),
        ({"actions": spaces.Text(3)}, "cannot be put in words"),
    ],
)
def test_envs_that_cannot_be_bridged_say_why_and_are_closed(
    odd: type[_Odd], changes: dict[str, Any], message: str
) -> None:
    for name, value in changes.items():
        setattr(odd, name, value)
    closed = _Odd.closed
    with pytest.raises(ValueError, match=message):
        from_gymnasium("Odd-v0")
    assert _Odd.closed > closed


@pytest.mark.parametrize("reward", [float("nan"), None, np.ones(2)])
def test_a_reward_that_is_not_a_finite_number_is_refused(odd: type[_Odd], reward: Any) -> None:
    odd.reward = reward
    runner = Runner(from_gymnasium("Odd-v0")())
    runner.reset(1)
    with pytest.raises(ValueError, match=r"the reward is .*; expected a finite number"):
        runner.step("0")


def test_what_an_env_of_the_old_interface_returns_is_refused(odd: type[_Odd], monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(from_gymnasium("Odd-v0")())
    runner.reset(1)
    monkeypatch.setattr(odd, "step", lambda self, action: (0, 0.0, False, {}))
    with pytest.raises(ValueError, match=r"step\(\) gave a tuple of 4; expected .observation, reward, terminated"):
        runner.step("0")
    monkeypatch.setattr(odd, "reset", lambda self, **_: np.zeros(2))
    with pytest.raises(ValueError, match=r"reset\(\) gave float64 \[2\]; expected \(observation, info\)"):
        from_gymnasium("Odd-v0")


@pytest.mark.parametrize("name", ["Nope-v0", "CartPole-v99", "nomodule:Odd-v0", "", "no such id"])
def test_an_unknown_env_is_refused_by_name(name: str) -> None:
    with pytest.raises(EnvUnknownError, match="gymnasium has no env"):
        overworld.make(f"gymnasium:{name}")


def test_an_observation_that_changes_its_form_is_refused(odd: type[_Odd]) -> None:
    env = OverworldEnv(Runner(from_gymnasium("Odd-v0")()))
    env.reset(seed=1)
    odd.frame = np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(ValueError, match=r"is not in .*, the space of the first one"):
        env.step(0)


def test_the_options_of_reset_are_split_and_task() -> None:
    env = OverworldEnv(overworld.make("gym_cards/NumberLine"))
    first, _ = env.reset(seed=1, options={"split": "deals", "task": 3})
    again, _ = env.reset(seed=2, options={"split": "deals", "task": 3})
    assert all(np.array_equal(first[name], again[name]) for name in first)
    with pytest.raises(ContractError, match="SPLIT_UNKNOWN"):
        env.reset(options={"split": "nope"})
    with pytest.raises(ValueError, match=r"reset has no options \['seeds'\]; it has 'split' and 'task'"):
        env.reset(options={"seeds": [1]})


def test_other_envs_do_not_load_gymnasium() -> None:
    code = "import sys, overworld; overworld.make('gym_cards/EZPoints'); print('gymnasium' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_infos_are_put_together_as_gymnasium_does() -> None:
    infos: list[dict[str, Any]] = [
        {"outcome": "EXECUTED", "metrics": {"steps": 1.5}, "action_mask": np.ones(3, np.int8)},
        {"end": "TASK", "success": True, "admissible": ("a", "b"), "metrics": {"coins": 2.0}},
        {
            "outcome": "NO_ACTION",
            "metrics": {"steps": 2.5},
            "action_mask": np.array([0, 1, 0], np.int8),
            "success": False,
        },
        {},
    ]
    theirs = VectorEnv()
    theirs.num_envs = len(infos)
    expected: dict[str, Any] = {}
    for slot, info in enumerate(infos):
        expected = theirs._add_info(expected, info, slot)
    _compare(together(infos), expected)


def _compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            _compare(found[key], value)
        else:
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)
