"""Cloning the envs' experts: form is learnt, the task is not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from overworld.errors import ContractError
from overworld.host.process import ServerProcess
from overworld_trainer.clone import clone
from overworld_trainer.codec import as_arrays
from overworld_trainer.config import TrainerConfig
from overworld_trainer.demonstrations import Demonstration, ExpertDemonstrations, texts
from overworld_trainer.display import Display
from overworld_trainer.episodes import EnvError
from overworld_trainer.policy import load_policy, make_start
from overworld_trainer.run import Run
from overworld_vlm import checkpoint
from overworld_vlm.batch import encode
from overworld_vlm.engine import Engine
from overworld_vlm.score import score
from overworld_vlm.writer import Request

from tests.support.scripted_env import CHOICE
from tests.support.scripted_model import run_settings
from tests.support.tiny_vlm import make_vlm

ENVS = [{"id": "gym_cards/NumberLine", "slots": 4, "options": {"size": 56}}, {"id": "puppet/Choice", "slots": 2}]
TINY = {"path": "tiny", "tiny": {"hidden_size": 32, "intermediate_size": 64, "vision_layers": 1, "vocab_size": 340}}


def settings(server: ServerProcess, folder: str | Path, **changes: Any) -> TrainerConfig:
    fields = {"envs": ENVS, "model": TINY, "clone": {"updates": 2}, "recipe": {}}
    return run_settings(server, folder, "", **(fields | changes))


def demonstrations(server: ServerProcess, count: int = 6, **changes: Any) -> list[list[Demonstration]]:
    with ExpertDemonstrations.open(settings(server, "unused", **changes)) as source:
        return [source.batch() for _ in range(count)]


def replies(batches: list[list[Demonstration]]) -> list[list[dict[str, str]]]:
    return [[json.loads(one.reply) for one in batch] for batch in batches]


def test_demonstrations_of_a_chat_are_bare_actions_and_the_tokenizer_sees_all_of_it(server: ServerProcess) -> None:
    recipe = {"reply": "bare", "chat": {"opening": "A game.", "turn": "Your turn."}}
    with ExpertDemonstrations.open(
        settings(server, "unused", clone={"updates": 1, "random_actions": 0}, recipe=recipe)
    ) as source:
        assert {one.reply for one in source.batch()} <= {"+", "-", "left"}
        assert {"A game.", "Your turn.", "left"} <= set(texts(source))


def test_demonstrations_show_the_prompt_and_the_experts_reply(server: ServerProcess) -> None:
    for batch in demonstrations(server, clone={"updates": 1, "random_actions": 0}):
        assert len(batch) == 6
        for number, one in enumerate(batch):
            (message,) = one.messages
            assert [part["type"] for part in message["content"]] == ["image", "text"]
            reply = json.loads(one.reply)
            assert list(reply) == ["thoughts", "action"]
            if number < 4:
                assert ("go up" in reply["thoughts"]) == (reply["action"] == "+")
            else:
                assert reply == {"thoughts": "Which one?", "action": "left"}


def test_a_share_of_the_actions_is_random_and_the_thoughts_stay(server: ServerProcess) -> None:
    for share in (1.0, 0.5):
        batches = replies(demonstrations(server, 25, clone={"updates": 1, "random_actions": share}))
        actions = [reply["action"] for batch in batches for reply in batch[4:]]
        assert set(actions) == {"left", "right"}
        assert actions.count("right") / len(actions) == pytest.approx(share / 2, abs=0.2)
        assert {reply["thoughts"] for batch in batches for reply in batch[4:]} == {"Which one?"}


def test_the_reply_has_the_recipes_form(server: ServerProcess) -> None:
    batches = replies(demonstrations(server, 1, recipe={"reply": "action"}))
    assert [list(reply) for reply in batches[0]] == [["action"]] * 6


def test_no_expert_is_asked_where_nothing_of_its_advice_is_used() -> None:
    form = {"envs": [{"id": "puppet/Choice", "slots": 2}], "recipe": {"reply": "action"}}
    with ServerProcess(CHOICE, arguments=("--workers", "1", "--slots", "4")) as silent:
        batches = replies(demonstrations(silent, 10, **form))
        assert {reply["action"] for batch in batches for reply in batch} == {"left", "right"}
        with ExpertDemonstrations.open(settings(silent, "unused", **form)) as source:
            assert not source.used_expert
        wanting: list[dict[str, Any]] = [{"recipe": {}}, {"clone": {"updates": 2, "random_actions": 0.5}}]
        for asks in wanting:
            with pytest.raises(ContractError, match="EXPERT_NOT_ALLOWED"):
                demonstrations(silent, **(form | asks))


def test_demonstrations_are_decided_by_the_seed(server: ServerProcess) -> None:
    ours, same, other = (
        [(one.reply, one.messages[0]["content"][0]["image"].xxh64) for batch in batches for one in batch]
        for batches in (demonstrations(server), demonstrations(server), demonstrations(server, seed=1))
    )
    assert ours == same
    assert ours != other
    assert len({image for _, image in ours}) > 10  # episodes end and others begin


def test_an_env_that_lists_no_actions_has_none_to_draw_from(server: ServerProcess) -> None:
    envs = [{"id": "puppet/Free", "slots": 2}]
    with pytest.raises(EnvError, match=r"puppet/Free lists no actions .* clone\.random_actions = 0"):
        demonstrations(server, 1, envs=envs)
    batches = replies(demonstrations(server, 1, envs=envs, clone={"updates": 1, "random_actions": 0}))
    assert [reply["action"] for reply in batches[0]] == ["left"] * 2


def test_the_loss_is_a_mean_within_each_reply_and_then_over_replies(server: ServerProcess) -> None:
    (batch,) = demonstrations(server, 1)
    vlm = make_vlm()
    expected = []
    for one in batch:
        ids = [*vlm.tokenizer(one.reply, add_special_tokens=False)["input_ids"], vlm.tokenizer.eos_token_id]
        with torch.no_grad():
            logps = score(vlm, [encode(vlm, as_arrays(one.messages))], [torch.tensor(ids)]).logps
        expected.append(-float(logps.mean()))
    config = settings(server, "unused", clone={"updates": 1}).clone
    seen: list[tuple[int, float]] = []
    clone(vlm, lambda: batch, config, lambda update, loss: seen.append((update, loss)))
    ((update, loss),) = seen
    assert update == 0
    assert loss == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_cloning_teaches_the_reply_with_its_end(server: ServerProcess) -> None:
    (batch,) = demonstrations(server, 1)
    one = batch[-1]
    vlm = make_vlm()
    losses = []
    config = settings(server, "unused", clone={"updates": 80, "lr": 5e-3}).clone
    clone(vlm, lambda: [one], config, lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.1 * losses[0]
    request = Request(encode(vlm, as_arrays(one.messages)), 60, temperature=0)
    Engine(vlm).run([request])
    assert vlm.tokenizer.decode(request.tokens, skip_special_tokens=True) == one.reply
    assert request.finish == "stop"


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}])
def test_the_start_is_a_whole_model_that_is_the_reference_and_the_base(
    server: ServerProcess, tmp_path: Path, lora: dict[str, int] | None
) -> None:
    config = settings(server, tmp_path / "run", clone={"updates": 3, "lora": lora}, model=TINY | {"lora": {"r": 2}})
    run = Run.open(config)
    assert not run.has_start
    make_start(run, Display(config))
    vlm, manifest = checkpoint.load_checkpoint(run.start)
    assert (manifest.kind, manifest.update, manifest.used_expert) == ("model", 0, True)
    assert set(manifest.provenance) == {"gym_cards/NumberLine", "puppet/Choice"}
    assert not any("lora" in name for name in vlm.model.state_dict())
    policy, _ = load_policy(run, None)
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert run.base == run.start / "weights"


def test_cloning_an_adapter_changes_the_merged_model(server: ServerProcess, tmp_path: Path) -> None:
    """With another loss it would be another model: the adapter is not lost on the way."""
    starts = []
    for name, updates in (("few", 1), ("many", 4)):
        config = settings(server, tmp_path / name, clone={"updates": updates, "lr": 1e-2, "lora": {"r": 4}})
        run = Run.open(config)
        make_start(run, Display(config))
        starts.append(checkpoint.load_checkpoint(run.start)[0].model.state_dict())
    changed = {name for name in starts[0] if not torch.equal(starts[0][name], starts[1][name])}
    assert len(changed) == 2 * 7
    assert all("language_model.layers" in name for name in changed)
