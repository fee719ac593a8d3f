"""Runs the agent loop on verl's own AgentLoopBase, against an env server: `make example-verl`.

Real are verl's base class, its tokens across turns, the processor, the env server and the episodes. verl's servers of
language models need a GPU, so here `Dice` stands in for one: it writes well-formed replies with random actions.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf
from overworld import Session
from overworld.host.process import ServerProcess
from transformers import Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, ToolListWrap
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

_HERE = Path(__file__).parent
sys.path += [str(_HERE), str(_HERE.parent / "trl")]
from tiny_gemma import make_tokenizer  # noqa: E402

_EPISODES = 32
_IMAGE_TOKENS = 16
_REPLY = '{{"thoughts": "", "action": "{}"}}'


class Dice:
    """Stands in for verl's LLMServerClient."""

    def __init__(self, processor: Gemma3Processor, seed: int) -> None:
        self._tokenizer = processor.tokenizer
        self._chance = random.Random(seed)
        self.replies: dict[str, list[str]] = {}

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: list[Any] | None = None,
        **_: Any,
    ) -> TokenOutput:
        """A random action, as a reply of the form that the prompt asks for."""
        assert prompt_ids.count(self._tokenizer.image_token_id) == _IMAGE_TOKENS * len(image_data or ())
        reply = _REPLY.format(self._chance.choice("+-"))
        self.replies.setdefault(request_id, []).append(reply)
        tokens = self._tokenizer(reply + self._tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        return TokenOutput(token_ids=tokens, log_probs=[-0.7] * len(tokens))


async def play(server: str, processor: Gemma3Processor) -> list[tuple[AgentLoopOutput, list[str]]]:
    """Episodes with the seeds 0, 1, ..., all at once, each with the actions that its model named."""
    [settings] = OmegaConf.load(_HERE / "agent_loop.yaml")
    settings = OmegaConf.merge(settings, {"servers": [server]})
    config = OmegaConf.create(
        {"actor_rollout_ref": {"rollout": {"prompt_length": 512, "response_length": 4096}}, "data": {}}
    )

    async def one(seed: int) -> tuple[AgentLoopOutput, list[str]]:
        dice = Dice(processor, seed)
        loop = hydra.utils.instantiate(
            config=settings,
            trainer_config=DictConfigWrap(config),
            server_manager=dice,
            tokenizer=processor.tokenizer,
            processor=processor,
            hf_model_type="gemma3",
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data),
            tools=ToolListWrap([]),
        )
        output = await loop.run({"temperature": 1.0}, seed=seed, raw_prompt=[])
        [replies] = dice.replies.values()
        return output, replies

    return await asyncio.gather(*map(one, range(_EPISODES)))


def check(seed: int, output: AgentLoopOutput, replies: list[str], session: Session, processor: Gemma3Processor) -> None:
    """The sample holds what was played: played again, the same actions earn the same, and only replies are trained."""
    [result] = session.reset([seed])
    total = 0.0
    for reply in replies:
        [result] = session.step([json.loads(reply)["action"]])
        total += result.reward
    assert result.end is not None
    assert (output.reward_score, output.extra_fields["success"]) == (total, result.success)
    trained = [token for token, ours in zip(output.response_ids, output.response_mask, strict=True) if ours]
    assert processor.tokenizer.decode(trained) == "".join(reply + processor.tokenizer.eos_token for reply in replies)
    assert len(output.multi_modal_data["images"]) == len(replies) == (output.num_turns - 1) / 2
    assert len(output.response_logprobs) == len(output.response_ids)


def main() -> None:
    """Plays and checks."""
    parameters = inspect.signature(LLMServerClient.generate).parameters
    assert parameters.keys() >= inspect.signature(Dice.generate).parameters.keys() - {"_"}, (
        "verl's interface has changed"
    )
    tokenizer = make_tokenizer([_REPLY.format("+"), "The picture shows a target and the current number"])
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        tokenizer,
        tokenizer.chat_template,
        image_seq_length=_IMAGE_TOKENS,
    )
    with ServerProcess("gym_cards", arguments=("--slots", str(_EPISODES + 1))) as server:
        played = asyncio.run(play(server.address, processor))
        with Session(server.address, "gym_cards/NumberLine", 1, options={"max_turns": 20}) as session:
            for seed, (output, replies) in enumerate(played):
                check(seed, output, replies, session, processor)
    rewards = [output.reward_score for output, _ in played]
    turns = sum(len(replies) for _, replies in played)
    print(f"{len(played)} episodes, {turns} turns, mean return {sum(rewards) / len(rewards):.2f}: as played again")


if __name__ == "__main__":
    main()
