"""Verification of evaluations that were changed in one place, on a real env server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
from overworld import Fleet, Reset
from overworld.authoring.env import Pixels
from overworld.commands.verify import main
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.folder import EPISODES, HEADER, REPORT, RUN, SEAL, EpisodeFolder, to_json
from overworld.evaluation.report import Tally
from overworld.evaluation.seal import broken
from overworld.evaluation.verification import Status, Verification, verify
from overworld.host.process import ServerProcess

from tests.integration.sdk.test_evaluate import Scripted, act, seeds
from tests.support.toy_env import PAINTED, TOY

Lines = list[dict[str, Any]]


def noisy(text: str, pixels: list[Pixels], seed: int) -> str:
    replies = ("hm", act("fly"), act("up"), act("up"), act("down"), act("down"))
    return act("raise") if seed >> 24 & 31 == 0 else replies[(seed >> 20) % len(replies)]


def keep(server: ServerProcess, folder: Path, **arguments: Any) -> Path:
    """An evaluation with wins, losses, limits of time, skipped turns and failures."""
    options = {"max_turns": 9, "size": 8}
    with Fleet([server.address], "toy/Count", 8, options=options, fallback_reward=-0.25) as fleet:
        tasks = [*seeds(*range(16)), Reset(7, "four", 2, ("up", None))]
        report, _ = evaluate(Scripted(noisy), fleet, tasks, recipe=Recipe(), keep=folder, **arguments)
    assert set(report.ends) == {"TASK", "RULE", "TIME_LIMIT", "ERROR"}
    assert report.invalid_replies > 0
    return folder


@pytest.fixture(scope="module")
def kept(toy_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep(toy_server, tmp_path_factory.mktemp("kept") / "eval")


def check(folder: Path, server: ServerProcess) -> Verification:
    return verify(folder, [server.address], slots=8, timeout=5.0)


def read(folder: Path) -> Lines:
    return [json.loads(line) for line in (folder / EPISODES).read_text().splitlines()]


def write(folder: Path, episodes: Lines) -> None:
    lines = (json.dumps(one, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n" for one in episodes)
    (folder / EPISODES).write_text("".join(lines))


def seal(folder: Path) -> None:
    """What anybody can do: sha256sum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files)
    (folder / SEAL).write_text("".join(sums))


def recount(folder: Path) -> None:
    """Makes the figures those of the episodes."""
    kept = EpisodeFolder(folder)
    tally = Tally(kept.header)
    for episode in kept:
        tally.add(episode)
    (folder / REPORT).write_bytes(to_json(tally.report().to_json()))


def won(episodes: Lines) -> int:
    """The number of an episode that was won and has three turns or more."""
    return next(number for number, one in enumerate(episodes) if one.get("success") and len(one["turns"]) > 2)


def in_turn(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], int]:
    """Changes turn 1 of an episode that was won."""

    def changed(folder: Path) -> int:
        episodes = read(folder)
        number = won(episodes)
        change(episodes[number]["turns"][1])
        write(folder, episodes)
        return number

    return changed


def in_episode(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], int]:
    def changed(folder: Path) -> int:
        episodes = read(folder)
        number = won(episodes)
        change(episodes[number])
        write(folder, episodes)
        return number

    return changed


def flip(name: str) -> str:
    """A hash with one bit changed."""
    return f"{int(name, 16) ^ 1:016x}"


def flip_frame(turn: dict[str, Any]) -> None:
    turn["observation"]["parts"][0]["xxh64"] = flip(turn["observation"]["parts"][0]["xxh64"])


def other_frame(folder: Path) -> int:
    """A turn names another picture that is there."""
    episodes = read(folder)
    number = won(episodes)
    first, second = (episodes[number]["turns"][turn]["observation"]["parts"][0] for turn in (0, 1))
    assert first["xxh64"] != second["xxh64"]
    second["xxh64"] = first["xxh64"]
    write(folder, episodes)
    return number


def other_reply(turn: dict[str, Any]) -> None:
    turn["reply"] = act("down") if turn.get("action") != "down" else act("up")


