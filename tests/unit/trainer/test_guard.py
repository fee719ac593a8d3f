"""What stops a run and what it warns of, at the bounds that the specification sets."""

import json
import logging
from typing import Any

import pytest
from overworld_trainer.guard import Guard, RunStoppedError


def metrics(**changes: float) -> dict[str, float]:
    names = {
        "unparseable": "replies/unparseable",
        "inadmissible": "replies/inadmissible",
        "explained": "losses/explained_variance",
        "spread": "losses/relative_target_std",
        "normalised": "losses/normalised_advantage_std",
        "clipfrac": "losses/clipfrac",
        "kl": "losses/kl_k3",
        "max_error": "losses/max_logprob_error",
        "mean_error": "losses/mean_logprob_error",
        "loss": "losses/policy_loss",
    }
    values = {"unparseable": 0.0, "inadmissible": 0.0, "explained": 0.5, "spread": 1.0, "normalised": 1.0} | changes
    return {names[name]: value for name, value in values.items()}


def run(guard: Guard, *updates: dict[str, float], first: int = 0) -> None:
    for number, changes in enumerate(updates, first):
        guard.check(metrics(**changes), number)


def stopped(guard: Guard, *updates: dict[str, float], match: str) -> None:
    run(guard, *updates[:-1])
    with pytest.raises(RunStoppedError, match=match):
        run(guard, updates[-1], first=len(updates) - 1)


def test_a_run_that_goes_well_is_left_alone() -> None:
    run(Guard("float32"), *[{"clipfrac": 0.1, "kl": 0.3, "max_error": 1e-5, "mean_error": 1e-6, "loss": -0.1}] * 20)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_a_number_stops_and_is_named(value: float) -> None:
    stopped(Guard("float32"), {}, {"loss": value}, match=r"update 1: losses/policy_loss is not a number")


def test_in_fp32_sampler_and_training_must_agree() -> None:
    run(Guard("float32"), {"max_error": 9.9e-5, "mean_error": 9e-5})
    stopped(Guard("float32"), {"max_error": 1.1e-4}, match=r"differ by 1\.1e-04.*this is a bug")


def test_in_bf16_they_must_agree_on_average() -> None:
    run(Guard("bfloat16"), {"max_error": 0.9, "mean_error": 0.049})
    stopped(Guard("bfloat16"), {"max_error": 0.9, "mean_error": 0.051}, match=r"0\.051 on average.*bfloat16")


def test_a_kl_above_three_stops() -> None:
    run(Guard("float32"), {"kl": 2.99})
    stopped(Guard("float32"), {"kl": 3.01}, match="KL to the reference is 3.0.*kl.beta")


def test_much_clipping_three_updates_in_a_row_stops() -> None:
    much, less = {"clipfrac": 0.51}, {"clipfrac": 0.5}
    run(Guard("float32"), much, much, less, much, much, {}, much, much)
    stopped(Guard("float32"), less, much, much, much, match=r"clipped 3 updates in a row.*policy\.lr")


def test_a_policy_that_forgets_the_form_stops() -> None:
    # At the start .8 of the replies are valid, so less than .4 is too little.
    start, good = {"unparseable": 0.1, "inadmissible": 0.1}, {"unparseable": 0.6}
    bad = {"unparseable": 0.3, "inadmissible": 0.31}
    run(Guard("float32"), start, bad, bad, good, bad, bad)
    stopped(Guard("float32"), start, bad, bad, bad, match=r"only 39%.*it was 80%.*kl\.beta")


@pytest.mark.parametrize("share", [0.0, 0.03, 0.09])
def test_a_policy_that_never_knew_the_form_cannot_forget_it(share: float) -> None:
    run(Guard("float32"), {"unparseable": 1.0 - share}, *[{"unparseable": 1.0}] * 5)


@pytest.mark.parametrize("updates", [[{"clipfrac": 0.9}] * 3, [{}, *[{"unparseable": 0.9}] * 3]])
def test_what_was_counted_survives_a_restart(updates: list[dict[str, float]]) -> None:
    guard = Guard("float32")
    for number, changes in enumerate(updates[:-1]):
        guard.check(metrics(**changes), number)
        state = json.loads(json.dumps(guard.state()))
        guard = Guard("float32")
        guard.restore(state)
    with pytest.raises(RunStoppedError):
        guard.check(metrics(**updates[-1]), len(updates))


def warnings(caplog: pytest.LogCaptureFixture, guard: Guard, *updates: dict[str, float], first: int) -> list[str]:
    with caplog.at_level(logging.WARNING):
        run(guard, *updates, first=first)
    return [record.getMessage() for record in caplog.records]


def test_a_critic_that_explains_nothing_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    blind = {"explained": 0.04, "spread": 0.06}
    said = warnings(caplog, Guard("float32"), *[blind] * 5, first=8)
    assert said == ["the critic explains 4 % of the returns' variance after 10 updates: can it see what they rest on?"]


@pytest.mark.parametrize(
    ("changes", "update"),
    [
        ({"explained": 0.04, "spread": 0.06}, 9),  # too early to tell
        ({"explained": 0.06, "spread": 0.06}, 10),  # it explains something
        ({"explained": 0.04, "spread": 0.04}, 10),  # there is nothing to explain
    ],
)
def test_it_is_not_warned_of_otherwise(caplog: pytest.LogCaptureFixture, changes: dict[str, Any], update: int) -> None:
    assert warnings(caplog, Guard("float32"), changes, first=update) == []


def test_the_floor_of_the_reward_scale_is_warned_of_once_when_it_binds(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard("float32")
    assert warnings(caplog, guard, {"normalised": 0.999999}, first=0) == []
    said = warnings(caplog, guard, *[{"normalised": 0.3}] * 3, first=1)
    assert len(said) == 1
    assert said[0].startswith("update 1: the standard deviation of the advantages is 30 % of what they are divided by")
    assert "losses/normalised_advantage_std" in said[0]


def test_what_was_warned_of_is_remembered_across_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    trouble = {"explained": 0.04, "spread": 0.06, "normalised": 0.3}
    before, after = Guard("float32"), Guard("float32")
    assert len(warnings(caplog, before, trouble, first=10)) == 2
    after.restore(json.loads(json.dumps(before.state())))
    caplog.clear()
    assert warnings(caplog, after, trouble, first=11) == []
