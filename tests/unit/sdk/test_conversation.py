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
from overworld.errors import EvaluationError
from overworld.evaluation.conversation import Chat, Conversation, Recipe, data_url, read_reply, to_openai, write_reply
from pydantic import ValidationError

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


BARE = Recipe(reply="bare")
CHAT = Chat(opening="$task Goal: $mission. Pay $$5.", turn="You see $state.")


def spoken(conversation: Conversation) -> list[tuple[str, str, int]]:
    """Role, text and number of images of each message; texts come before images."""
    messages = []
    for message in conversation.messages():
        text, *images = message["content"]
        assert all(part["type"] == "image" for part in images)
        messages.append((message["role"], text["text"], len(images)))
    return messages


def told(turn: int, state: str, outcome: Outcome | None = Outcome.EXECUTED, executed: str | None = "left") -> Result:
    observation = Observation((frame(turn), "mission: reach $home", f"state: {state}"))
    return Result(slot=0, episode=0, turn=turn, observation=observation, outcome=outcome, executed=executed)


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("left", "left"),
        (" go forward\n", "go forward"),
        ('{"action": "left"}', '{"action": "left"}'),
        ("", None),
        (" \n", None),
        ("x" * 19, None),
        ("\ud800", None),
    ],
)
def test_a_bare_reply_is_the_action(reply: str, action: str | None) -> None:
    assert read_reply(reply, 18, BARE).action == action


def test_a_bare_action_is_asked_for_and_written() -> None:
    conversation = Conversation(SPEC, BARE)
    conversation.observe(reset(0))
    assert conversation.messages()[0]["content"][-1]["text"].endswith("\nReply: the action alone")
    assert write_reply(BARE, "left", "never mind") == "left"
    assert conversation.read("right").action == "right"


def test_a_chat_has_a_message_for_each_turn_and_the_actions_between_them() -> None:
    conversation = Conversation(SPEC, Recipe(history=2, reply="bare", chat=CHAT))
    opening = ("user", "Do it. Goal: reach $home. Pay $5.", 0)
    conversation.observe(told(0, "a door", None, None))
    assert spoken(conversation) == [opening, ("user", "You see a door.", 1)]
    conversation.observe(told(1, "a wall"))
    assert spoken(conversation)[2:] == [("assistant", "left", 0), ("user", "You see a wall.", 1)]
    conversation.observe(told(2, "a key", executed="right"))
    assert spoken(conversation) == [
        opening,
        ("assistant", "left", 0),
        ("user", "You see a wall.", 1),
        ("assistant", "right", 0),
        ("user", "You see a key.", 1),
    ]
    conversation.observe(told(0, "a door", None, None))
    assert spoken(conversation) == [opening, ("user", "You see a door.", 1)]


def test_a_skipped_turn_leaves_a_chat_as_it_was() -> None:
    conversation = Conversation(SPEC, Recipe(reply="bare", chat=CHAT))
    conversation.observe(told(0, "a door", None, None))
    conversation.observe(told(1, "a wall"))
    before = spoken(conversation)
    conversation.observe(told(2, "a wall", Outcome.NO_ACTION, None))
    assert spoken(conversation) == before


def test_a_chat_of_json_has_json_between_its_turns() -> None:
    conversation = Conversation(SPEC, Recipe(chat=Chat(opening="$actions", turn="$text")))
    conversation.observe(told(0, "a door", None, None))
    conversation.observe(told(1, "a wall"))
    assert spoken(conversation) == [
        ("user", "left, right", 0),
        ("assistant", '{"action": "left"}', 0),
        ("user", "mission: reach $home\nstate: a wall", 1),
    ]


def test_a_chat_that_names_what_is_not_shown_says_what_is() -> None:
    conversation = Conversation(SPEC, Recipe(chat=Chat(opening="Carry $load.", turn="Now.")))
    conversation.observe(told(0, "a door", None, None))
    with pytest.raises(EvaluationError, match=r"names \$load, which a/B does not show; it has .*\$mission, \$state"):
        conversation.messages()


def test_a_chat_is_checked_before_it_is_used() -> None:
    with pytest.raises(ValidationError, match=r"turn: a \$ begins a name"):
        Chat(opening="", turn="5 $ each")
    with pytest.raises(ValidationError, match="set both or neither"):
        Recipe(turns_left=True, chat=CHAT)
    with pytest.raises(ValidationError, match="set both or neither"):
        Recipe(chat=Chat(opening="", turn="$turns_left left"))


def test_images_travel_losslessly_to_openai_servers() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    messages = [{"role": "user", "content": [{"type": "image", "image": Image("view", pixels)}]}]
    (part,) = to_openai(messages)[0]["content"]
    assert part["image_url"]["url"] == data_url(pixels)
    decoded = PIL.Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
    assert np.array_equal(np.asarray(decoded), pixels)
    json.dumps(to_openai(messages))
    data_url(pixels[:, :, :1])  # grey, too
