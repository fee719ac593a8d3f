import pytest
from overworld_vlm.load import VLM

from tests.support.tiny_vlm import make_vlm


@pytest.fixture(scope="session")
def vlm() -> VLM:
    """A model shared by tests that do not change it."""
    return make_vlm()
