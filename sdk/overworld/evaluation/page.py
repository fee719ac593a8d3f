"""Evaluations as a page: the figures, a table of all episodes, and what the agent saw, thought and did.

    <out>/index.html           the page; a few episodes are in it, whole
    <out>/episodes/000012.html any other one, which the page loads on a click
    <out>/frames/              their pictures, each once
    <out>/gifs/000012.gif      those that are in the page, as animations
    <out>/*.csv                the tables

Models and envs are strangers: their texts are escaped, and the page's content security policy lets neither page run a
script but the one that is in the template, nor load anything from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from overworld.authoring.env import Pixels
from overworld.errors import EvaluationError
from overworld.evaluation.comparison import Comparison, compare_folders
from overworld.evaluation.episodes import Episode, ImageRecord
from overworld.evaluation.film import side_by_side, spread, thumbnails, write_gif
from overworld.evaluation.folder import FRAMES, REPORT, EpisodeFolder
from overworld.evaluation.report import Report, Tally
from overworld.evaluation.spreadsheets import episode_row, evaluation_row, write_csv
from overworld.service.extras import needs_extra

with needs_extra("eval"):
    import jinja2

PAGE = "index.html"

_STRIPS = 20
_STRIP_BYTES = 40_000
_STRIP_TURNS = 12
_EPISODE_TURNS = 500
_NAME, _SHORT, _LONG = 60, 300, 4000
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Control characters, and those that turn the direction of what follows them."""
_OURS = re.compile(
    r"index\.html|evaluations\.csv|episodes\.csv|episodes/\d+\.html|gifs/\d+\.gif|frames/[0-9a-f]{16}\.png"
)


@dataclass(slots=True)
class _Line:
    """An episode in the table: its number on the page, where it stands in its folder, and its row."""

    number: int
    place: int
    fields: dict[str, Any]


@dataclass(slots=True)
class _Evaluation:
    """What the page says of one; `incomparable` is why there is no comparison with the first one of its env."""

    folder: EpisodeFolder
    report: Report
    lines: list[_Line]
    comparison: Comparison | None = None
    incomparable: str = ""


