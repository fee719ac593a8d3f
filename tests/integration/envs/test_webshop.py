"""WebShop over gRPC."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from overworld import ContractError, End, Session
from overworld.contract.frames import pixels_hash
from overworld.errors import ServiceError
from overworld.host.process import ServerProcess

from tests.support.optional import present

SLOTS = 8


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERWORLD_WEBSHOP_PRODUCTS", "300")
        patch.setenv("OVERWORLD_WEBSHOP_CACHE", str(tmp_path_factory.mktemp("webshop")))
        yield patch


@pytest.fixture(scope="module")
def server(settings: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """Its two workers find no prepared catalogue: one makes it, the other waits."""
    with ServerProcess("webshop", arguments=("--workers", "2", "--slots", "16", "--allow-expert")) as server:
        yield server


@pytest.mark.parametrize("env_id", ["webshop/synthetic", "webshop/human"])
def test_the_expert_shops(server: ServerProcess, env_id: str) -> None:
    with Session(server.address, env_id, SLOTS, expert=True) as session:
        assert session.spec.provenance["tagger"].startswith("textblob")
        assert session.spec.max_turns == 50
        results = list(session.reset(range(SLOTS)))
        while playing := [result for result in results if result.end is None]:
            for result in session.step({result.slot: present(result.expert).action for result in playing}):
                results[result.slot] = result
                (image,) = result.observation.images
                assert image.pixels.shape == (480, 640, 3)
                assert pixels_hash(image.pixels) == image.xxh64
        assert {result.end for result in results} == {End.TASK}
        assert np.mean([result.reward for result in results]) > 0.9
        for result in results:
            assert result.metrics["score"] == result.reward
            assert result.success is (result.reward == 1.0)
            assert "Nouns by textblob" in result.observation.text


def test_slots_in_two_workers_play_the_same(server: ServerProcess) -> None:
    """Same seed and clicks: same frames, wherever the slot is."""
    with Session(server.address, "webshop/synthetic", 16, options={"width": 160, "height": 120}) as session:
        results = session.reset([7] * 16)
        rng = random.Random(3)
        for _ in range(12):
            assert len({result.observation.images[0].xxh64 for result in results}) == 1
            choices = results[0].observation.admissible or ("search[easy clean rug]",)
            action = rng.choice([choice for choice in choices if choice != "click[buy now]"])
            results = session.step([action] * 16)


def test_clients_have_no_say_in_what_is_read(server: ServerProcess) -> None:
    for options in ({"data": "/etc"}, {"cache": "/tmp"}, {"tagger": "spacy:x"}, {"rules": "none"}):
        with pytest.raises(ContractError, match="OPTIONS_INVALID"):
            Session(server.address, "webshop/synthetic", 1, options=options)


def test_wrong_data_keep_the_server_from_starting(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERWORLD_WEBSHOP_DATA", str(tmp_path))
        with pytest.raises(ServiceError):
            ServerProcess("webshop", arguments=("--workers", "1"))
        done = subprocess.run(
            [sys.executable, "-m", "overworld_envs.webshop"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert "which items_shuffle*.json is meant? There is none" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("PRODUCTS", "many", "products: Input should be a valid integer"), ("TAGGER", "x", "tagger: String should match")],
)
def test_wrong_settings_are_named(settings: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"OVERWORLD_WEBSHOP_{name}", value)
        done = subprocess.run(
            [sys.executable, "-m", "overworld_envs.webshop"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert message in done.stderr


def test_the_command_prepares_the_catalogue(settings: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-m", "overworld_envs.webshop"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith("300 products, ")


WITHOUT_PACKAGES = """
import sys
for name in ("nltk", "rapidfuzz", "regex", "textblob", "font_source_sans_pro"):
    sys.modules[name] = None
from overworld.authoring.catalogue import load, make
make("gym_cards/EZPoints").reset(1)
assert not any(name.startswith("overworld_envs.webshop") for name in sys.modules)
try:
    load(["webshop"])
except ModuleNotFoundError as error:
    print(error)
"""


def test_other_simulators_do_without_its_packages() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PACKAGES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pip install 'overworld-envs[webshop]'" in done.stdout
