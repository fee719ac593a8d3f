import pytest
from overworld_vlm.load import VLM

from tests.support.tiny_vlm import make_vlm


@pytest.fixture(scope="session")
def vlm() -> VLM:
    """A model for tests that leave it as it is."""
    return make_vlm()
