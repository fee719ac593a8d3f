"""WebShop: search against a recorded Lucene, memory of a server, frames beside a headless Chromium, what shoppers earn.

Frames: layout and drawing of pages that all differ, 640 x 480, in CPU-seconds; the browser gets equal pages as HTML and
its CPU time is that of all its processes and of decoding what it sends. The two take turns. Memory is PSS of the server
and its workers, whose 64 slots have all been played. The catalogue's cache lies in a temporary folder.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from overworld import Session as Client
from overworld.host.process import ServerProcess
from overworld.service.process import ServiceProcess
from overworld_envs.webshop.engine.pages import Page, ResultsPage
from overworld_envs.webshop.engine.session import Session
from overworld_envs.webshop.engine.shop import Shop
from overworld_envs.webshop.frames.pictures import Pictures
from overworld_envs.webshop.frames.renderer import Renderer
from overworld_envs.webshop.opening import open_shop
from overworld_envs.webshop.settings import ShopSettings
from report import Row, finish, parser
from rich.progress import track
from webshop_html import page_html

sys.path.append(str(Path(__file__).parents[1]))  # for the browser, which the tests use, too

from tests.support.chromium import Chromium

ANSWERS = Path(__file__).parents[1] / "tests" / "unit" / "envs" / "webshop" / "lucene" / "answers.json.gz"
SIZES = (1_000, 100_000)
MEGABYTES = {1_000: 500.0, 100_000: 1_500.0}
SLOTS = 64
WARM_UP, SESSIONS = 500, 1_000
"""Caches are bounded, and full after the first ones."""
WIDTH, HEIGHT = 640, 480
FRAMES_PER_SECOND = 400.0
GOALS = 200
EXPERT, SHOPPER = 0.9, 0.25


def search_rows(shop: Shop, recorded: dict[str, Any]) -> Iterator[Row]:
    """The recorded queries: how many have Lucene's best ten in its order, and how fast they are."""
    size = len(shop.catalogue)
    answers = recorded["searches"][str(size)]["answers"]
    same, spent = 0, 0.0
    for query, expected in zip(recorded["queries"], answers, strict=True):
        started = time.process_time()
        hits, _ = shop.catalogue.index.search(query, 10)
        spent += time.process_time() - started
        same += [shop.catalogue.product(int(hit)).asin for hit in hits] == [asin for asin, _ in expected]
    setting, lucene = f"{len(answers)} queries, {size:,} products", "Lucene 8.7, recorded"
    yield Row("best ten in Lucene's order", setting, same, "queries", lucene, len(answers), same / len(answers), 1.0)
    rate, frame = len(answers) / spent, FRAMES_PER_SECOND
    yield Row("search", setting, rate, "queries/CPU-s", "as fast as a frame", frame, rate / frame)


def pages(shop: Shop) -> Iterator[Page]:
    """All kinds of pages of many goals; no two are equal."""
    rng = random.Random(0)
    for number in range(200):
        session = Session(shop, shop.catalogue.goal("synthetic", number))
        yield session.page()
        session.act(f"search[{' '.join(rng.sample(session.goal.text.split(), 3))}]")
        page = session.page()
        yield page
        if not isinstance(page, ResultsPage) or not page.products:
            continue
        session.act(f"click[{rng.choice(page.products).asin}]")
        yield session.page()
        values = [text for text, target in session.page().clickables().items() if isinstance(target, tuple)]
        if values:
            session.act(f"click[{rng.choice(values)}]")
            yield session.page()
        session.act("click[features]")
        yield session.page()


def frame_rows(shop: Shop) -> Iterator[Row]:
    """Our renderer and the browser, in turns."""
    shown = list(pages(shop))
    renderer = Renderer(WIDTH, HEIGHT, Pictures(None))
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    browser = Chromium(WIDTH, HEIGHT)
    our_seconds = their_seconds = 0.0
    drawn = fetched = 0
    for start in track(range(0, len(shown), 20), "frames"):
        some = shown[start : start + 20]
        before = time.process_time()
        for page in some:
            renderer.layout(page).draw(canvas, 0)
        our_seconds += time.process_time() - before
        drawn += len(some)
        documents = [page_html(page) for page in some[:5]]
        before = time.process_time() + browser.cpu_seconds()
        for document in documents:
            browser.show(document)
        their_seconds += time.process_time() + browser.cpu_seconds() - before
        fetched += len(documents)
    browser.close()
    ours, theirs = drawn / our_seconds, fetched / their_seconds
    setting, unit, least = f"{WIDTH}x{HEIGHT}, {drawn} pages that differ", "frames/CPU-s", FRAMES_PER_SECOND
    yield Row("frames", setting, ours, unit, "wanted", least, ours / least, 1.0)
    yield Row("frames", setting, ours, unit, "headless Chromium", theirs, ours / theirs, 1.0)


