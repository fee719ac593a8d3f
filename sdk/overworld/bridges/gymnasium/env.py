"""One env of Overworld as a `gymnasium.Env`."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from numpy.typing import NDArray

from overworld.authoring.runner import Result, Runner
from overworld.bridges.gymnasium.seeds import Seeds
from overworld.bridges.gymnasium.spaces import action_space, info, observation_space, observed, ready, start
from overworld.client.fleet import Fleet
from overworld.client.moves import Reset
from overworld.client.session import Session
from overworld.service.extras import needs_extra

with needs_extra("gymnasium"):
    import gymnasium


class OverworldEnv(gymnasium.Env[Any, Any]):
    """One env, in this process or on a server; closing it closes the player.

    player   What `overworld.make` gave, or a Session or Fleet of one slot.
    observe  Name of the image or tensor that is the observation, or "text"; empty: a Dict of all that there is.

    An action is an index into the vocabulary, a text or a tensor, as the env's spec says; one that is not admissible is
    handled as the player's fallback says. `reset` takes the options "split" and "task". A reset without a seed draws
    one from the generator that the last seed started. `info` has "outcome", "metrics" and "action_mask" (which words of
    the vocabulary are admissible), and at an end "end" and "success".

    Raises what the player raises, and ValueError for an observation that does not have the form of the first one.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(self, player: Runner | Session | Fleet, observe: str = "") -> None:
        if not isinstance(player, Runner) and len(player) != 1:
            raise ValueError(f"{player!r} has {len(player)} slots; OverworldEnv plays one: use OverworldVectorEnv")
        self._player = player
        self._observe = observe
        self._seeds = Seeds()
        self._result = self._start(Reset())
        self.render_mode = "rgb_array" if self._result.observation.images else None
        self.action_space = action_space(player.spec.action)
        self.observation_space = observation_space(self._result.observation, observe)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; with the same seed, split and task it is the same one."""
        super().reset(seed=seed)
        self._result = self._start(start(self._seeds.next(seed), options))
        return self._observed(), info(self._result, self._player.spec.action)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Acts. `truncated` is set by the host's limit of turns and by what a rule of the env cuts off."""
        result = self._player.step(action) if isinstance(self._player, Runner) else self._player.step([action])[0]
        self._result = ready(result)
        told = info(result, self._player.spec.action)
        return self._observed(), result.reward, result.terminated, result.truncated, told

    def render(self) -> NDArray[Any] | None:
        """The first image of the last observation, uint8 [height, width, channels]."""
        images = self._result.observation.images
        return images[0].pixels.copy() if images else None

    def close(self) -> None:
        """Closes the player."""
        self._player.close()

    def _start(self, reset: Reset) -> Result:
        if isinstance(self._player, Runner):
            return self._player.reset(reset.seed, split=reset.split, task=reset.task)
        return ready(self._player.step([reset])[0])

    def _observed(self) -> Any:
        seen = observed(self._result.observation, self.observation_space, self._observe)
        return copy.deepcopy(seen)  # in this process, an env draws each turn into the same memory
