"""A network that plays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overworld.audit.learning.arena import Game
from overworld.audit.learning.eyes import stacked
from overworld.audit.learning.network import ActorCritic


class Policy:
    """Plays what the network says: actions are drawn from its odds, in training and when it is judged."""

    def __init__(self, network: ActorCritic, words: Sequence[str], seed: int) -> None:
        self.network = network
        self._words = words
        self._chance = torch.Generator().manual_seed(seed)

    def __call__(self, games: Sequence[Game[Tensor]]) -> list[int]:
        """Each game's next action."""
        actions: list[int] = self.choose(games)[0].tolist()
        return actions

    @torch.no_grad()
    def choose(self, games: Sequence[Game[Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Actions, their log-probabilities, the states' values, each [games]; and the mask, bool [games, words]."""
        admissible = torch.tensor([self._admissible(game) for game in games])
        log_probs, values = self.network(stacked([game.view for game in games]), admissible)
        actions = torch.multinomial(log_probs.exp(), 1, generator=self._chance)
        return actions.squeeze(1), log_probs.gather(1, actions).squeeze(1), values, admissible

    @torch.no_grad()
    def values(self, games: Sequence[Game[Tensor]]) -> list[float]:
        """The values of the states that the games are in."""
        if not games:
            return []
        anything = torch.ones(len(games), len(self._words), dtype=torch.bool)
        values: list[float] = self.network(stacked([game.view for game in games]), anything)[1].tolist()
        return values

    def _admissible(self, game: Game[Tensor]) -> list[bool]:
        """Which words the observation lists; all of them where it lists none."""
        listed = game.observation.admissible or self._words
        return [word in listed for word in self._words]
