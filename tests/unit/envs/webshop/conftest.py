"""Catalogues that tests share: upstream's traced one, and a small generated one."""

from __future__ import annotations

from pathlib import Path

import pytest
from overworld_envs.webshop.engine.shop import Shop
from overworld_envs.webshop.opening import open_shop
from overworld_envs.webshop.settings import ShopSettings

VECTORS = Path(__file__).parent / "vectors"
TRACED_PRICE_SEED = 5
"""The trace does not tell upstream's seed; this one draws the price limits that can be seen in it."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webshop")


@pytest.fixture(scope="session")
def traced_shop(cache: Path) -> Shop:
    """The catalogue on which upstream's answers were recorded."""
    return open_shop(ShopSettings(data=VECTORS, price_seed=TRACED_PRICE_SEED, cache=cache))


@pytest.fixture(scope="session")
def shop(cache: Path) -> Shop:
    """1,000 generated products."""
    return open_shop(ShopSettings(products=1000, cache=cache))
