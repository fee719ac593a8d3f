"""Makes the READMEs' pictures of simulators, in docs/.

simulators.jpg has one frame of each simulator, miniworld.jpg one of each of MiniWorld's tasks, and miniworld.gif is an
episode of FourRooms. Needs the extras of all simulators.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from overworld import Result, Runner, make
from overworld.authoring import catalogue
from overworld.authoring.env import Pixels
from overworld.evaluation.film import write_gif
from overworld.evaluation.play import expert, play
from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).parents[1] / "docs"
COLUMNS, WIDTH, HEIGHT, TITLE, GAP = 6, 208, 156, 22, 6
LOOKS = 40

SIMULATORS: dict[str, tuple[dict[str, Any], int, int]] = {
    "gym_cards/Points24": ({"size": 300}, 4, 4),
    "miniworld/FourRooms": ({"width": 400, "height": 300}, 4, 30),
    "alfworld/all": ({"size": 300}, 0, 4),
    "webshop/human": ({"width": 640, "height": 480}, 4, 1),
}
"""Env -> its options, a seed, and after how many of the expert's steps the frame is taken."""
ROW_HEIGHT = 300


def frame(env_id: str) -> Image.Image:
    """A frame that shows what the task is about: the box ahead, or else the most colours of some first frames."""
    has_expert = catalogue.load([env_id])[env_id].spec.has_expert
    runner = make(env_id, width=WIDTH, height=HEIGHT, expert=has_expert)
    if has_expert:
        result = next(result for seed in itertools.count(5) if (result := box_ahead(runner, seed)) is not None)
        pixels = result.observation.images[0].pixels.copy()
    else:
        views = (runner.reset(seed).observation.images[0].pixels.copy() for seed in range(LOOKS))
        pixels = max(views, key=colours)
    runner.close()
    return Image.fromarray(pixels)


def colours(pixels: Pixels) -> int:
    """How many colours an RGB picture has, roughly."""
    bright = pixels[pixels.max(axis=2) - pixels.min(axis=2).astype(int) > 60]
    _, counts = np.unique((bright // 64) @ np.array((16, 4, 1)), return_counts=True)
    return int((counts > 25).sum())


def box_ahead(runner: Runner, seed: int) -> Result | None:
    """The first turn of an episode in which the expert sees the box ahead; None if it gets there without a look."""
    result = runner.reset(seed)
    while result.expert is not None and "red box is ahead" not in result.expert.thoughts:
        result = runner.step(result.expert.action)
    return None if result.end is not None else result


def simulators() -> Image.Image:
    """One frame of each simulator, side by side."""
    frames = []
    for env_id, (options, seed, steps) in SIMULATORS.items():
        runner = make(env_id, expert=True, **options)
        result = runner.reset(seed)
        for _ in range(steps):
            if result.expert is None:
                raise RuntimeError(f"{env_id} ends before step {steps} with seed {seed}: take another seed")
            result = runner.step(result.expert.action)
        shot = Image.fromarray(result.observation.images[0].pixels.copy())
        runner.close()
        frames.append(shot.resize((shot.width * ROW_HEIGHT // shot.height, ROW_HEIGHT), Image.Resampling.LANCZOS))
    row = Image.new("RGB", (sum(shot.width + GAP for shot in frames) + GAP, ROW_HEIGHT + 2 * GAP), "white")
    left = GAP
    for shot in frames:
        row.paste(shot, (left, GAP))
        left += shot.width + GAP
    return row


def tasks() -> Image.Image:
    """One frame of each of MiniWorld's tasks, with its name."""
    envs = list(catalogue.load(["miniworld"]))
    rows = -(-len(envs) // COLUMNS)
    size = COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + TITLE + GAP) + GAP
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, env_id in enumerate(envs):
        left = GAP + number % COLUMNS * (WIDTH + GAP)
        top = GAP + number // COLUMNS * (HEIGHT + TITLE + GAP)
        draw.text((left, top), env_id.partition("/")[2], fill="black", font=font)
        sheet.paste(frame(env_id), (left, top + TITLE))
    return sheet


def episode() -> list[Pixels]:
    """The expert's way through FourRooms."""
    frames: list[Pixels] = []
    runner = make("miniworld/FourRooms", width=240, height=180, expert=True)
    play(
        runner.step,
        runner.reset(4),
        expert(runner.env.spec),
        lambda result: frames.append(result.observation.images[0].pixels.copy()),
    )
    return frames


def main() -> None:
    """Draws all three."""
    DOCS.mkdir(exist_ok=True)
    simulators().save(DOCS / "simulators.jpg", quality=85)
    tasks().save(DOCS / "miniworld.jpg", quality=85)
    write_gif(episode()[::2], DOCS / "miniworld.gif")


if __name__ == "__main__":
    main()
