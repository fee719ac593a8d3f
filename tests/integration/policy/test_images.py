"""Images are shown to a checkpoint as they were when it was trained."""

from collections.abc import Iterator

import pytest
from overworld.authoring.env import Image
from overworld.contract.frames import pixels_hash
from overworld.evaluation.openai_client import OpenAIModel
from overworld_trainer.evaluation import PolicyModel
from overworld_vlm import checkpoint
from overworld_vlm.engine import Engine
from overworld_vlm.load import load, save
from overworld_vlm.tiny import make_tiny

from tests.integration.policy.conftest import TINY, Served, serve
from tests.integration.policy.test_api import part, picture
from tests.support.checkpoints import TEXTS, with_adapter, write

BOUNDS = {1: 3136, 2: 12_544, 3: None}
"""Update of a checkpoint -> its `max_pixels`."""


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Adapters of one base outside of the run, trained with other images each, and a whole model."""
    root = tmp_path_factory.mktemp("bounded")
    save(make_tiny(TEXTS, TINY, 2), root / "base")
    checkpoints = root / "runs" / "run" / "checkpoints"
    for update, bound in BOUNDS.items():
        vlm = with_adapter(load(root / "base", max_pixels=bound), 1)
        write(checkpoints / f"{update:06}", vlm, update, root / "base")
    write(checkpoints / "000004", load(root / "base", max_pixels=3136), 4)
    served = serve(root / "runs", f"base={root / 'base'}")
    yield served
    served.stop()


def image_tokens(served: Served, model: str) -> int:
    url, _ = picture((280, 280))
    with_image = served.chat([{"role": "user", "content": [part(url)]}], model=model)["usage"]["prompt_tokens"]
    without = served.chat([{"role": "user", "content": [{"type": "text", "text": ""}]}], model=model)
    return int(with_image - without["usage"]["prompt_tokens"] - 2)  # it stands between two tokens


def test_every_checkpoint_has_its_own_bounds(bounded: Served) -> None:
    assert {model: image_tokens(bounded, model) for model in ("run@1", "run@2", "run@3", "run@4", "base")} == {
        "run@1": 4, "run@2": 16, "run@3": 100, "run@4": 4, "base": 100,
    }  # fmt: skip


@pytest.mark.parametrize("update", BOUNDS)
def test_a_checkpoint_replies_as_in_its_trainers_own_evaluation(bounded: Served, update: int) -> None:
    _, pixels = picture((280, 280))  # the same for all: what one has made of it must not reach another
    content = [
        {"type": "image", "image": Image("screen", pixels, pixels_hash(pixels))},
        {"type": "text", "text": "What is it?"},
    ]
    prompts = [([{"role": "user", "content": content}], seed) for seed in range(4)]
    vlm, manifest = checkpoint.load_checkpoint(bounded.runs / "run" / "checkpoints" / f"{update:06}")
    trained = PolicyModel(
        vlm, Engine(vlm), name="run", fingerprint=manifest.digest, temperature=1.0, max_tokens=30
    ).answer_all(prompts)
    with OpenAIModel(bounded.url, f"run@{update}", temperature=1.0, max_tokens=30) as served:
        assert served.answer_all(prompts) == trained


def test_the_servers_own_settings_come_first(bounded: Served) -> None:
    served = serve(bounded.runs, "max_pixels=28224")
    try:
        assert [image_tokens(served, model) for model in ("run@1", "run@3")] == [36, 36]
    finally:
        served.stop()
