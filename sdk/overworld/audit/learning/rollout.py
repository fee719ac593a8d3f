"""Turns to learn from: what was seen and done, and the advantage of having done it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from overworld.audit.learning.arena import Arena, Episode, Game
from overworld.audit.learning.policy import Policy
from overworld.authoring.env import End


@dataclass(slots=True, eq=False)
class Turn:
    """What an update needs of a turn.

    `next_value` is the value of the state that the action led to: 0 where the task ended, that of the last observation
    where the limit of turns cut the episode off. `over` says whether the episode ended, however it did.
    """

    view: Tensor
    admissible: Tensor
    action: int
    log_prob: float
    value: float
    reward: float = 0.0
    next_value: float = 0.0
    over: bool = False


class Rollout:
    """Lets a policy play in an arena and keeps the turns. Episodes continue from one call of `collect` to the next."""

    def __init__(self, arena: Arena[Tensor], policy: Policy) -> None:
        self._arena = arena
        self._policy = policy
        self._chosen: dict[int, Turn] = {}
        self._fragments: dict[int, list[Turn]] = {}

    def collect(self, turns: int) -> tuple[list[list[Turn]], list[Episode]]:
        """At least so many turns, consecutive ones of a slot together, and the episodes that ended."""
        self._fragments = {}
        episodes: list[Episode] = []
        cut: list[tuple[Turn, Game[Tensor]]] = []
        while sum(map(len, self._fragments.values())) < turns:
            for step in self._arena.tick(self._act):
                game, turn = step.game, self._chosen[step.game.slot]
                turn.reward, turn.over = step.result.reward, game.over
                self._fragments.setdefault(game.slot, []).append(turn)
                if step.result.end is End.TIME_LIMIT:
                    cut.append((turn, game))
                if game.over:
                    episodes.append(Episode(game.job, game.total, bool(game.success), game.turn))
        last = ((slot, fragment[-1]) for slot, fragment in self._fragments.items())
        cut += [(turn, self._arena.games[slot]) for slot, turn in last if not turn.over]
        for (turn, _), value in zip(cut, self._policy.values([game for _, game in cut]), strict=True):
            turn.next_value = value
        return list(self._fragments.values()), episodes

    def _act(self, games: Sequence[Game[Tensor]]) -> list[int]:
        actions, log_probs, values, admissible = self._policy.choose(games)
        chosen: list[int] = actions.tolist()
        rows = zip(games, admissible, chosen, log_probs.tolist(), values.tolist(), strict=True)
        for game, mask, action, log_prob, value in rows:
            fragment = self._fragments.get(game.slot)
            if fragment and not fragment[-1].over:
                fragment[-1].next_value = value
            self._chosen[game.slot] = Turn(game.view, mask, action, log_prob, value)
        return chosen


def advantages(turns: Sequence[Turn], scale: float, gamma: float, lam: float) -> list[float]:
    """Generalised advantage estimates (Schulman et al., arXiv:1506.02438) of consecutive turns in one slot.

    Rewards are multiplied by `scale`; values are of scaled rewards already.
    """
    estimates = [0.0] * len(turns)
    later = 0.0
    for index in reversed(range(len(turns))):
        turn = turns[index]
        error = scale * turn.reward + gamma * turn.next_value - turn.value
        later = error + (0.0 if turn.over else gamma * lam * later)
        estimates[index] = later
    return estimates
