"""examples/balrog: BabyAI as BALROG shows it, and prompts of the form that BALROG sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from overworld import Outcome, Result
from overworld.evaluation.conversation import Chat, Conversation, Recipe, to_openai

from tests.support.examples import load_example

_RECORDED = Path(__file__).parents[1] / "policy" / "harnesses" / "balrog.jsonl"
_RECIPE = Recipe(reply="bare", chat=Chat(opening="Your goal is to $mission.", turn="Current Observation:"))


@pytest.fixture(scope="module")
def babyai() -> ModuleType:
    return load_example("balrog/babyai.py")


@pytest.fixture
def env(babyai: ModuleType) -> Iterator[Any]:
    env = babyai.GoToObj()
    yield env
    env.close()


def form(messages: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Role of each message and the types of its parts."""
    return [(message["role"], [part["type"] for part in message["content"]]) for message in messages]


def test_the_bot_reaches_the_object_even_after_detours(env: Any) -> None:
    for seed in range(5):
        env.reset(seed, "endless", None)
        env.step("turn left")
        for _ in range(20):
            transition = env.step(env.expert().action)
            if transition.end:
                break
        assert transition.success


def test_prompts_have_the_form_of_balrogs(env: Any) -> None:
    first, second, *_ = (json.loads(line)["body"]["messages"] for line in _RECORDED.read_text().splitlines())
    conversation = Conversation(env.spec, _RECIPE)
    observation = env.reset(0, "endless", None)
    assert [image.pixels.shape for image in observation.images] == [(112, 112, 3)]
    conversation.observe(Result(slot=0, episode=0, turn=0, observation=observation))
    assert form(to_openai(conversation.messages())) == form(first)
    assert conversation.messages()[0]["content"][0]["text"] == "Your goal is to go to the green key."
    after = env.step("turn left").observation
    conversation.observe(
        Result(slot=0, episode=0, turn=1, observation=after, outcome=Outcome.EXECUTED, executed="turn left")
    )
    assert form(to_openai(conversation.messages())) == form(second)
    assert second[1]["content"][0]["text"] in env.spec.action.vocabulary
    assert conversation.read(second[1]["content"][0]["text"]).action == second[1]["content"][0]["text"]
