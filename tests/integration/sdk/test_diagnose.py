"""Diagnoses of scripted agents on a real env server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from overworld import Fleet, Image, Reset
from overworld.commands.diagnose import main
from overworld.errors import ContractError, EvaluationError, Reason
from overworld.evaluation.comparison import compare_folders
from overworld.evaluation.conversation import Message, Recipe
from overworld.evaluation.diagnosis.diagnose import DIAGNOSIS, PAGE, diagnose, play_controls
from overworld.evaluation.episodes import ImageRecord
from overworld.evaluation.folder import REPORT, EpisodeFolder, decisions
from overworld.evaluation.model import Answer
from overworld.evaluation.verification import Status, verify
from overworld.host.process import ServerProcess

from tests.support.errand import AGENTS, ERRAND, RECIPE, Abilities, ScriptedAgent
from tests.support.json_endpoint import JsonHandler, serving_json

TASKS = [Reset(seed=seed) for seed in range(40)]
SLOTS = 40


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(ERRAND, arguments=("--slots", "130", "--workers", "1", "--allow-expert")) as server:
        yield server


def opening(server: ServerProcess, slots: int = SLOTS, env: str = "errand/Errand") -> Callable[[bool], Fleet]:
    return lambda expert: Fleet([server.address], env, slots, expert=expert)


@pytest.mark.parametrize("name", AGENTS)
def test_the_defect_of_an_agent_is_named_and_no_other(name: str, server: ServerProcess) -> None:
    found = diagnose(ScriptedAgent(name, AGENTS[name]), opening(server), TASKS, recipe=RECIPE)
    assert found.named == (() if name == "healthy" else (name,))
    assert sum(found.shares.values()) == pytest.approx(1 - found.conditions["as_is"].success.value)
    if name != "healthy":
        assert found.shares[name] > 0.4


def test_the_controls_alone_say_whether_success_depends_on_the_pictures(server: ServerProcess, tmp_path: Path) -> None:
    model = ScriptedAgent("healthy", AGENTS["healthy"])
    with opening(server, 8)(False) as fleet:
        played = play_controls(model, fleet, TASKS[:8], recipe=RECIPE, keep=tmp_path)
    assert list(played) == ["as_is", "blank_frames", "swapped_frames"]
    success = {name: report.success.value for name, (report, _) in played.items()}
    assert success["as_is"] > max(success["blank_frames"], success["swapped_frames"])
    for name, (report, episodes) in played.items():
        assert [episode.seed for episode in episodes] == list(range(8))
        assert report.substitution == EpisodeFolder(tmp_path / name).header.substitution == name.replace("as_is", "")


class Remembering(ScriptedAgent):
    """Keeps what it was asked."""

    def __init__(self, name: str, abilities: Abilities) -> None:
        super().__init__(name, abilities)
        self.asked: dict[str, int] = {}

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        for messages, seed in prompts:
            self.asked[asked(messages)] = seed
        return super().answer_all(prompts)


def asked(messages: list[Message]) -> str:
    return repr([part.get("text") or part["image"].pixels.tobytes() for part in messages[0]["content"]])


def test_a_diagnosis_that_is_kept(server: ServerProcess, tmp_path: Path) -> None:
    model = Remembering("form", AGENTS["form"])
    folder = tmp_path / "why"
    progress: list[tuple[int, int]] = []
    found = diagnose(
        model, opening(server, 8), TASKS[:8], recipe=RECIPE, keep=folder,
        on_progress=lambda *done: progress.append(done),
    )  # fmt: skip
    assert progress[-1] == (80, 80)
    assert json.loads((folder / DIAGNOSIS).read_bytes()) == json.loads(json.dumps(found.to_json()))
    folders = {name: EpisodeFolder(folder / name) for name in found.conditions}
    assert {name: one.header.substitution for name, one in folders.items()} == {
        "as_is": "",
        "blank_frames": "blank_frames",
        "swapped_frames": "swapped_frames",
        "short_history": "",
        "long_history": "",
        "captions": "captions",
        "earlier_captions": "captions+earlier_captions",
        "notes": "captions+earlier_captions+notes",
        "thoughts": "captions+earlier_captions+notes+thoughts",
        "repairs": "captions+earlier_captions+notes+thoughts+repairs",
    }
    rebuilt = set()
    for name, one in folders.items():
        assert one.header.expert is ("captions" in one.header.substitution), name
        report = json.loads((one.path / REPORT).read_bytes())
        assert report["substitution"] == one.header.substitution
        assert report["success"]["value"] == found.conditions[name].success.value
        rebuilt |= {asked(decision.messages) for decision in decisions(one)}
        assert verify(one.path, [server.address]).status is Status.VERIFIED, name
    assert rebuilt == set(model.asked)
    differences = compare_folders(folders["as_is"], folders["captions"]).differences
    assert any("substitution" in difference and "captions" in difference for difference in differences)
    assert [one.header.recipe.history for one in (folders["short_history"], folders["long_history"])] == [1, 16]
    lent = [shown.xxh64 for turn in next(iter(folders["swapped_frames"])).turns for shown in pictures(turn.shown)]
    donor = list(folders["as_is"])[4]
    own = [image.xxh64 for turn in donor.turns for image in turn.observation.images]
    assert set(lent) <= set(own)
    repaired = [turn for episode in folders["repairs"] for turn in episode.turns if turn.actor == "expert"]
    assert repaired
    assert all(turn.outcome == "executed" for turn in repaired)
    with pytest.raises(EvaluationError, match="already holds"):
        diagnose(model, opening(server, 8), TASKS[:8], recipe=RECIPE, keep=folder)


def pictures(parts: Sequence[Any] | None) -> list[ImageRecord]:
    return [part for part in parts or () if isinstance(part, ImageRecord)]


def test_the_page_needs_nothing_else_and_trusts_nobody(server: ServerProcess, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    diagnose(
        ScriptedAgent(name, AGENTS["sight"]), opening(server, 12), TASKS[:12], recipe=RECIPE, keep=tmp_path / "why"
    )
    page = (tmp_path / "why" / PAGE).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert "src=" not in page


def test_what_a_ladder_shows(server: ServerProcess) -> None:
    """The words of docs/diagnose.md, by which whoever scripts an agent goes."""
    model = Remembering("healthy", Abilities())
    diagnose(model, opening(server, 4), TASKS[:2], recipe=Recipe(history=2))
    prompts = [prompt for prompt in model.asked if "Your thoughts: " in prompt and "Four doors." in prompt]
    assert prompts
    for prompt in prompts:
        assert "'The bars are " in prompt  # next to the picture of the turn before
        assert "What the pictures of this turn show: The doors are " in prompt
        assert "\\nEarlier turns:\\nTurn 0: A lamp. The lamp is " in prompt
        assert " Action: wait\\nTurn 1: A panel. The bars are " in prompt
        assert "\\nYour thoughts: The lamp was " in prompt


def test_an_env_without_captions_is_named(toy_server: ServerProcess) -> None:
    with pytest.raises(EvaluationError, match=r"toy/Count has no words for its pictures.*Env\.caption"):
        diagnose(ScriptedAgent("any", Abilities()), opening(toy_server, 2, "toy/Count"), TASKS[:2], recipe=Recipe())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tasks": TASKS[:1]}, "name two or more"),
        ({"tasks": TASKS[:2] * 2}, "each once"),
        ({"tasks": TASKS[:2], "long_history": 4}, "longer history is of 4 turns, the recipe's of 4"),
        ({"tasks": TASKS[:2], "long_history": 65}, "up to 64"),
    ],
)
def test_what_cannot_be_compared_is_refused(server: ServerProcess, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(EvaluationError, match=says):
        diagnose(ScriptedAgent("any", Abilities()), opening(server, 2), recipe=RECIPE, **arguments)


class Endpoint(JsonHandler):
    """The blind agent as an OpenAI-compatible server."""

    agent = ScriptedAgent("sight", AGENTS["sight"])

    def do_GET(self) -> None:
        self.send({"data": [{"id": "blind"}]})

    def do_POST(self) -> None:
        body = self.read()
        content = [
            {"type": "image", "image": decoded(part["image_url"]["url"])} if part["type"] == "image_url" else part
            for part in body["messages"][0]["content"]
        ]
        (answer,) = self.agent.answer_all([([{"role": "user", "content": content}], body["seed"])])
        self.send({"choices": [{"message": {"content": answer.text}, "finish_reason": "stop"}]})


def decoded(url: str) -> Image:
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return Image("view", np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.fixture
def endpoint() -> Iterator[str]:
    with serving_json(Endpoint) as url:
        yield url


def test_the_command(server: ServerProcess, endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["errand/Errand", "--model", "blind", "--url", endpoint, "--servers", server.address]
    arguments += ["--seeds", "0-13", "--recipe", '{"history": 4}', "--json", str(tmp_path / "why.json")]
    assert main([*arguments, "--keep", str(tmp_path / "why")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "why.json").read_bytes())
    assert found == json.loads((tmp_path / "why" / DIAGNOSIS).read_bytes())
    assert found["named"] == ["sight"]
    assert "Sight: it does not take from the pictures what they show" in " ".join(printed.split())
    assert str(tmp_path / "why" / PAGE) in printed


def test_a_server_that_gives_no_advice_refuses(endpoint: str) -> None:
    with ServerProcess(ERRAND, arguments=("--slots", "4", "--workers", "1")) as server:
        with pytest.raises(ContractError) as refused:
            diagnose(ScriptedAgent("any", Abilities()), opening(server, 2), TASKS[:2], recipe=RECIPE)
        assert refused.value.reason is Reason.EXPERT_NOT_ALLOWED
        with pytest.raises(EvaluationError, match="start the env servers with --allow-expert"):
            main(["errand/Errand", "--model", "blind", "--url", endpoint, "--servers", server.address, "--slots", "2"])
