"""The best fixed sequence of actions: how far one comes without looking."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from overworld import make

_CANDIDATES = 250
_KEPT = 40
"""Random sequences that are compared before the best one is improved."""
_TAUGHT = 40
"""Sequences of the expert's that are compared with them: where few sequences succeed at all, random ones never do."""


class Sequences:
    """Plays fixed sequences of actions in one env, in this process. Nothing is drawn where the env draws on demand."""

    def __init__(self, env_id: str, options: Mapping[str, Any]) -> None:
        # Without the runner, which draws each episode's first picture: that takes longer than all the rest.
        self._env: Any = make(env_id, **options).env
        self._env.pictures_wanted = False
        self._turns: int = self._env.options.max_turns
        self._actions: tuple[str, ...] = self._env.spec.action.vocabulary

    def successes(self, sequence: Sequence[str], seeds: Sequence[int]) -> list[bool]:
        """Whether the sequence succeeds, by seed."""
        return [self._succeeds(sequence, seed) for seed in seeds]

    def best(self, seeds: Sequence[int], seed: int) -> list[str]:
        """The best sequence found on these seeds: the best of random ones and of what the expert does there, then one
        change at a time while none is worse. `seed` decides the draws.
        """
        chance = random.Random(seed)
        first = [chance.choices(self._actions, k=self._turns) for _ in range(_KEPT - len(self._actions))]
        first += [[action] * self._turns for action in self._actions]
        first += [self._padded(self._taught(one), chance) for one in seeds[:_TAUGHT]]
        best = max(first, key=lambda one: sum(self.successes(one, seeds)))
        most = sum(self.successes(best, seeds))
        for _ in range(_CANDIDATES - _KEPT):
            changed = self._changed(best, chance)
            if (won := sum(self.successes(changed, seeds))) >= most:
                best, most = changed, won
        return best

    def close(self) -> None:
        """Closes the env."""
        self._env.close()

    def _changed(self, sequence: list[str], chance: random.Random) -> list[str]:
        """A few neighbouring actions replaced by one, or left out, or repeated."""
        start, length = chance.randrange(self._turns), chance.randint(1, 3)
        kind = chance.choice(("replace", "drop", "insert"))
        action = [chance.choice(self._actions)] * length
        after = sequence[start:] if kind == "insert" else sequence[start + length :]
        return self._padded([*sequence[:start], *(action if kind != "drop" else ()), *after], chance)

    def _padded(self, sequence: list[str], chance: random.Random) -> list[str]:
        """As many actions as an episode has turns; random ones are appended."""
        return (sequence + chance.choices(self._actions, k=self._turns))[: self._turns]

    def _taught(self, seed: int) -> list[str]:
        """What the expert does in an episode."""
        self._env.reset(seed, self._env.spec.default_split, None)
        actions: list[str] = []
        while len(actions) < self._turns:
            actions.append(self._env.expert().action)
            if self._env.step(actions[-1]).end is not None:
                break
        return actions

    def _succeeds(self, sequence: Sequence[str], seed: int) -> bool:
        self._env.reset(seed, self._env.spec.default_split, None)
        for action in sequence:
            transition = self._env.step(action)
            if transition.end is not None:
                return bool(transition.success)
        return bool(self._env.won())
