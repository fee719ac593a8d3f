"""The lab on a server, and continuous actions from a model's reply to a verified record."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from overworld import Act, Fleet, Reset
from overworld.evaluation.baselines import ExpertAgent
from overworld.evaluation.conversation import Conversation, Message, Recipe, read_reply
from overworld.evaluation.episodes import TensorRecord
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.model import Answer
from overworld.evaluation.verification import Status, verify
from overworld.host.process import ServerProcess
from overworld_trainer.config import TrainerConfig
from overworld_trainer.demonstrations import ExpertDemonstrations
from overworld_trainer.episodes import Episodes, PlayerState

REPLIES = ("[0.5, -1]", '"0.25 1"', '"2 0"', '"up"', "0.5")


class Reacher:
    """A model that gives numbers in all forms, some of which are no action."""

    name, temperature, max_tokens, url = "reacher", 0.0, 64, "here"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        answers = []
        for messages, seed in prompts:
            self.prompts.append(messages[0]["content"][-1]["text"])
            answers.append(Answer(f'{{"thoughts": "On.", "action": {REPLIES[seed % len(REPLIES)]}}}', False, "same"))
        return answers


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(
        "overworld_envs.lab.reach:Reach", arguments=("--workers", "1", "--slots", "8", "--allow-expert")
    ) as server:
        yield server


def test_continuous_actions_are_evaluated_and_verified(server: ServerProcess, tmp_path: Path) -> None:
    model = Reacher()
    options = {"size": 56}
    with Fleet([server.address], "lab/Reach", 4, options=options, fallback_reward=None) as fleet:
        report, episodes = evaluate(
            model, fleet, [Reset(seed=seed) for seed in range(6)], recipe=Recipe(), keep=tmp_path / "kept"
        )
        assert fleet.fallback_reward == pytest.approx(-1.1)
    assert all("Action: 2 numbers from -1 to 1" in prompt for prompt in model.prompts)
    told = {"[0.5, -1]": [0.5, -1.0], '"0.25 1"': [0.25, 1.0]}
    seen = set()
    for turn in (turn for episode in episodes for turn in episode.turns):
        form = turn.reply.removesuffix("}").split('"action": ')[1]
        seen.add(form)
        # Two numbers out of bounds are an action that is not admissible; what is not two numbers is none.
        outcome = "not_admissible" if form == '"2 0"' else "no_action"
        assert turn.outcome == ("executed" if form in told else outcome)
        if form in told:
            assert turn.executed == turn.action
            assert isinstance(turn.executed, TensorRecord)
            assert turn.executed.array().tolist() == told[form]
    assert seen == set(REPLIES)
    assert 0 < report.invalid_replies < 1
    verification = verify(tmp_path / "kept", [server.address])
    assert verification.status is Status.VERIFIED, verification.differences


def test_the_expert_of_a_continuous_task_is_an_agent_to_compare_with(server: ServerProcess) -> None:
    with Fleet([server.address], "lab/Reach", 4, options={"size": 56}, expert=True) as fleet:
        report, _ = evaluate(ExpertAgent(fleet.spec), fleet, [Reset(seed=seed) for seed in range(8)], recipe=Recipe())
    assert (report.success.value, report.invalid_replies) == (1.0, 0.0)
    assert report.mean_return > 0.9


def test_random_numbers_are_cloned_with_the_experts_thoughts(server: ServerProcess) -> None:
    config = TrainerConfig.model_validate(
        {
            "run": "unused", "servers": server.address, "clone": {"updates": 1, "random_actions": 0.5},
            "envs": [{"id": "lab/Reach", "slots": 8, "options": {"size": 56, "max_turns": 3}}],
        }
    )  # fmt: skip
    with ExpertDemonstrations.open(config) as demonstrations:
        replies = [read_reply(one.reply) for _ in range(4) for one in demonstrations.batch()]
    actions = [np.array(reply.action.split(), float) for reply in replies if isinstance(reply.action, str)]
    assert len(actions) == len(replies) == 32
    assert all(action.shape == (2,) and (abs(action) <= 1).all() for action in actions)
    assert all(reply.thoughts.startswith("The target is ") for reply in replies)


def test_a_tensors_bounds_are_in_the_prompt(server: ServerProcess) -> None:
    with Fleet([server.address], "lab/Reach", 1) as fleet:
        conversation = Conversation(fleet.spec, Recipe(reply="action"))
        conversation.observe(fleet.step([Reset(seed=1)])[0])
        assert conversation.messages()[0]["content"][-1]["text"].splitlines()[-2:] == [
            "Action: 2 numbers from -1 to 1", 'Reply: {"action": "..."}',
        ]  # fmt: skip


def test_an_episode_of_continuous_actions_goes_on_after_a_restart(server: ServerProcess) -> None:
    config = TrainerConfig.model_validate(
        {
            "run": "unused", "servers": server.address, "clone": {"updates": 1},
            "envs": [{"id": "lab/Reach", "slots": 2, "options": {"size": 56}}],
        }
    )  # fmt: skip
    seen = []
    state: list[PlayerState] | None = None
    for moves in ((["0.1 0.2", "3 0"], ["0.3 -0.2", "what"]), ()):
        with Episodes.open(config, lambda env, slot, episode: 50 + slot, state) as episodes:
            for replies in moves:
                acts = {
                    player: Act(player.conversation.read(f'{{"action": "{reply}"}}').action)
                    for player, reply in zip(episodes.players, replies, strict=True)
                }
                episodes.send(acts)
                episodes.receive_all()
            state = json.loads(json.dumps(episodes.state()))
            seen.append([player.result.observation.images[0].xxh64 for player in episodes.players])
    assert seen[0] == seen[1]
    assert state is not None
    assert [len(one["actions"]) for one in state] == [2, 2]
    assert state[1]["actions"] == [[3.0, 0.0], None]