def memory(server: ServiceProcess) -> float:
    """PSS of the server and its workers, in MB."""
    root = psutil.Process(server.process.pid)
    return sum(process.memory_full_info().pss for process in (root, *root.children(recursive=True))) / 1e6


Choice = Callable[[random.Random, Any], str]


def expert(rng: random.Random, result: Any) -> str:
    """What the server's expert says."""
    action: str = result.expert.action
    return action


def shopper(rng: random.Random, result: Any) -> str:
    """Searches one word of the goal, then clicks on whatever there is."""
    clicks = [action for action in result.observation.admissible if not action.startswith("scroll")]
    instruction = result.observation.text.split("\n")[0].removeprefix("Instruction: ")
    return rng.choice(clicks) if clicks else f"search[{rng.choice(instruction.split())}]"


def mean_reward(server: ServiceProcess, choose: Choice) -> float:
    """Over GOALS goals, played in 50 slots over gRPC."""
    rewards: list[float] = []
    with Client(server.address, "webshop/synthetic", 50, expert=choose is expert) as client:
        for start in range(0, GOALS, 50):
            results = list(client.reset(range(start, start + 50)))
            rngs = [random.Random(start + slot) for slot in range(50)]
            while playing := [result for result in results if result.end is None]:
                moves = {result.slot: choose(rngs[result.slot], result) for result in playing}
                for result in client.step(moves):
                    results[result.slot] = result
            rewards.extend(result.reward for result in results)
    return sum(rewards) / len(rewards)


def play_all(server: ServiceProcess, turns: int) -> None:
    """Plays in all slots at once, so that each has drawn."""
    with Client(server.address, "webshop/synthetic", SLOTS) as client:
        results = list(client.reset(range(SLOTS)))
        rngs = [random.Random(slot) for slot in range(SLOTS)]
        for _ in range(turns):
            moves = {result.slot: shopper(rngs[result.slot], result) for result in results if result.end is None}
            for result in client.step(moves):
                results[result.slot] = result


def open_and_close(server: ServiceProcess, sessions: int, label: str) -> None:
    """Sessions one after another, each on the way to a purchase."""
    for seed in track(range(sessions), label):
        with Client(server.address, "webshop/synthetic", 1) as client:
            (result,) = client.reset([seed])
            for _ in range(4):
                (result,) = client.step([shopper(random.Random(seed), result)])
                if result.end is not None:
                    break


def server_rows(size: int) -> Iterator[Row]:
    """Memory of a server with two workers on `size` products; on the smaller catalogue also sessions and shoppers."""
    setting, unit = f"{size:,} products", "MB PSS"
    with ServerProcess("webshop", arguments=("--workers", "2", "--slots", str(SLOTS), "--allow-expert")) as server:
        play_all(server, 12)
        used, limit = memory(server), MEGABYTES[size]
        yield Row(f"server, {SLOTS} slots, 2 workers", setting, used, unit, "limit", limit, limit / used, 1.0)
        if size != SIZES[0]:
            return
        open_and_close(server, WARM_UP, "warming up")
        before = memory(server)
        open_and_close(server, SESSIONS, "sessions")
        after = memory(server)
        yield Row(f"after {SESSIONS:,} sessions", setting, after, unit, "before", before, before / after, 0.98)
        setting, unit = f"{GOALS} goals over gRPC", "mean reward"
        mean = mean_reward(server, expert)
        yield Row("expert", setting, mean, unit, "at least", EXPERT, mean / EXPERT, 1.0)
        mean = mean_reward(server, shopper)
        yield Row("one word, then clicks", setting, mean, unit, "at most", SHOPPER, SHOPPER / mean, 1.0)


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    recorded = json.loads(gzip.decompress(ANSWERS.read_bytes()))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["OVERWORLD_WEBSHOP_CACHE"] = cache
        os.environ["OVERWORLD_LOG_LEVEL"] = "WARNING"  # thousands of sessions come and go
        for size in SIZES:
            os.environ["OVERWORLD_WEBSHOP_PRODUCTS"] = str(size)
            shop = open_shop(ShopSettings())
            rows += search_rows(shop, recorded)
            if size == SIZES[0]:
                rows += frame_rows(shop)
            rows += server_rows(size)
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
