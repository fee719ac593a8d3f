"""The agent loop against verl's interface as it was recorded, and a real env server.

Recorded from verl 0.9.1, verl/experimental/agent_loop/agent_loop.py and what it imports: the names, the parameters and
what the methods return. Tokens are characters here. `make example-verl` runs the loop on verl itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from overworld import Session, server_info
from overworld.host.process import ServerProcess

from tests.support.examples import load_example

IMAGE = "\N{FRAME WITH PICTURE}"


class AgentLoopBase:
    def __init__(
        self,
        trainer_config: Any,
        server_manager: Any,
        tokenizer: Any,
        processor: Any,
        dataset_cls: Any,
        data_config: Any,
        hf_model_type: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.rollout_config = trainer_config.config.actor_rollout_ref.rollout
        self.server_manager = server_manager
        self.tokenizer = tokenizer
        self.processor = processor

    def _assert_mm_supported(self, has_multi_modal: bool) -> None:
        assert self.processor is not None or not has_multi_modal

    async def ct_build_initial_tokens(
        self, messages: Any, tools: Any = None, images: Any = None, videos: Any = None, audios: Any = None,
        mm_inputs_out: Any = None,
    ) -> list[int]:  # fmt: skip
        return render(messages)

    async def ct_merge_context_msg(
        self, previous_messages: Any, updated_messages: Any, runtime_token_ids: Any, response_mask: Any,
        response_logprobs: Any = None, tools: Any = None,
    ) -> Any:  # fmt: skip
        assert updated_messages[: len(previous_messages)] == previous_messages, "verl refuses what is not append-only"
        new = render(updated_messages[len(previous_messages) :])
        merged = SimpleNamespace(token_ids=runtime_token_ids + new)
        probs = None if response_logprobs is None else response_logprobs + [0.0] * len(new)
        return merged, response_mask + [0] * len(new), probs

    async def ct_merge_assistant_token(
        self, runtime_token_ids: Any, assistant_token_ids: Any, response_mask: Any, response_logprobs: Any = None,
        assistant_logprobs: Any = None,
    ) -> Any:  # fmt: skip
        assert assistant_logprobs is None or response_logprobs is not None, "verl raises ValueError"
        merged = SimpleNamespace(token_ids=runtime_token_ids + assistant_token_ids)
        probs = None if response_logprobs is None else response_logprobs + assistant_logprobs
        return merged, response_mask + [1] * len(assistant_token_ids), probs


@dataclass
class AgentLoopMetrics:
    generate_sequences: float = 0.0
    tool_calls: float = 0.0
    compute_score: float = 0.0
    num_preempted: int = -1


@dataclass
class AgentLoopOutput:
    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    metrics: AgentLoopMetrics
    response_logprobs: list[float] | None = None
    multi_modal_data: dict[str, Any] | None = None
    reward_score: float | None = None
    num_turns: int = 0
    extra_fields: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def simple_timer(name: str, timing_raw: dict[str, float]) -> Iterator[None]:
    timing_raw[name] = timing_raw.get(name, 0.0) + 1.0
    yield


@dataclass
class LLMServerClient:
    """Gives these actions, one after another."""

    actions: list[str]
    log_probs: bool = True

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any],
        image_data: list[Any] | None = None, video_data: Any = None, audio_data: Any = None,
        mm_processor_kwargs: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        assert "".join(map(chr, prompt_ids)).count(IMAGE) == len(image_data or ())
        tokens = [ord(letter) for letter in '{"action": "' + self.actions.pop(0) + '"}']
        return SimpleNamespace(token_ids=tokens, log_probs=[-1.0] * len(tokens) if self.log_probs else None)


def render(messages: list[dict[str, Any]]) -> list[int]:
    parts = [part for message in messages for part in message["content"]]
    return [ord(letter) for part in parts for letter in (IMAGE if part["type"] == "image" else part["text"])]


@pytest.fixture(scope="module")
def verl() -> Iterator[ModuleType]:
    stand_ins = {name: ModuleType(name) for name in ("verl.experimental.agent_loop.agent_loop", "verl.utils.profiler")}
    loop, profiler = stand_ins.values()
    vars(loop).update(
        AgentLoopBase=AgentLoopBase,
        AgentLoopMetrics=AgentLoopMetrics,
        AgentLoopOutput=AgentLoopOutput,
        register=lambda name: lambda subclass: subclass,
    )
    vars(profiler).update(simple_timer=simple_timer)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        yield load_example("verl/overworld_verl.py")


def make_loop(
    verl: ModuleType, server: str, actions: list[str], *, limit: int = 10_000, log_probs: bool = True, **options: Any
) -> Any:
    rollout = SimpleNamespace(prompt_length=1000, response_length=limit)
    return verl.OverworldAgentLoop(
        trainer_config=SimpleNamespace(config=SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout))),
        server_manager=LLMServerClient(actions, log_probs),
        tokenizer=SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(map(chr, ids))),
        processor=object(),
        dataset_cls=object,
        data_config=object(),
        name="overworld",  # as agent_loop.yaml has it
        tools=object(),
        servers=[server],
        env="toy/Count",
        **options,
    )


def play(verl: ModuleType, server: str, actions: list[str], limit: int = 10_000, **settings: Any) -> AgentLoopOutput:
    loop = make_loop(verl, server, actions, limit=limit, **settings)
    output: AgentLoopOutput = asyncio.run(loop.run({"temperature": 1.0}, seed=5, raw_prompt=[], agent_name="overworld"))
    assert len(output.response_ids) == len(output.response_mask) <= limit
    return output


def trained(output: AgentLoopOutput) -> str:
    return "".join(chr(token) for token, ours in zip(output.response_ids, output.response_mask, strict=True) if ours)


@pytest.mark.parametrize("log_probs", [True, False])
def test_an_episode_becomes_a_sample(verl: ModuleType, toy_server: ServerProcess, log_probs: bool) -> None:
    free = server_info(toy_server.address).slots_free
    output = play(verl, toy_server.address, ["up", "down", "up", "sideways", "up", "up"], log_probs=log_probs)
    assert (output.reward_score, output.extra_fields["success"]) == (3.0, True)
    assert trained(output).count('{"action": "') == 6
    assert (output.num_turns, output.metrics.tool_calls) == (13, 6.0)
    assert (output.response_logprobs is not None) == log_probs
    if output.response_logprobs is not None:
        assert [bool(value) for value in output.response_logprobs] == [bool(ours) for ours in output.response_mask]
    # A turn that was skipped shows the same picture again; the final observation is not shown.
    assert output.multi_modal_data is not None
    assert len(output.multi_modal_data["images"]) == 6
    with Session(toy_server.address, "toy/Count", 1) as session:
        [first] = session.reset([5])
        assert (first.observation.images[0].pixels == output.multi_modal_data["images"][0]).all()
    assert server_info(toy_server.address).slots_free == free


def test_a_response_ends_where_it_has_no_more_room(verl: ModuleType, toy_server: ServerProcess) -> None:
    output = play(verl, toy_server.address, ["up", "up", "up"], limit=100)  # the second prompt has more characters
    assert (output.reward_score, output.extra_fields["success"], trained(output)) == (1.0, False, '{"action": "up"}')
    assert play(verl, toy_server.address, ["up"], limit=5).response_mask == [1] * 5


def test_turns_can_be_bounded(verl: ModuleType, toy_server: ServerProcess) -> None:
    output = play(verl, toy_server.address, ["up", "up", "up"], max_turns=2)
    assert (output.reward_score, output.extra_fields["success"]) == (2.0, False)


def test_an_episode_is_played_again_when_the_simulator_fails(verl: ModuleType, toy_server: ServerProcess) -> None:
    output = play(verl, toy_server.address, ["up", "raise", "up", "up", "up"])
    assert (output.reward_score, trained(output)) == (3.0, '{"action": "up"}' * 3)
    with pytest.raises(verl.SimulatorError, match="toy/Count: ENV_ERROR: RuntimeError: boom"):
        play(verl, toy_server.address, ["raise"] * 3)


def test_episodes_that_wait_for_a_slot_hold_up_none_that_has_one(verl: ModuleType) -> None:
    """More wait than asyncio's own pool has threads."""

    async def play_all(server: str, episodes: int) -> list[AgentLoopOutput]:
        loops = [make_loop(verl, server, ["up"] * 3) for _ in range(episodes)]
        return await asyncio.gather(*(loop.run({}, seed=seed, raw_prompt=[]) for seed, loop in enumerate(loops)))

    with ServerProcess("tests.support.toy_env:Toy", arguments=("--slots", "4", "--workers", "1")) as server:
        outputs = asyncio.run(play_all(server.address, 4 + (os.cpu_count() or 1) + 5))
    assert {output.reward_score for output in outputs} == {3.0}
