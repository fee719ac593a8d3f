import pytest

from tests.support.tiny_vlm import make_vlm, mixed_prompts


@pytest.fixture(scope="session")
def vlm():
    """A model for tests that leave it as it is."""
    return make_vlm()


@pytest.fixture(scope="session")
def prompts(vlm):
    return mixed_prompts(vlm)
