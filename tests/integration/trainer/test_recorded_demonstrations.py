"""Cloning episodes on disk: which turns are learnt from, with which prompts, and what comes of it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from overworld import Fleet, Reset
from overworld.errors import EvaluationError, SettingsError
from overworld.evaluation.conversation import Message, Recipe, write_reply
from overworld.evaluation.episodes import Episode
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.folder import EpisodeFolder, EpisodeWriter
from overworld.evaluation.model import Answer
from overworld.host.process import ServerProcess
from overworld_trainer.clone import clone
from overworld_trainer.config import TrainerConfig
from overworld_trainer.demonstrations import RecordedDemonstrations, texts
from overworld_trainer.display import Display
from overworld_trainer.policy import make_start
from overworld_trainer.run import Run
from overworld_trainer.train import train
from overworld_vlm import checkpoint
from overworld_vlm.batch import encode
from overworld_vlm.engine import Engine
from overworld_vlm.tiny import make_tiny
from overworld_vlm.writer import Request

from tests.support.scripted_model import tensors
from tests.support.tiny_vlm import SIZES

RECIPE = Recipe(reply="action", history=2)
TINY = {"path": "tiny", "tiny": SIZES.model_dump()}


class Scripted:
    """Answers what `reply(number of the question)` says, and remembers what it was shown."""

    name, temperature, max_tokens, url = "scripted", 0.0, 64, "nowhere"

    def __init__(self, reply: Callable[[int], str], cut: Callable[[int], bool] = lambda number: False) -> None:
        self._reply = reply
        self._cut = cut
        self.asked: list[tuple[list[bytes], str, str]] = []

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        answers = []
        for messages, _ in prompts:
            number = len(self.asked)
            answers.append(Answer(self._reply(number), self._cut(number), "weights"))
            self.asked.append((*seen(messages), answers[-1].text))
        return answers


def seen(messages: list[Message]) -> tuple[list[bytes], str]:
    *images, text = messages[0]["content"]
    return [part["image"].pixels.tobytes() for part in images], text["text"]


def act(action: str) -> str:
    return write_reply(RECIPE, action, "")


def record(server: ServerProcess, folder: Path, model: Scripted, episodes: int = 8, env: str = "puppet/Choice") -> Path:
    with Fleet([server.address], env, 1) as fleet:
        evaluate(model, fleet, [Reset(seed) for seed in range(episodes)], recipe=RECIPE, keep=folder)
    return folder


@pytest.fixture
def mixed(server: ServerProcess, tmp_path: Path) -> Path:
    """Every other episode goes right all four times; the others go left."""
    return record(server, tmp_path / "mixed", Scripted(lambda number: act("left" if number // 4 % 2 else "right")))


def settings(run: Path, *folders: Path, servers: str = "127.0.0.1:1", **clone: Any) -> TrainerConfig:
    """Without a server to play on, unless one is named."""
    fields: dict[str, Any] = {
        "run": run,
        "servers": servers,
        "envs": [{"id": "puppet/Choice", "slots": 4}],
        "model": TINY,
        "recipe": RECIPE,
        "clone": {"updates": 40, "lr": 1e-2, "episodes": folders} | clone,
        "updates": 2,
        "rollout_steps": 4,
        "critic": {"layers": [16], "warmup_updates": 1},
        "retry_budget": 0.1,
        "threads": 1,
        "max_new_tokens": 20,
    }
    return TrainerConfig(**fields)


def replies(config: TrainerConfig, batches: int = 20) -> list[str]:
    with RecordedDemonstrations.open(config) as source:
        return [one.reply for _ in range(batches) for one in source.batch()]


def test_prompts_and_replies_are_those_that_were_given(server: ServerProcess, tmp_path: Path) -> None:
    model = Scripted(lambda number: f"{number} " + act("right"))
    folder = record(server, tmp_path / "eval", model)
    with RecordedDemonstrations.open(settings(tmp_path / "run", folder)) as source:
        batches = [source.batch() for _ in range(8)]
        assert source.provenance == {"puppet/Choice": {}}
        assert not source.used_expert
    assert {len(batch) for batch in batches} == {4}, "the number of slots"
    given = [(*seen(one.messages), one.reply) for batch in batches for one in batch]
    assert all(one in model.asked for one in given)
    assert {len(pictures) for pictures, *_ in given} == {1, 2}, "the recipe's history"
    replies = [reply for *_, reply in given]
    assert len(set(replies)) > 20, "most are different"
    assert replies != sorted(replies, key=lambda reply: int(reply.split()[0]))


def test_every_decision_has_its_turn_before_any_comes_again(server: ServerProcess, tmp_path: Path) -> None:
    folder = record(server, tmp_path / "eval", Scripted(lambda number: f"{number} " + act("right")), episodes=20)
    given = replies(settings(tmp_path / "run", folder), 20 * 4 * 5 // 4)
    counts = [given.count(reply) for reply in set(given)]
    assert len(counts) == 80
    assert min(counts) >= 3
    assert max(counts) <= 6


def test_only_successes_are_cloned_unless_others_are_asked_for(mixed: Path, tmp_path: Path) -> None:
    assert set(replies(settings(tmp_path, mixed))) == {act("right")}
    assert set(replies(settings(tmp_path, mixed, successful=False))) == {act("right"), act("left")}
    assert set(replies(settings(tmp_path, mixed, successful=False, min_return=4.0))) == {act("right")}
    with pytest.raises(SettingsError, match=r"of 8 episodes, none is as clone\.successful and clone\.min_return"):
        replies(settings(tmp_path, mixed, min_return=4.5))


def test_replies_that_are_no_examples_are_left_out(server: ServerProcess, tmp_path: Path) -> None:
    def reply(number: int) -> str:
        return ("well, well", act("fly"), act("right"), "cut " + act("right"))[number % 4]

    folder = record(server, tmp_path / "eval", Scripted(reply, lambda number: number % 4 == 3), 3)
    assert set(replies(settings(tmp_path, folder))) == {act("right")}


def test_a_turn_without_a_reply_gets_one_in_the_recipes_form(
    server: ServerProcess, mixed: Path, tmp_path: Path
) -> None:
    source = EpisodeFolder(mixed)
    with EpisodeWriter(tmp_path / "person", source.header) as writer:
        for episode in source:
            fields = episode.model_dump(mode="python")
            for turn in fields["turns"]:
                turn |= {"reply": "", "actor": "expert"}
            writer.append(Episode.model_validate(fields))
    (mixed / "frames").rename(tmp_path / "frames")
    (tmp_path / "person" / "frames").rmdir()
    (tmp_path / "frames").rename(tmp_path / "person" / "frames")
    config = settings(tmp_path, tmp_path / "person")
    assert set(replies(config)) == {act("right")}
    assert RecordedDemonstrations.open(config).used_expert


def test_folders_that_cannot_be_cloned_are_refused(server: ServerProcess, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"played with the recipe .*'history': 2.* set recipe to theirs"):
        RecordedDemonstrations.open(settings(tmp_path, mixed).model_copy(update={"recipe": Recipe()}))
    with pytest.raises(EvaluationError, match="nowhere"):
        RecordedDemonstrations.open(settings(tmp_path, tmp_path / "nowhere"))
    (mixed / "episodes.jsonl").write_bytes(
        (mixed / "episodes.jsonl").read_bytes().replace(b'"reward":1.0', b'"reward":"1"')
    )
    with pytest.raises(EvaluationError, match=r"line 1, is not an episode: .*reward"):
        RecordedDemonstrations.open(settings(tmp_path, mixed))


def test_a_frame_that_was_changed_is_refused(mixed: Path, tmp_path: Path) -> None:
    one, *others = sorted((mixed / "frames").iterdir())
    for other in others:
        other.write_bytes(one.read_bytes())
    with pytest.raises(EvaluationError, match="was changed"):
        replies(settings(tmp_path, mixed))


def test_the_model_learns_to_do_what_succeeded(mixed: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    with RecordedDemonstrations.open(settings(tmp_path / "run", mixed, updates=60)) as source:
        vlm = make_tiny(texts(source), SIZES)
        clone(vlm, source.batch, settings(tmp_path, mixed, updates=60).clone, lambda _, loss: losses.append(loss))
        assert losses[-1] < 0.1 * losses[0]
        for one in source.batch():
            pictures, text = seen(one.messages)
            images = [np.frombuffer(pixels, np.uint8).reshape(28, 28, 3) for pixels in pictures]
            content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": text}]
            request = Request(encode(vlm, [{"role": "user", "content": content}]), 20, temperature=0)
            Engine(vlm).run([request])
            assert vlm.tokenizer.decode(request.tokens, skip_special_tokens=True) == act("right")


def test_the_start_is_decided_by_the_seed_and_needs_no_env_server(mixed: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        config = settings(tmp_path / name, mixed, updates=3).model_copy(update={"seed": seed})
        make_start(Run.open(config), Display(config))
    assert tensors(tmp_path / "one", 0) == tensors(tmp_path / "same", 0) != tensors(tmp_path / "other", 0)


def test_a_run_that_begins_with_the_episodes_of_another(server: ServerProcess, mixed: Path, tmp_path: Path) -> None:
    """From its tables of episodes: a run that learnt from the expert, one that learnt from that run."""
    first = settings(tmp_path / "first", servers=server.address)
    tables_kept = first.table.model_copy(update={"every": 1})
    from_expert = first.clone.model_copy(update={"random_actions": 0.5})
    train(first.model_copy(update={"table": tables_kept, "clone": from_expert}))
    assert checkpoint.read(tmp_path / "first" / "checkpoints" / "000002").used_expert
    tables = sorted((tmp_path / "first" / "episodes").iterdir())
    assert len(tables) == 2
    assert all(EpisodeFolder(table).count() for table in tables)
    config = settings(tmp_path / "second", *tables, servers=server.address, successful=False)
    train(config)
    for update in (0, 2):
        manifest = checkpoint.read(tmp_path / "second" / "checkpoints" / f"{update:06}")
        assert not manifest.used_expert
        assert manifest.provenance == {"puppet/Choice": {}}
    lines = (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["replies/unparseable"] < 0.7 for line in lines)
