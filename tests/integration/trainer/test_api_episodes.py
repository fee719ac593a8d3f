"""Episodes whose replies were written by the policy server: what a trainer elsewhere would learn from them."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import torch
from overworld.evaluation.conversation import data_url
from overworld.host.process import ServerProcess
from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.episodes import Episodes
from overworld_trainer.learner import Learner
from overworld_trainer.metrics import Metric, Metrics
from overworld_trainer.reference import Reference
from overworld_trainer.rollout import Collector, Rollout, Step
from overworld_trainer.samples import make_samples
from overworld_trainer.seeds import derive, episode_seed
from overworld_vlm.batch import Message
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM, load
from overworld_vlm.writer import Request, Writer

from tests.integration.policy.conftest import serve
from tests.integration.trainer.test_collector import settings
from tests.support.checkpoints import write
from tests.support.learning import gradients
from tests.support.tiny_vlm import make_vlm

TEMPERATURE = 0.7


def seed_of(request: Request) -> int:
    """One number for the noise of a request, which is all that the API takes."""
    return derive(*request.key)


class SeededWriter(Writer):
    """A native one, with the noise that goes with the API's seeds."""

    def __init__(self, vlm: VLM) -> None:
        self._engine = Engine(vlm)

    def add(self, request: Request) -> None:
        request.key = (seed_of(request),)
        self._engine.add(request)

    def step(self) -> list[Request]:
        return self._engine.step()


class ApiWriter(Writer):
    """Has the policy server write replies. Of its answers it keeps token ids and log-probs, nothing else."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        self._waiting: list[Request] = []

    def close(self) -> None:
        self._http.close()

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def step(self) -> list[Request]:
        request = self._waiting.pop()
        body = {
            "model": "played@0", "messages": as_openai(request.messages), "seed": seed_of(request),
            "temperature": request.temperature, "max_tokens": request.max_new_tokens, "logprobs": True,
            "return_token_ids": True,
        }  # fmt: skip
        response = self._http.post("/chat/completions", json=body)
        assert response.status_code == 200, response.text
        answer = response.json()
        choice = answer["choices"][0]
        request.prompt = dataclasses.replace(request.prompt, ids=torch.tensor(answer["prompt_token_ids"]))
        request.tokens = choice["token_ids"]
        request.logps = [token["logprob"] for token in choice["logprobs"]["content"]]
        request.finish = choice["finish_reason"]
        return [request]


def as_openai(messages: Sequence[Message]) -> list[Message]:
    def sent(part: Message) -> Message:
        if part["type"] == "text":
            return part
        return {"type": "image_url", "image_url": {"url": data_url(part["image"])}}

    return [{**message, "content": [sent(part) for part in message["content"]]} for message in messages]


def learnt(rollout: Rollout, vlm: VLM, config: TrainerConfig) -> tuple[Metrics, dict[str, torch.Tensor]]:
    """The metrics of an update from a rollout, and the gradients of its last minibatch."""
    critic = Critic(vlm.hidden_size, config.critic.layers, 4)
    samples = make_samples(rollout, vlm, Reference(vlm, frozen=make_vlm(1)), critic, config)
    metrics = Learner(config, vlm, critic).update(samples, 0)
    return metrics, gradients(vlm.model)


def scaled(step: Step) -> Step:
    return dataclasses.replace(step, logps=step.logps * 1.01)


def test_an_episode_through_the_api_teaches_exactly_what_a_native_one_does(
    server: ServerProcess, tmp_path: Path
) -> None:
    env = {"id": "gym_cards/NumberLine", "slots": 3, "options": {"size": 56}}
    config = settings(
        server, env, temperature=TEMPERATURE, max_new_tokens=40, updates=2, kl={"beta": 0.5},
        critic={"input": "last_prompt_token", "warmup_updates": 0}, policy={"epochs": 2, "minibatch": 4, "lr": 1e-4},
    )  # fmt: skip
    checkpoint = tmp_path / "runs" / "played" / "checkpoints" / "000000"
    write(checkpoint, make_vlm(), 0)

    def collect(writer: Writer, vlm: VLM) -> Rollout:
        with Episodes.open(config, lambda *place: episode_seed(config.seed, *place)) as episodes:
            return Collector(config, vlm, writer, episodes).collect(6)

    def fresh() -> VLM:
        return load(checkpoint / "weights")

    native_rollout = collect(SeededWriter(vlm := fresh()), vlm)
    served = serve(tmp_path / "runs")
    with contextlib.ExitStack() as stack:
        stack.callback(served.stop)
        api_rollout = collect(stack.enter_context(contextlib.closing(ApiWriter(served.url))), vlm)

    for ours, theirs in zip(api_rollout.flat, native_rollout.flat, strict=True):
        assert torch.equal(ours.prompt.ids, theirs.prompt.ids)
        assert torch.equal(ours.reply, theirs.reply)
        assert (ours.reward, ours.end, ours.cut) == (theirs.reward, theirs.end, theirs.cut)
    assert {step.cut for step in native_rollout.flat} == {True, False}
    assert any(step.prompt.pictures for step in api_rollout.flat)
    api, api_gradients = learnt(api_rollout, fresh(), config)
    native, native_gradients = learnt(native_rollout, fresh(), config)
    assert abs(native[Metric.POLICY_LOSS]) > 1e-3
    assert native[Metric.MAX_RATIO] > 1.01
    for metric in (Metric.POLICY_LOSS, Metric.VALUE_LOSS, Metric.KL_K3, Metric.MAX_RATIO, Metric.POLICY_GRAD_NORM):
        assert api[metric] == pytest.approx(native[metric], abs=1e-6), metric
    for name, gradient in native_gradients.items():
        assert torch.allclose(api_gradients[name], gradient, rtol=0, atol=1e-6)

    # What is compared depends on the log-probs: those at another temperature would be off by far more than this.
    off = dataclasses.replace(api_rollout, steps=[list(map(scaled, row)) for row in api_rollout.steps])
    assert abs(learnt(off, fresh(), config)[0][Metric.POLICY_LOSS] - native[Metric.POLICY_LOSS]) > 1e-6