def other_action(turn: dict[str, Any]) -> None:
    """In all places where it is recorded."""
    other_reply(turn)
    turn["action"] = turn["executed"] = json.loads(turn["reply"])["action"]
    turn |= {"thoughts": "hm", "outcome": "executed"}


def break_off(episode: dict[str, Any]) -> None:
    for name in ("end", "final", "success"):
        episode.pop(name)
    episode["error"] = "ENV_ERROR: RuntimeError: boom"
    episode["turns"][-1] |= {"outcome": "failed", "reward": 0.0, "metrics": {}}
    episode["turns"][-1].pop("executed")


def end_behind_an_error(episode: dict[str, Any]) -> None:
    """The record says that it broke off, for a reason that is called as the end is."""
    episode["error"] = f"{episode.pop('end')}: boom"
    for name in ("final", "success"):
        episode.pop(name)


def sign_of_nought(folder: Path) -> int:
    """A sub-score of -0.0, which is equal to 0.0."""
    episodes = read(folder)
    number, turn = next(
        (number, turn)
        for number, one in enumerate(episodes)
        for turn in one["turns"]
        if turn.get("metrics", {}).get("count") == 0
    )
    turn["metrics"]["count"] = -0.0
    write(folder, episodes)
    return number


def swap(folder: Path) -> int:
    """The turns of two tasks."""
    episodes = read(folder)
    number = won(episodes)
    other = next(index for index, one in enumerate(episodes) if one.get("end") == "RULE")
    for name in ("seed", "split", "task", "prefix"):
        one, two = episodes[number].pop(name, None), episodes[other].pop(name, None)
        episodes[number] |= {} if two is None else {name: two}
        episodes[other] |= {} if one is None else {name: one}
    write(folder, episodes)
    return min(number, other)


