"""Captions say what the camera sees."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from overworld import make


@pytest.mark.parametrize("task", ["OneRoom", "FourRooms"])
def test_the_box_is_where_the_caption_says(task: str) -> None:
    """Red pixels, drawn by OpenGL, against the geometry of the caption."""
    chance = random.Random(task)
    runner = make(f"miniworld/{task}", expert=True, turn_repeat=3, move_repeat=4)
    seen = unseen = 0
    for seed in range(8):
        result = runner.reset(seed)
        for _ in range(8):
            if result.end is not None:
                break
            assert result.expert is not None
            caption = result.expert.caption
            pixels = result.observation.images[0].pixels.astype(int)
            red = (pixels[..., 0] > 90) & (pixels[..., 1] < 40) & (pixels[..., 2] < 40)
            found = re.search(
                r"The red box is (?:(\d+) degrees to the (left|right)|straight ahead), [\d.]+ m away", caption
            )
            if found:
                seen += 1
                assert red.any(), caption
                column = float(np.nonzero(red)[1].mean()) - (pixels.shape[1] - 1) / 2
                if found[1] and int(found[1]) > 8:
                    assert (column < 0) == (found[2] == "left"), caption
                middle = int(found[1] or 0) < 22  # degrees: half a turn
                side = "ahead" if middle else f"on the {found[2]}"
                assert result.expert.thoughts in (f"The red box is {side}.", "I do not see the red box.")
            else:
                unseen += 1
                assert "The red box is not in sight." in caption
                assert red.sum() <= 40, caption  # a corner of it may show where its sides do not
                assert result.expert.thoughts == "I do not see the red box."
            stray = chance.choice(("turn left", "turn right", "move forward"))
            result = runner.step(stray if chance.random() < 0.3 else result.expert.action)
    assert seen > 5
    assert unseen > 5


def test_walls_come_nearer_as_the_agent_does() -> None:
    runner = make("miniworld/OneRoom", expert=True, move_repeat=4)
    result = runner.reset(3)
    ways = []
    for _ in range(3):
        assert result.expert is not None
        found = re.search(r"([\d.]+) m straight ahead", result.expert.caption)
        assert found
        ways.append(float(found[1]))
        result = runner.step("move forward")
    assert np.diff(ways) == pytest.approx([-0.6, -0.6], abs=0.11)
