"""Makes docs/miniworld.jpg, one frame of each of MiniWorld's tasks, and docs/miniworld.gif, an episode of FourRooms."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from overworld import Result, Runner, catalogue, make
from overworld.authoring.env import Pixels
from overworld.evaluation.play import expert, play, write_gif
from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).parents[1] / "docs"
COLUMNS, WIDTH, HEIGHT, TITLE, GAP = 6, 208, 156, 22, 6
LOOKS = 40


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


def main() -> None:
    """Draws both."""
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
    DOCS.mkdir(exist_ok=True)
    sheet.save(DOCS / "miniworld.jpg", quality=85)
    frames: list[Pixels] = []
    runner = make("miniworld/FourRooms", width=240, height=180, expert=True)
    play(runner, runner.reset(4), expert, lambda result: frames.append(result.observation.images[0].pixels.copy()))
    write_gif(frames[::2], DOCS / "miniworld.gif")


if __name__ == "__main__":
    main()
