"""The page of evaluations: all episodes are in it, nothing of a stranger runs in it, and it fetches nothing."""

import csv
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from overworld import Fleet
from overworld.authoring.env import Pixels
from overworld.commands import eval as eval_command
from overworld.commands import report as report_command
from overworld.errors import EvaluationError, SettingsError
from overworld.evaluation.baselines import ExpertAgent
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.film import spread, thumbnails
from overworld.evaluation.page import write_page
from overworld.evaluation.spreadsheets import write_csv
from overworld.host.process import ServerProcess

from tests.integration.sdk.test_evaluate import Scripted, act, seeds
from tests.support.chromium import PROGRAMS, Chromium

HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202e'\"&{{ 7 * 7 }}\x1b[2J"
)


def reply(text: str, pixels: list[Pixels], seed: int) -> str:
    thoughts = f'{{"thoughts": {HOSTILE!r}, "action": "up"}}'
    return (thoughts, HOSTILE, act("up"), act("down"), act("up"))[(seed >> 20) % 5]


class Hostile(Scripted):
    name = HOSTILE

    def __init__(self) -> None:
        super().__init__(reply)


@pytest.fixture(scope="module")
def kept(toy_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    options = {"max_turns": 9, "size": 64}
    with Fleet([toy_server.address], "toy/Count", 8, options=options) as fleet:
        evaluate(Hostile(), fleet, seeds(*range(30)), recipe=Recipe(), keep=folder / "a")
    with Fleet([toy_server.address], "toy/Count", 8, options=options, expert=True) as fleet:
        evaluate(ExpertAgent(fleet.spec), fleet, seeds(*range(30)), recipe=Recipe(), keep=folder / "b")
    return folder


@pytest.fixture(scope="module")
def page(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page([kept / "a", kept / "b"], tmp_path_factory.mktemp("page"))


def test_all_episodes_are_in_the_table_and_a_few_in_strips(page: Path) -> None:
    html = page.read_text()
    assert html.count("<tr data-n=") == 60
    assert 10 <= html.count("<article>") <= 20
    episodes = sorted(path.name for path in (page.parent / "episodes").iterdir())
    assert episodes == [f"{number:06}.html" for number in range(60)]
    assert len(list((page.parent / "gifs").iterdir())) == html.count("<article>")
    for path in (page.parent / "episodes").iterdir():
        for name in re.findall(r'src="\.\./(frames/[0-9a-f]{16}\.png)"', path.read_text()):
            assert (page.parent / name).exists()
    strips = [len(article) for article in html.split("<article>")[1:]]
    assert max(strips) < 70_000
    rows = html[html.index("<tbody>", html.index('id="episodes"')) : html.index("</tbody>", html.index("data-n="))]
    assert len(rows) / 60 < 600, "1,000 rows take less than .6 MB"


def test_nothing_of_a_stranger_is_markup_and_nothing_is_fetched(page: Path) -> None:
    for path in page.parent.rglob("*.html"):
        html = path.read_text()
        assert "<script>document.title" not in html
        assert 'onerror="' not in html
        assert "\u202e" not in html
        assert "\x1b" not in html
        assert not re.search(r"""(src|href|url\()=?["']?(https?:)?//""", html)
        assert html.index("Content-Security-Policy") < html.index("<title>") < html.index("<style>")
    assert "&lt;script&gt;document.title" in page.read_text()


def test_the_tables_hold_every_episode_and_no_formula(page: Path) -> None:
    with (page.parent / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert {row["agent"] for row in rows} == {HOSTILE, "expert"}
    assert sum(row["success"] == "True" for row in rows[30:]) == 30
    with (page.parent / "evaluations.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["success"]) < float(second["success"]) == 1.0


def test_a_formula_in_a_text_is_quoted(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"text": "=1+1", "number": -2.5}, {"text": "@x", "more": "fine"}])
    assert (tmp_path / "a.csv").read_bytes() == b"text,number,more\r\n'=1+1,-2.5,\r\n'@x,,fine\r\n"


def test_a_folder_that_holds_anything_else_is_left_alone(kept: Path, page: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="--overwrite"):
        write_page([kept / "a"], page.parent)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EvaluationError, match=r"notes\.txt: name another folder"):
        write_page([kept / "a"], tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    out = tmp_path / "out"
    assert report_command.main([str(kept), f"out={out}"]) == 0
    assert report_command.main([str(kept / "b"), f"out={out}", "overwrite=true"]) == 0
    assert len(list((out / "episodes").iterdir())) == 30, "nothing of the first page is left"
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="holds no evaluation"):
        report_command.main([str(tmp_path / "empty"), f"out={out}"])


def test_a_frame_that_was_changed_is_not_shown(kept: Path, tmp_path: Path) -> None:
    """Not even one of an episode that has no strip in the page."""
    page = write_page([kept / "b"], tmp_path / "page")
    chosen = set(re.findall(r'href="episodes/(\d+)\.html"', page.read_text()))
    frames: dict[bool, set[str]] = {True: set(), False: set()}
    for path in (tmp_path / "page" / "episodes").iterdir():
        frames[path.stem in chosen] |= set(re.findall(r"frames/(\w+\.png)", path.read_text()))
    shutil.copytree(kept / "b", tmp_path / "b")
    (tmp_path / "b" / "frames" / min(frames[False] - frames[True])).write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(EvaluationError, match="not a frame that was kept"):
        write_page([tmp_path / "b"], tmp_path / "another")


def test_eval_writes_the_page_of_what_it_played(toy_server: ServerProcess, tmp_path: Path) -> None:
    given = ["toy/Count", "model=expert", f"servers={toy_server.address}", "seeds=1-3", f"page={tmp_path / 'page'}"]
    assert eval_command.main([*given, f"keep={tmp_path / 'kept'}"]) == 0
    assert (tmp_path / "page" / "index.html").read_text().count("<tr data-n=") == 3
    with pytest.raises(SettingsError, match="page: it is made of what was kept"):
        eval_command.main(given)


def test_numbers_are_spread() -> None:
    assert spread(3, 5) == [0, 1, 2]
    assert spread(100, 4) == [0, 33, 66, 99]
    assert (spread(9, 1), spread(9, 0), spread(0, 0)) == ([4], [], [])


def test_thumbnails_keep_to_their_bytes() -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (12, 400, 300, 3), np.uint8))
    for most in (200_000, 30_000, 5_000):
        urls = thumbnails(noise, most)
        assert len(urls) == 12
        assert sum(map(len, urls)) <= most
    assert thumbnails(noise, 200_000)[11], "there is room for all"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    if not any(map(shutil.which, PROGRAMS)):
        pytest.skip("needs Chromium")
    chromium = Chromium(1200, 900)
    yield chromium
    chromium.close()


def test_a_browser_shows_it_and_runs_nothing_of_a_stranger(page: Path, browser: Chromium) -> None:
    browser.open(page)
    assert browser.evaluate("document.title") != "owned"
    assert browser.evaluate("document.querySelectorAll('#episodes tbody tr').length") == 60
    assert browser.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
    fetched = "performance.getEntriesByType('resource').map(one => one.name).filter(one => !one.startsWith('data:'))"
    assert browser.evaluate(fetched) == []
    browser.evaluate("document.querySelectorAll('#episodes tbody tr')[31].click()")
    deadline = time.monotonic() + 60
    while browser.frames() in ([], ["about:blank"], [""]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert browser.frames() == [(page.parent / "episodes" / "000031.html").as_uri()]
    browser.evaluate("outcome.value = '1'; outcome.dispatchEvent(new Event('input'))")
    hidden = browser.evaluate("[...document.querySelectorAll('#episodes tbody tr')].filter(one => one.hidden).length")
    assert hidden == browser.evaluate("document.querySelectorAll('#episodes tr[data-o=\"0\"]').length")
