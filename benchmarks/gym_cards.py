"""EZPoints: steps per second of CPU time, with pictures and their hashes, and the memory that sprites take.

Cold: the process has drawn nothing before, and no seed comes twice. The peer plays the same game with the same actions,
but draws as upstream does: a new Pillow image in each turn, cards scaled down from 750 x 1050 at each reset, the
formula written anew. (Upstream also reads the cards from files at each reset; the peer has them in memory.) The two
take turns within one run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash
from overworld import Image, Observation, Runner, make
from overworld.authoring.env import Pixels
from overworld_envs.drawing import SPRITES
from overworld_envs.gym_cards.cards import Card
from overworld_envs.gym_cards.ez_points import EZPoints
from overworld_envs.gym_cards.points import PointsOptions
from overworld_envs.gym_cards.symbols import FELT
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from report import Row, finish, parser
from rich.progress import track

SIZE = 300
SEEDS = 10_000
ROUNDS = 50
PEER_SHARE = 10
"""The peer plays one in so many of the seeds: it is slow, and has nothing to warm up."""

TARGET_STEPS = 3000.0
TARGET_BYTES = 64e6


class UpstreamPicture:
    """What EZPoints looks like upstream, drawn with Pillow at each turn; stands in for our table."""

    _WIDTH, _HEIGHT = 135, 189

    def __init__(self) -> None:
        noise = np.random.default_rng(0).integers(
            0, 256, (1050, 750, 4), np.uint8
        )  # scaling takes as long as of a card
        self._image = Pillow.fromarray(noise, "RGBA")
        self._font = ImageFont.load_default(20)
        self._cards: list[Pillow.Image] = []
        self._formula: list[str] = []

    def deal(self, canvas: Pixels, cards: list[Card]) -> None:
        self._cards = [self._image.resize((self._WIDTH, self._HEIGHT)) for _ in cards]
        self._formula = []

    def write(self, canvas: Pixels, symbol: str) -> None:
        self._formula.append(symbol)

    def draw(self) -> Pixels:
        picture = Pillow.new("RGB", (SIZE, SIZE), FELT)
        for at, card in enumerate(self._cards):
            picture.paste(card, (5 + int(at * self._WIDTH * 1.1), (SIZE - self._HEIGHT) // 2))
        text = f"Formula: {' '.join(self._formula)}"
        ImageDraw.Draw(picture).text((10, 258), text, fill="white", font=self._font)
        return np.array(picture)


class UpstreamEZPoints(EZPoints):
    """Our rules, upstream's way of drawing."""

    def __init__(self) -> None:
        super().__init__(PointsOptions(size=SIZE))
        self._upstream = UpstreamPicture()
        self._table = self._upstream  # type: ignore[assignment]

    def observe(self) -> Observation:
        return Observation((Image("view", self._upstream.draw()), self.text()))


class Candidate:
    """Plays episodes and counts its steps and its CPU time; resets cost time, too, but count no step."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.steps = 0
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Steps per CPU-second."""
        return self.steps / self.seconds

    def play(self, seeds: range, digest: Callable[[Any], int]) -> None:
        """Random play; `digest` is called with each picture."""
        vocabulary = self._runner.spec.action.vocabulary
        started = time.process_time()
        for seed in seeds:
            choices = random.Random(seed)
            result = self._runner.reset(seed)
            digest(result.observation.images[0].pixels)
            while result.end is None:
                result = self._runner.step(choices.choice(vocabulary))
                digest(result.observation.images[0].pixels)
                self.steps += 1
        self.seconds += time.process_time() - started


def rates(digest: Callable[[Any], int]) -> tuple[float, float]:
    """Steps per CPU-second, ours and the peer's, over SEEDS seeds and a share of them."""
    runner = make("gym_cards/EZPoints", size=SIZE)
    shared = np.zeros((SIZE, SIZE, 3), np.uint8)  # as the host's frames
    runner.env.draw_on(lambda height, width: shared)
    ours, peer = Candidate(runner), Candidate(Runner(UpstreamEZPoints()))
    step = SEEDS // ROUNDS
    for start in track(range(0, SEEDS, step), "EZPoints"):
        ours.play(range(start, start + step), digest)
        peer.play(range(start, start + step // PEER_SHARE), digest)
    return ours.rate, peer.rate


def largest_cache() -> int:
    """Bytes of sprites, at most, while all games are played at many sizes."""
    largest = SPRITES.bytes
    for size in track((2048, 1024, 512, 300, 224, 56), "sizes"):
        for game in ("NumberLine", "EZPoints", "Points24", "Blackjack"):
            runner = make(f"gym_cards/{game}", size=size)
            for seed in range(8):
                runner.reset(seed)
                largest = max(largest, SPRITES.bytes)
    return largest


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    if SPRITES.bytes:
        raise RuntimeError("the measurement must start cold")
    hashed, hashed_peer = rates(xxhash.xxh64_intdigest)
    used = SPRITES.bytes
    alone, alone_peer = rates(len)
    setting = f"{SIZE}x{SIZE}, {SEEDS:,} seeds"
    unit, drawn = "steps/CPU-s", "Pillow, as upstream draws"
    limit = f"limit {TARGET_BYTES / 1e6:g} MB"
    largest = largest_cache()
    rows = [
        Row("EZPoints, hashed, cold", setting, hashed, unit, "wanted", TARGET_STEPS, hashed / TARGET_STEPS, 1.0),
        Row("EZPoints, hashed, cold", setting, hashed, unit, drawn, hashed_peer, hashed / hashed_peer),
        Row("EZPoints, not hashed", setting, alone, unit, drawn, alone_peer, alone / alone_peer),
        Row("sprites, EZPoints", setting, used / 1e6, "MB", limit, TARGET_BYTES / 1e6, TARGET_BYTES / used, 1.0),
        Row("sprites, largest", "all games, 56 to 2048", largest / 1e6, "MB", limit, TARGET_BYTES / 1e6,
            TARGET_BYTES / largest, 1.0),
    ]  # fmt: skip
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
