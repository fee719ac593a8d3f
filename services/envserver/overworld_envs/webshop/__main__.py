"""`python -m overworld_envs.webshop` prepares the operator's catalogue and prints what is in it."""

from __future__ import annotations

import sys

from overworld.errors import SettingsError
from overworld.service import log

from overworld_envs.webshop.catalogue.errors import CatalogueError
from overworld_envs.webshop.catalogue.goals import KINDS
from overworld_envs.webshop.opening import opened
from overworld_envs.webshop.settings import ShopSettings


def main() -> None:
    """Prepares the catalogue, so that servers need not."""
    log.configure()
    try:
        catalogue = opened(ShopSettings.load([]))
    except (CatalogueError, SettingsError) as error:
        sys.exit(str(error))
    counts = ", ".join(f"{catalogue.goal_count(kind):,} {kind} goals" for kind in KINDS)
    print(f"{len(catalogue):,} products, {counts}: {catalogue.description}")


if __name__ == "__main__":
    main()
