"""WebShop: buying what an instruction asks for, with upstream's rules, search and reward and our own frames."""

from __future__ import annotations

from overworld.authoring.env import Env


def envs() -> list[type[Env]]:
    """The env classes of this simulator, on the operator's catalogue, which is prepared if necessary.

    Raises CatalogueError for data and SettingsError for settings that cannot be used, ModuleNotFoundError without the
    extra "webshop".
    """
    from overworld_envs.webshop.env import env_classes
    from overworld_envs.webshop.opening import open_shop
    from overworld_envs.webshop.settings import ShopSettings

    settings = ShopSettings.load([])
    return list(env_classes(open_shop(settings), settings.pictures))
