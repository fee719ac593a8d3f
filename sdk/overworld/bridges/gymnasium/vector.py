"""Many slots of one env as a `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld.authoring.runner import Result
from overworld.bridges.gymnasium.infos import together
from overworld.bridges.gymnasium.seeds import Seeds
from overworld.bridges.gymnasium.spaces import action_space, info, observation_space, observed, ready, start
from overworld.client.fleet import Fleet
from overworld.client.moves import Reset
from overworld.client.results import common_block
from overworld.client.session import Session
from overworld.service.extras import needs_extra

with needs_extra("gymnasium"):
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space, iterate


class OverworldVectorEnv(VectorEnv[Any, Any, Any]):
    """The slots of a Session or Fleet, stepped in one call; closing it closes them.

    slots           A Session or Fleet.
    observe         As in OverworldEnv.
    autoreset_mode  NEXT_STEP: the step after an end resets the slot and ignores its action, with reward 0. SAME_STEP:
                    the step that ends an episode returns the next one's first observation, and its own last one as
                    `infos["final_obs"]`, with `infos["final_info"]`.

    Slot i starts with seed + i, and draws the seeds of its later episodes from a generator that this seed starts, so it
    plays the same episodes as an OverworldEnv with seed + i.
    """

    def __init__(
        self, slots: Session | Fleet, observe: str = "", *, autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP
    ) -> None:
        if autoreset_mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ValueError(f"autoreset_mode is {autoreset_mode}; expected NEXT_STEP or SAME_STEP")
        self._slots = slots
        self._observe = observe
        self._mode = autoreset_mode
        self.num_envs = len(slots)
        self.metadata = {"render_modes": ["rgb_array"], "autoreset_mode": autoreset_mode}
        self._results = self._move(dict.fromkeys(range(self.num_envs), Reset()))
        first = self._results[0].observation
        self.render_mode = "rgb_array" if first.images else None
        self.single_action_space = action_space(slots.spec.action)
        self.single_observation_space = observation_space(first, observe)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._seeds = [Seeds() for _ in range(self.num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in each slot. `options` are those of OverworldEnv, for all slots."""
        seeds: Sequence[int | None]
        if seed is None or isinstance(seed, int):
            seeds = [None if seed is None else seed + slot for slot in range(self.num_envs)]
        else:
            seeds = seed
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} slots; give one for each, or a single one")
        self._results = self._move(
            {slot: start(self._seeds[slot].next(given), options) for slot, given in enumerate(seeds)}
        )
        return self._batch(), self._infos()

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Acts in each slot."""
        moves: dict[int, Any] = dict(enumerate(iterate(self.action_space, actions)))
        if self._mode is AutoresetMode.NEXT_STEP:
            moves |= self._resets()
        results = self._results = self._move(moves)
        infos: dict[str, Any] = {}
        if self._mode is AutoresetMode.SAME_STEP:
            resets = self._resets()
            for slot in resets:
                last = copy.deepcopy(self._observed(results[slot]))  # the reset may draw into the same memory
                infos = self._add_info(infos, {"final_obs": last, "final_info": self._info(results[slot])}, slot)
            self._results = results | (self._move(resets) if resets else {})
        infos |= self._infos()
        return (
            self._batch(),
            np.array([results[slot].reward for slot in range(self.num_envs)]),
            np.array([results[slot].terminated for slot in range(self.num_envs)]),
            np.array([results[slot].truncated for slot in range(self.num_envs)]),
            infos,
        )

    def render(self) -> tuple[NDArray[Any], ...] | None:
        """The first image of each slot's last observation."""
        if self.render_mode is None:
            return None
        return tuple(self._results[slot].observation.images[0].pixels.copy() for slot in range(self.num_envs))

    def close_extras(self, **_: Any) -> None:
        """Closes the slots."""
        self._slots.close()

    def _move(self, moves: dict[int, Any]) -> dict[int, Result]:
        return {result.slot: ready(result) for result in self._slots.step(moves)}

    def _resets(self) -> dict[int, Reset]:
        """A reset for each slot whose episode has ended."""
        return {
            slot: Reset(self._seeds[slot].next(None))
            for slot, result in self._results.items()
            if result.end is not None
        }

    def _observed(self, result: Result) -> Any:
        return observed(result.observation, self.single_observation_space, self._observe)

    def _batch(self) -> Any:
        seen = [self._observed(self._results[slot]) for slot in range(self.num_envs)]
        if not isinstance(self.single_observation_space, spaces.Dict):
            return _joined(seen)
        return {name: _joined([one[name] for one in seen]) for name in self.single_observation_space}

    def _info(self, result: Result) -> dict[str, Any]:
        return info(result, self._slots.spec.action)

    def _infos(self) -> dict[str, Any]:
        """The infos of the results that are shown."""
        return together([self._info(self._results[slot]) for slot in range(self.num_envs)])


def _joined(values: Sequence[Any]) -> Any:
    """Texts as a tuple, arrays as one: not copied where they are the rows of one that belongs to nobody else."""
    if isinstance(values[0], str):
        return tuple(values)
    block = common_block(values)
    return block if block is not None and block.flags.owndata else np.stack(values)
