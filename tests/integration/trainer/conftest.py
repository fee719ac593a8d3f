import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from overworld.host.process import ServerProcess
from overworld_vlm.load import VLM, load

from tests.support import scripted_model
from tests.support.scripted_env import CHOICE, FREE, PUPPET
from tests.support.tiny_vlm import make_vlm

ENVS = (
    PUPPET,
    CHOICE,
    FREE,
    "gym_cards",
)


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A server shared by tests that do not change it."""
    with ServerProcess(*ENVS, arguments=("--workers", "2", "--slots", "128", "--allow-expert")) as server:
        yield server


@pytest.fixture(scope="session")
def obedient_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_model.obedient_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def obedient(obedient_folder: Path) -> VLM:
    """A model that does as the puppet is told: cold enough (temperature .1) it does nothing else."""
    return load(obedient_folder)


@pytest.fixture(scope="session")
def clueless() -> VLM:
    """A model with random weights: it writes anything but an action."""
    return make_vlm()


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """Training takes over SIGTERM; it is given back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
