"""The best fixed sequence of actions, played without looking: the cross-entropy method over open-loop sequences.

R. Rubinstein, "The Cross-Entropy Method for Combinatorial and Continuous Optimization", 1999: draw sequences from
independent distributions of each turn's action, keep the best, move the distributions towards them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overworld.audit.learning.arena import Arena, Episode, Game, Job, play, unseen
from overworld.audit.learning.plateau import Plateau
from overworld.audit.stage import Stage

Actions = tuple[int, ...]
"""Indices into the vocabulary, from the first turn on. A longer episode begins again with the first."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How long sequences are, and how many are tried how often.

    length      Actions of a sequence, at most.
    candidates  Sequences a round.
    elites      The best ones, which move the distributions and are tried again in the next round.
    trials      Episodes of each sequence in a round.
    finalists   Sequences among which the final choice is made, with `final_trials` more episodes of each.
    smoothing   How far a round moves the distributions towards its elites: 1 is all the way.
    patience    Rounds without a gain in the mean return of all candidates after which the search ends.
    steps       Env steps after which it ends, and `seconds` in CPU-seconds of this process; the final choice comes on
                top.
    """

    length: int = 64
    candidates: int = 48
    elites: int = 8
    trials: int = 8
    finalists: int = 6
    final_trials: int = 50
    smoothing: float = 0.6
    patience: int = 10
    steps: int = 60_000
    seconds: float = 60.0


@dataclass(slots=True)
class _Score:
    total: float = 0.0
    trials: int = 0

    @property
    def mean(self) -> float:
        return self.total / max(self.trials, 1)


@dataclass(frozen=True, slots=True)
class Found:
    """The best sequence, the env steps that the search took, and why it ended: "flat", "steps" or "seconds"."""

    actions: Actions
    steps: int
    stopped: str


class Sequences:
    """Plays sequences: job by job the one whose index is the job's `player`."""

    def __init__(self, candidates: Sequence[Actions]) -> None:
        self._candidates = candidates

    def __call__(self, games: Sequence[Game[None]]) -> list[int]:
        """Each game's next action, seen or not."""
        chosen = (self._candidates[game.job.player] for game in games)
        return [actions[game.turn % len(actions)] for game, actions in zip(games, chosen, strict=True)]


def search(stage: Stage, training: Iterator[int], choice: Iterator[int], seed: int, settings: SearchSettings) -> Found:
    """Looks for the sequence with the greatest mean return; its seeds come from `training`, those of the final choice
    from `choice`.
    """
    chance = np.random.default_rng(seed)
    words = len(stage.spec.action.vocabulary)
    length = min(settings.length, stage.spec.max_turns or settings.length)
    odds = np.full((length, words), 1 / words)
    known: dict[Actions, _Score] = {}
    candidates = _patterns(length, words, settings.candidates, chance)
    steps, deadline = 0, time.process_time() + settings.seconds
    plateau = Plateau()
    for number in itertools.count():
        episodes = _try(stage, candidates, settings.trials, training, known)
        steps += sum(episode.turns for episode in episodes)
        ranked = sorted(set(candidates), key=lambda actions: known[actions].mean, reverse=True)
        elites = ranked[: settings.elites]
        if known[elites[0]].mean > known[ranked[-1]].mean:  # else all are alike and say nothing
            shares = np.eye(words)[np.array(elites)].mean(axis=0)
            odds = (1 - settings.smoothing) * odds + settings.smoothing * shares
        if plateau.age([episode.total for episode in episodes], number) >= settings.patience:
            stopped = "flat"
            break
        if steps >= settings.steps or time.process_time() > deadline:
            stopped = "steps" if steps >= settings.steps else "seconds"
            break
        candidates = [*elites, *_draw(odds, settings.candidates - len(elites), chance)]
    mode: Actions = tuple(odds.argmax(axis=1).tolist())
    tried = sorted(known, key=lambda actions: (known[actions].trials >= 2 * settings.trials, known[actions].mean))
    finalists = list(dict.fromkeys([mode, *reversed(tried[-settings.finalists :])]))
    final: dict[Actions, _Score] = {}
    episodes = _try(stage, finalists, settings.final_trials, choice, final)
    steps += sum(episode.turns for episode in episodes)
    return Found(max(finalists, key=lambda actions: final[actions].mean), steps, stopped)


def _try(
    stage: Stage, candidates: Sequence[Actions], trials: int, seeds: Iterator[int], known: dict[Actions, _Score]
) -> list[Episode]:
    """Plays each candidate with the same seeds and adds its returns to `known`."""
    drawn = [next(seeds) for _ in range(trials)]
    jobs = [Job(seed, player=player) for player in range(len(candidates)) for seed in drawn]
    episodes = list(play(Arena(stage, jobs, unseen), Sequences(candidates)))
    for episode in episodes:
        score = known.setdefault(candidates[episode.job.player], _Score())
        score.total += episode.total
        score.trials += 1
    return episodes


def _patterns(length: int, words: int, count: int, chance: np.random.Generator) -> list[Actions]:
    """What the search begins with: each action all the time, short patterns that repeat, and sequences at random."""
    constants = [(word,) * length for word in range(min(words, count // 2))]
    periods = [chance.integers(words, size=chance.integers(2, 5)) for _ in range(count // 4)]
    repeated: list[Actions] = [tuple(np.resize(period, length).tolist()) for period in periods]
    odds = np.full((length, words), 1 / words)
    return [*constants, *repeated, *_draw(odds, count - len(constants) - len(repeated), chance)]


def _draw(odds: NDArray[np.float64], count: int, chance: np.random.Generator) -> list[Actions]:
    """Sequences from the odds, [turns, words]."""
    bounds = odds.cumsum(axis=1)[:, :-1]
    drawn = (chance.random((count, len(odds), 1)) > bounds).sum(axis=2)
    return [tuple(actions) for actions in drawn.tolist()]