def repaint(folder: Path) -> int:
    """A picture that is not the one that its name says."""
    episodes = read(folder)
    name = episodes[0]["turns"][0]["observation"]["parts"][0]["xxh64"]
    path = folder / "frames" / f"{name}.png"
    pixels = np.asarray(PIL.Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    PIL.Image.fromarray(pixels).save(path, "PNG")
    return 0


def figure(name: str, value: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        report = json.loads((folder / REPORT).read_text())
        *sections, last = name.split(".")
        fields = report
        for section in sections:
            fields = fields[section]
        assert fields[last] != value
        fields[last] = value
        (folder / REPORT).write_text(json.dumps(report, sort_keys=True, indent=1) + "\n")

    return changed


def header(name: str, value: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        fields = json.loads((folder / HEADER).read_text())
        assert fields[name] != value
        fields[name] = value
        (folder / HEADER).write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n")

    return changed


class Change(NamedTuple):
    """A change, what the difference says where it is found in the sealed folder, and in which turn."""

    make: Callable[[Path], int | None]
    says: str
    turn: int | None = None


FOUND_BY_REPLAY = {
    "a bit of a frame's hash": Change(in_turn(flip_frame), "frames/", 1),
    "another frame": Change(other_frame, "observation.parts.0", 1),
    "a text that was shown": Change(
        in_turn(lambda turn: turn["observation"]["parts"].__setitem__(1, "count 9")), "observation.parts.1", 1
    ),
    "a tensor": Change(
        in_turn(lambda turn: turn["observation"]["tensors"]["count"].update(data="CQAAAAAAAAA=")), "tensors", 1
    ),
    "a reward": Change(in_turn(lambda turn: turn.update(reward=turn["reward"] + 2**-40)), "reward", 1),
    "a sub-score": Change(in_turn(lambda turn: turn["metrics"].update(count=7.0)), "metrics", 1),
    "an action": Change(in_turn(lambda turn: turn.update(action="private")), "reply", 1),
    "a reply": Change(in_turn(other_reply), "reply", 1),
    "an action and its reply": Change(in_turn(other_action), "", 1),
    "what was executed": Change(in_turn(lambda turn: turn.update(executed="private")), "executed", 1),
    "an action that the server refuses": Change(in_turn(lambda turn: turn.update(action=4_000_000_000)), "reply", 1),
    "who acted": Change(in_turn(lambda turn: turn.update(actor="person")), "actor", 1),
    "what the agent was shown": Change(in_turn(lambda turn: turn.update(shown=["count 2"])), "shown", 1),
    "the weights of one reply": Change(in_turn(lambda turn: turn.update(fingerprint="others")), "fingerprint", 1),
    "a dropped turn": Change(in_episode(lambda one: one["turns"].pop(1)), "", 1),
    "a repeated turn": Change(in_episode(lambda one: one["turns"].insert(1, one["turns"][1])), ""),
    "the end": Change(in_episode(lambda one: one.update(end="RULE")), "end"),
    "the success": Change(in_episode(lambda one: one.pop("success")), "success"),
    "a failure instead of an end": Change(in_episode(break_off), "error"),
    "an end behind an error": Change(in_episode(end_behind_an_error), "error"),
    "the sign of a nought": Change(sign_of_nought, "metrics"),
    "the seed": Change(in_episode(lambda one: one.update(seed=one["seed"] + 100)), "observation.parts.0", 0),
    "a task that does not exist": Change(in_episode(lambda one: one.update(split="four", task=9)), "reset", 0),
    "a prefix": Change(in_episode(lambda one: one.update(prefix=["up"])), "", 0),
    "swapped tasks": Change(swap, "observation.parts.0", 0),
    "a picture": Change(repaint, "frames/", 0),
}
FIGURES = {
    "the mean return": figure("mean_return", 3.0),
    "an interval": figure("success.low", 0.5),
    "false for nought": lambda folder: (folder / REPORT).write_text(
        (folder / REPORT).read_text().replace('"temperature": 0.0', '"temperature": false')
    ),
    "the ends": figure("ends.TASK", 17),
    "the model": figure("model", "another"),
    "the recipe": header("recipe", {"history": 2, "reply": "thoughts+action", "turns_left": False}),
    "a new figure": lambda folder: (folder / REPORT).write_text(
        (folder / REPORT).read_text().replace("{", '{\n "accuracy": 1.0,', 1)
    ),
}
UNSEALED = {
    "the address": lambda folder: (folder / RUN).write_text((folder / RUN).read_text().replace("nowhere", "mars")),
    "the versions": header("versions", {"overworld": "9.9"}),
    "a header that is none": lambda folder: (folder / HEADER).write_text("{}"),
    "an episode less": lambda folder: write(folder, read(folder)[:-1]),
    "the order": lambda folder: write(folder, read(folder)[::-1]),
    "a file more": lambda folder: (folder / "frames" / "0123456789abcdef.png").write_bytes(b""),
    "a picture less": lambda folder: next((folder / "frames").iterdir()).unlink(),
    "a folder more": lambda folder: (folder / "more").mkdir(),
    "a line of the seal": lambda folder: (folder / SEAL).write_text((folder / SEAL).read_text().replace("0", "1", 1)),
    "a torn seal": lambda folder: (folder / SEAL).write_text((folder / SEAL).read_text()[:-5]),
}


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "eval"))


def test_an_untouched_folder_is_verified(kept: Path, toy_server: ServerProcess) -> None:
    found = check(kept, toy_server)
    assert (found.status, found.differences, found.unchecked) == (Status.VERIFIED, [], "")
    assert found.episodes == found.replayed == 17
    pictures = [part for one in read(kept) for turn in one["turns"] for part in turn["observation"]["parts"]]
    pictures += [part for one in read(kept) for part in one.get("final", {}).get("parts", ())]
    assert found.frames_confirmed == sum(isinstance(part, dict) for part in pictures) > 80
    assert found.frames_not_comparable == 0
    assert found.seal == hashlib.sha256((kept / SEAL).read_bytes()).hexdigest()


def test_the_seal_is_what_sha256sum_makes(copy: Path, toy_server: ServerProcess) -> None:
    before = (copy / SEAL).read_bytes()
    seal(copy)
    assert (copy / SEAL).read_bytes() == before


@pytest.mark.parametrize("change", [*FOUND_BY_REPLAY.values()], ids=FOUND_BY_REPLAY.keys())
def test_a_change_is_found_though_figures_and_seal_were_made_to_fit(
    copy: Path, toy_server: ServerProcess, change: Change
) -> None:
    number = change.make(copy)
    assert list(broken(copy))
    recount(copy)
    seal(copy)
    found = check(copy, toy_server)
    assert (found.status, found.unchecked) == (Status.DIFFERS, "")
    first = next(one for one in found.differences if one.episode == number and change.says in one.field)
    assert change.turn in (None, first.turn)
    named = {one.episode for one in found.differences if one.episode is not None}
    assert named == {number} or (change.make is swap and len(named) == 2), "and nothing else is suspected"


@pytest.mark.parametrize("change", [*FIGURES.values()], ids=FIGURES.keys())
def test_a_changed_figure_is_found_though_the_folder_was_sealed_again(
    copy: Path, toy_server: ServerProcess, change: Callable[[Path], Any]
) -> None:
    change(copy)
    assert list(broken(copy))
    seal(copy)
    found = check(copy, toy_server)
    assert found.status == Status.DIFFERS
    assert {one.file for one in found.differences} == {REPORT}


@pytest.mark.parametrize("change", [*UNSEALED.values()], ids=UNSEALED.keys())
def test_any_change_of_a_sealed_folder_is_found(
    copy: Path, toy_server: ServerProcess, change: Callable[[Path], Any]
) -> None:
    change(copy)
    assert check(copy, toy_server).status == Status.DIFFERS


def test_without_a_server_seal_and_figures_are_checked(copy: Path) -> None:
    FIGURES["the ends"](copy)
    found = verify(copy, ["127.0.0.1:1"], timeout=0.01)
    assert [one.field for one in found.differences] == ["SHA-256", "ends.TASK"]
    assert (found.replayed, found.episodes) == (0, 17)
    assert "no server offered toy/Count" in found.unchecked


def test_blank_frames_are_verified(toy_server: ServerProcess, tmp_path: Path) -> None:
    folder = keep(toy_server, tmp_path / "eval", blank_frames=True)
    assert check(folder, toy_server).status == Status.VERIFIED
    episodes = read(folder)
    episodes[2]["turns"][1]["shown"] = episodes[2]["turns"][1]["observation"]["parts"]
    write(folder, episodes)
    seal(folder)
    found = check(folder, toy_server)
    assert [(one.episode, one.turn, one.field) for one in found.differences] == [(2, 1, "shown")]


def test_bare_actions_are_read_again_as_what_they_are(toy_server: ServerProcess, tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    with Fleet([toy_server.address], "toy/Count", 2) as fleet:
        evaluate(Scripted(lambda *_: "up"), fleet, seeds(1, 2), recipe=Recipe(reply="bare"), keep=folder)
    assert {turn["action"] for episode in read(folder) for turn in episode["turns"]} == {"up"}
    assert check(folder, toy_server).status == Status.VERIFIED


def test_a_failure_that_may_be_chance_is_neither_confirmed_nor_denied(copy: Path, toy_server: ServerProcess) -> None:
    episodes = read(copy)
    number = next(number for number, one in enumerate(episodes) if one.get("error"))
    episodes[number]["error"] = "WORKER_DIED: out of memory"
    write(copy, episodes)
    seal(copy)
    found = check(copy, toy_server)
    assert (found.status, found.differences) == (Status.UNCHECKED, [])
    assert found.unrepeatable[0].startswith(f"episode {number} ")


def hostile_pipe(folder: Path) -> None:
    (folder / HEADER).unlink()
    os.mkfifo(folder / HEADER)


def hostile_path(folder: Path) -> None:
    with (folder / SEAL).open("a") as file:
        file.write(f"{'0' * 64}  ../../secret\n")


def hostile_folder(folder: Path) -> None:
    (folder / REPORT).unlink()
    (folder / REPORT).mkdir()


def hostile_frames(folder: Path) -> None:
    shutil.rmtree(folder / "frames")
    (folder / "frames").touch()


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "a pipe": hostile_pipe,
    "a way out of the folder": hostile_path,
    "a folder in place of a file": hostile_folder,
    "frames that are a file": hostile_frames,
    "an endless line": lambda folder: (folder / EPISODES).write_bytes(b"[" * (17 << 20)),
    "a huge report": lambda folder: (folder / REPORT).write_bytes(b" " * (5 << 20)),
    "a seal of one line": lambda folder: (folder / SEAL).write_bytes(b"0" * (5 << 20)),
}


@pytest.mark.parametrize("change", [*HOSTILE.values()], ids=HOSTILE.keys())
def test_hostile_folders_are_refused(copy: Path, toy_server: ServerProcess, change: Callable[[Path], Any]) -> None:
    change(copy)
    assert check(copy, toy_server).status == Status.DIFFERS


def test_what_is_printed_cannot_command_a_terminal(
    copy: Path, toy_server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = json.loads((copy / HEADER).read_text())
    fields["env"]["id"] = "\x1b[2J" + "x" * 10_000
    (copy / HEADER).write_text(json.dumps(fields))
    (copy / "\x1b[31m").touch()
    (copy / "bytes\udcff").touch()
    main([str(copy), f"servers={toy_server.address}", "timeout=0.01"])
    printed = capsys.readouterr().out
    assert "\\x1b[2J" in printed
    assert "\x1b" not in printed
    assert len(printed) < 20_000


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers: the second one has other rules in toy/Count, and draws toy/Painted in another way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOY_RENDERER", "brush")
        with ServerProcess(PAINTED) as first:
            patch.setenv("TOY_RENDERER", "pencil")
            patch.setenv("TOY_RULES", "toy 2")
            with ServerProcess(PAINTED, TOY) as second:
                yield first, second


def test_a_server_of_another_provenance_is_told_apart_from_a_changed_record(
    copy: Path, others: tuple[ServerProcess, ServerProcess]
) -> None:
    found = check(copy, others[1])
    assert (found.status, found.differences, found.replayed) == (Status.UNCHECKED, [], 0)
    assert 'rules: "toy 1" was recorded, the server has "toy 2"' in found.unchecked
    FIGURES["the mean return"](copy)
    seal(copy)
    found = check(copy, others[1])
    assert [one.field for one in found.differences] == ["mean_return"], "figures are checked on any server"


def test_frames_of_another_renderer_are_not_compared_and_all_else_is(
    others: tuple[ServerProcess, ServerProcess], tmp_path: Path
) -> None:
    folder = tmp_path / "eval"
    with Fleet([others[0].address], "toy/Painted", 2) as fleet:
        evaluate(Scripted(lambda *_: act("up")), fleet, seeds(1, 2), recipe=Recipe(), keep=folder)
    here, there = check(folder, others[0]), check(folder, others[1])
    assert (here.status, here.frames_confirmed, here.frames_not_comparable) == (Status.VERIFIED, 8, 0)
    assert (there.status, there.frames_confirmed, there.frames_not_comparable) == (Status.VERIFIED, 0, 8)
    in_turn(lambda turn: turn.update(reward=0.5))(folder)
    recount(folder)
    seal(folder)
    assert [(one.turn, one.field) for one in check(folder, others[1]).differences] == [(1, "reward")]


def test_the_command(copy: Path, toy_server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "found.json"
    servers = f"servers={toy_server.address}"
    assert main([str(copy), servers, "--json", str(written)]) == 0
    assert capsys.readouterr().out.endswith("verified\n")
    assert json.loads(written.read_text())["status"] == "VERIFIED"
    number = in_turn(lambda turn: turn.update(reward=0.5))(copy)
    assert main([str(copy), servers, "--json", str(written)]) == 1
    assert f"episode {number} (seed {read(copy)[number]['seed']}), turn 1: reward recorded 0.5, found " in (
        capsys.readouterr().out
    )
    fields = json.loads(written.read_text())["differences"]
    assert {one["field"] for one in fields} == {"SHA-256", "reward", "mean_return"}
    assert main([str(tmp_path), servers]) == 2
    assert main([str(copy), "slots=0"]) == 2