def write_page(
    folders: Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Writes the page of finished evaluations and gives its path; `overwrite` deletes the one that is in `out`.

    `on_progress` is told how many episodes of how many are written. Raises EvaluationError and OSError.
    """
    _make_room(out, overwrite=overwrite)
    evaluations: list[_Evaluation] = []
    for folder in folders:
        evaluations.append(_read(folder, sum(len(one.lines) for one in evaluations)))
    _compare(evaluations)
    write_csv(out / "evaluations.csv", (evaluation_row(one.report) for one in evaluations))
    write_csv(out / "episodes.csv", (line.fields for one in evaluations for line in one.lines))
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("overworld.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name, length in (("name", _NAME), ("short", _SHORT), ("long", _LONG)):
        templates.filters[name] = partial(_clean, length=length)
    style, script = (templates.get_template(name).render() for name in ("style.css", "script.js"))
    fixed = {"style": style, "style_hash": _hash(style), "script": script, "script_hash": _hash(script)}
    total = sum(len(one.lines) for one in evaluations)
    chosen, strips = _chosen(evaluations), []
    for one in evaluations:
        for line in one.lines:
            episode = one.folder.at(line.place)
            _copy_frames(one.folder, episode, out / FRAMES)
            html = templates.get_template("episode.html.j2").render(
                fixed, one=one, line=line, episode=episode, turns=episode.turns[:_EPISODE_TURNS]
            )
            (out / "episodes" / f"{line.number:06}.html").write_text(html, encoding="utf-8")
            if line.number in chosen:
                strips.append(_strip(one, line, episode, out))
            on_progress(line.number + 1, total)
    fields = [line.fields for one in evaluations for line in one.lines]
    html = templates.get_template("page.html.j2").render(
        fixed,
        evaluations=evaluations,
        strips=strips,
        total=total,
        env_count=len({one.report.env for one in evaluations}),
        has={
            "task": any(one["task"] is not None for one in fields),
            "sample": any(one["sample"] for one in fields),
            "tokens": any(one["completion_tokens"] is not None for one in fields),
        },
    )
    (out / PAGE).write_text(html, encoding="utf-8")
    return out / PAGE


def _make_room(out: Path, *, overwrite: bool) -> None:
    """Makes the folder. Raises EvaluationError if it holds anything that is not to be deleted."""
    out.mkdir(parents=True, exist_ok=True)
    files = [path for path in out.rglob("*") if path.is_file()]
    others = [path for path in files if not _OURS.fullmatch(path.relative_to(out).as_posix())]
    if others or (files and not overwrite):
        raise EvaluationError(
            f"{out} already holds {(others or files)[0].relative_to(out)}: name another folder for the page"
            + ("" if others else ", or say that the page there may be deleted (--overwrite)")
        )
    for path in files:
        path.unlink()
    for name in ("episodes", FRAMES, "gifs"):
        (out / name).mkdir(exist_ok=True)


def _read(path: Path, first: int) -> _Evaluation:
    """An evaluation whose episodes are numbered from `first`."""
    if not (path / REPORT).exists():
        raise EvaluationError(f"{path} was not finished: give the command that made it once more")
    folder = EpisodeFolder(path)
    tally = Tally(folder.header)
    lines: list[_Line] = []
    for (place, episode), usage in zip(folder.places(), folder.usages(), strict=True):
        tally.add(episode)
        lines.append(_Line(first + len(lines), place, episode_row(folder.spec.id, "", episode, usage)))
    if not lines:
        raise EvaluationError(f"{path} holds no episode")
    report = tally.report()
    for line in lines:
        line.fields["agent"] = report.model
    return _Evaluation(folder, report, lines)


def _compare(evaluations: Sequence[_Evaluation]) -> None:
    """Each with the first one of its env, where the two can be compared."""
    firsts: dict[str, _Evaluation] = {}
    for one in evaluations:
        first = firsts.setdefault(one.report.env, one)
        if first is not one:
            try:
                one.comparison = compare_folders(first.folder, one.folder)
            except EvaluationError as error:
                one.incomparable = str(error)


def _chosen(evaluations: Sequence[_Evaluation]) -> set[int]:
    """The numbers of a few telling episodes: of each evaluation as many, failures and successes, short and long."""
    share = max(1, _STRIPS // len(evaluations))
    numbers = []
    for one in evaluations[:_STRIPS]:
        of_length = sorted(one.lines, key=lambda line: (line.fields["turns"], line.number))
        failures = [line.number for line in of_length if not line.fields["success"]]
        successes = [line.number for line in of_length if line.fields["success"]]
        fewer, more = sorted((failures, successes), key=len)
        few = min(len(fewer), share // 2)
        numbers += [fewer[index] for index in spread(len(fewer), few)]
        numbers += [more[index] for index in spread(len(more), share - few)]
    return set(numbers)


def _strip(one: _Evaluation, line: _Line, episode: Episode, out: Path) -> dict[str, Any]:
    """An episode as the page shows it: a few of its turns with small pictures, and an animation of all of them."""
    pictures = list(_pictures(one.folder, episode))
    gif = f"gifs/{line.number:06}.gif"
    if pictures and len({picture.shape for picture in pictures}) == 1:
        write_gif(pictures[:_EPISODE_TURNS], out / gif)
    else:
        gif = ""
    shown = [(number, episode.turns[number]) for number in spread(len(episode.turns), _STRIP_TURNS)]
    images = [one.folder.seen(turn).images for _, turn in shown]
    small = iter(thumbnails([side_by_side(each) for each in images if each], _STRIP_BYTES))
    turns = [
        {"number": number, "turn": turn, "picture": next(small) if each else ""}
        for (number, turn), each in zip(shown, images, strict=True)
    ]
    return {"line": line, "episode": episode, "turns": turns, "gif": gif}


def _pictures(folder: EpisodeFolder, episode: Episode) -> Iterator[Pixels]:
    """What the agent saw turn by turn, then what was there at the end."""
    for turn in episode.turns:
        if images := folder.seen(turn).images:
            yield side_by_side(images)
    if episode.final is not None and (images := folder.observation(episode.final).images):
        yield side_by_side(images)


def _copy_frames(folder: EpisodeFolder, episode: Episode, out: Path) -> None:
    """Copies the pictures that the agent saw, after a look into them: a stranger's file may be anything."""
    for turn in episode.turns[:_EPISODE_TURNS]:
        for part in turn.seen:
            if isinstance(part, ImageRecord) and not (copy := out / f"{part.xxh64}.png").exists():
                folder.pixels(part)
                shutil.copyfile(folder.path / FRAMES / copy.name, copy)


def _clean(value: object, length: int) -> str:
    """A text of strangers: of bounded length, without characters that hide others."""
    text = "" if value is None else str(value)
    text = _HIDDEN.sub("\N{REPLACEMENT CHARACTER}", text[: length + 1])
    return text if len(text) <= length else f"{text[:length]}…"


def _hash(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
