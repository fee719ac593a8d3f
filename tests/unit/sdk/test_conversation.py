import base64
import io
import json
import random
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import pytest
from overworld import ActionSpec, EnvSpec, Image, Observation, Outcome, Result
from overworld.evaluation.conversation import Conversation, Recipe, data_url, read_reply, to_openai, write_reply

SPEC = EnvSpec(id="a/B", task="Do it.", success="done", action=ActionSpec(("left", "right")))


def frame(value: int) -> Image:
    return Image("view", np.full((4, 4, 3), value, np.uint8))


def result(
    turn: int, value: int, outcome: Outcome | None = Outcome.EXECUTED, executed: str | None = "left", **fields: Any
) -> Result:
    observation = Observation((frame(value), f"state {value}"), **fields)
    return Result(slot=0, episode=0, turn=turn, observation=observation, outcome=outcome, executed=executed)


def reset(value: int) -> Result:
    return result(0, value, None, None)


def shown(conversation: Conversation) -> list[int]:
    (message,) = conversation.messages()
    return [part["image"].pixels[0, 0, 0] for part in message["content"] if part["type"] == "image"]


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ('{"thoughts": "a", "action": "+"}', "+"),
        ('```json\n{"action": "stand"}\n```', "stand"),
        ('Sure! {"action": "left"} I hope this helps.', "left"),
        ("{'thoughts': 'it\\'s far', 'action': 'left'}", "left"),
        ("{'thoughts': 'it's far', 'action': 'left'}", "left"),
        ('{"thoughts": "the "red" box", "action": "left"}', "left"),
        ('{"thoughts": "a {b} c", "action": "-",}', "-"),
        ('{"action": 10}', "10"),
        ('{"action": 3.0}', "3"),
        ('{"action": "go to shelf 1"', "go to shelf 1"),
        ("{action: left}", "left"),
        ("{'action': +}", "+"),
        ('{"a": {"action": "no"}} so {"action": "yes"}', "yes"),
        ('{"action": " left\\n"}', "left"),
        ('{"thoughts": "line\nbreak", "action": "left"}', "left"),
    ],
)
def test_finds_the_action(reply: str, action: str) -> None:
    assert read_reply(reply).action == action


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "left",
        '{"thoughts": "cut',
        '{"action": null}',
        '{"action": true}',
        '{"action": ["left"]}',
        '{"action": {"name": "left"}}',
        '{"action": ""}',
        '{"reaction": "left"}',
        '{"action": "' + "x" * 5000 + '"}',
        '{"action": "\\ud800"}',
    ],
)
def test_no_action_where_there_is_none(reply: str) -> None:
    assert read_reply(reply).action is None


def test_what_is_read_can_be_sent() -> None:
    reply = read_reply('{"thoughts": "half \\udc00", "action": "left"}')
    assert reply.action == "left"
    reply.thoughts.encode()


def test_reads_the_thoughts() -> None:
    assert read_reply('{"thoughts": "go on", "action": "left"}').thoughts == "go on"
    assert read_reply("{'thoughts': 'go on', 'action': 'left'}").thoughts == "go on"
    assert read_reply('{"thoughts": 5, "action": "left"}').thoughts == ""


def test_does_not_execute_what_it_reads(tmp_path: Path) -> None:
    target = tmp_path / "written"
    read_reply(f"{{'action': open({str(target)!r}, 'w')}}")
    read_reply(f"{{'action': __import__('pathlib').Path({str(target)!r}).touch()}}")
    assert not target.exists()


HOSTILE = [
    "{" * 200_000,
    '{"a":' * 50_000,
    '{"a":' + "[" * 100_000,
    '{"action": "' + "\\" * 100_000,
    "action:" * 30_000,
    'action:"' * 30_000,
    "'action'" * 30_000,
    ("{" + '"' + " " * 200) * 2_000,
    "{'a':'b'," * 20_000,
    '{"action": ' + "9" * 100_000 + "}",
]


@pytest.mark.parametrize("reply", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_replies_are_read_in_no_time(reply: str) -> None:
    started = time.thread_time()
    read_reply(reply)
    assert time.thread_time() - started < 0.2


def test_random_bytes_never_raise() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice("{}[]\"':,\\ actionthoughts0.\n\ud800é") for _ in range(rng.randrange(80)))
        assert read_reply(text).action != ""


@pytest.mark.parametrize("form", ["action", "thoughts+action"])
def test_reads_what_it_writes(form: Literal["action", "thoughts+action"]) -> None:
    for action, thoughts in (("left", 'say "hi" {now}'), ("10", "it's\nfine"), ("é", "\\")):
        reply = read_reply(write_reply(Recipe(reply=form), action, thoughts))
        assert reply.action == action
        assert reply.thoughts == (thoughts if form == "thoughts+action" else "")


def test_history_grows_from_the_start_of_an_episode_and_keeps_the_last_images() -> None:
    conversation = Conversation(SPEC, Recipe(history=3))
    conversation.observe(reset(0))
    assert shown(conversation) == [0]
    for turn in range(1, 5):
        conversation.observe(result(turn, turn))
    assert shown(conversation) == [2, 3, 4]
    conversation.observe(reset(9))
    assert shown(conversation) == [9]


def test_a_skipped_turn_is_not_shown_twice() -> None:
    conversation = Conversation(SPEC, Recipe(history=3))
    conversation.observe(reset(0))
    conversation.observe(result(1, 1))
    conversation.observe(result(2, 1, Outcome.NO_ACTION, None))
    assert shown(conversation) == [0, 1]


def test_the_text_holds_task_state_actions_and_form() -> None:
    conversation = Conversation(SPEC, Recipe(history=2))
    conversation.observe(reset(0))
    conversation.observe(result(1, 1))
    text = conversation.messages()[0]["content"][-1]["text"]
    assert text == 'Do it.\nstate 1\nActions: "left", "right"\nReply: {"thoughts": "...", "action": "..."}'


def test_the_text_lists_what_is_admissible_now() -> None:
    conversation = Conversation(SPEC, Recipe(reply="action"))
    conversation.observe(Result(slot=0, episode=0, turn=0, observation=Observation(("x",), ("left",))))
    assert conversation.messages()[0]["content"][-1]["text"].endswith('Actions: "left"\nReply: {"action": "..."}')


def test_images_travel_losslessly_to_openai_servers() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    messages = [{"role": "user", "content": [{"type": "image", "image": Image("view", pixels)}]}]
    (part,) = to_openai(messages)[0]["content"]
    assert part["image_url"]["url"] == data_url(pixels)
    decoded = PIL.Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
    assert np.array_equal(np.asarray(decoded), pixels)
    json.dumps(to_openai(messages))
    data_url(pixels[:, :, :1])  # grey, too
