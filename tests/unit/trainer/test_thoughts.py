"""Where a reply's thoughts end and its action begins, counted in tokens."""

from typing import Protocol

import pytest
from overworld_trainer.codec import count_thinking
from overworld_vlm.load import VLM

REPLY = '{"thoughts": "The count is 1.", "action": "up"}'


class Count(Protocol):
    def __call__(self, text: str, end: bool = True) -> tuple[list[int], int]: ...


@pytest.fixture
def thinking(vlm: VLM) -> Count:
    def count(text: str, end: bool = True) -> tuple[list[int], int]:
        tokens = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens += [vlm.tokenizer.eos_token_id] if end else []
        return tokens, count_thinking(vlm, tokens)

    return count


@pytest.mark.parametrize(
    "text",
    [
        REPLY,
        '{"action": "up"}',
        '"action"',
        '{"thoughts": "The \\"action\\" is clear", "action": "down"}',
        '{"action": "up", "thoughts": "no, wait"}\n{"action": "down"}',
        '{"thoughts":"up","action":"up"}',
        '{"thoughts": "ünïcödé 🃏", "action": "up"}',
        '{"thoughts": 12345, "action"',
    ],
)
def test_thoughts_end_before_the_token_in_which_the_last_action_key_begins(
    vlm: VLM, thinking: Count, text: str
) -> None:
    tokens, count = thinking(text)
    key = text.encode().rfind(b'"action"')
    sizes = [len(vlm.tokenizer.decode(tokens[:number]).encode()) for number in (count, count + 1)]
    assert sizes[0] <= key < sizes[1]


def test_the_key_may_begin_within_a_token(vlm: VLM, thinking: Count) -> None:
    tokens, count = thinking('{"thoughts": "...", "action": "..."}')
    pieces = vlm.tokenizer.convert_ids_to_tokens(tokens)
    assert '"action"' not in pieces[count]  # in this vocabulary the key's quote comes with what precedes it
    assert "".join(pieces[:count]).startswith('{"thoughts"')
    assert '"action' in "".join(pieces[count:])
    assert '"action' not in "".join(pieces[count + 1 :])


@pytest.mark.parametrize("text", ["", "up", "{'action': 'up'}", '{"thoughts": "my action"}', '{"actions": 1}'])
def test_without_an_action_key_all_is_thought(thinking: Count, text: str) -> None:
    tokens, count = thinking(text)
    assert count == len(tokens)


def test_a_reply_that_is_cut_within_the_key_is_all_thought(thinking: Count) -> None:
    tokens, count = thinking(REPLY[: REPLY.index("action") + 3], end=False)
    assert count == len(tokens)
