"""Envs that no session uses, kept for the next one: many simulators leak on close."""

from __future__ import annotations

from collections import OrderedDict

from overworld.authoring.concurrency import resolved
from overworld.authoring.env import Env, Options

_Key = tuple[str, str]


class EnvCache:
    """The envs of one lane, `capacity` at most, those in use among them. It is used on that lane only."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._playing = 0
        self._idle: OrderedDict[_Key, list[Env]] = OrderedDict()  # least recently used first

    async def take(self, env_class: type[Env], options: Options) -> Env:
        """An env with these options, which may have been used before. Raises what making one raises."""
        key = _key(env_class, options)
        if self._idle.get(key):
            env = self._idle[key].pop()
        else:
            await self._make_room()
            env = env_class(options)
        self._playing += 1
        return env

    def give_back(self, env: Env) -> None:
        """Keeps the env for the next who wants such a one."""
        self._playing -= 1
        key = _key(type(env), env.options)
        self._idle.setdefault(key, []).append(env)
        self._idle.move_to_end(key)

    async def _make_room(self) -> None:
        while self._idle and self._playing + sum(map(len, self._idle.values())) >= self._capacity:
            oldest = next(iter(self._idle))
            if self._idle[oldest]:
                await resolved(self._idle[oldest].pop().close())
            else:
                del self._idle[oldest]


def _key(env_class: type[Env], options: Options) -> _Key:
    return env_class.spec.id, options.model_dump_json()
