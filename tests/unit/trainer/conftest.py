import pytest

from tests.support.tiny_vlm import make_vlm


@pytest.fixture(scope="session")
def vlm():
    """A model for tests that leave it as it is."""
    return make_vlm()
