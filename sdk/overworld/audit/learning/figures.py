"""What was learnt, in tables for the report."""

from __future__ import annotations

import itertools

from overworld.audit.learning.learn import Arm, Learned
from overworld.audit.learning.verdict import Gain
from overworld.audit.report import Table

_PLAYERS = {
    "random": "random actions",
    "frames": "learner with frames",
    "blank": "learner with blank frames",
    "sequence": "best fixed sequence",
}
_SHOWN = 12


def tables(learned: Learned) -> list[Table]:
    """The players and their gains, under the verdict."""
    blind = _PLAYERS[learned.best_blind]
    gains = {
        f"{_PLAYERS['frames']} over random": learned.frames_over_random,
        f"{blind} over random": learned.blind_over_random,
        f"{_PLAYERS['frames']} over {blind}": learned.frames_over_blind,
    }
    return [
        Table(
            f"Learning: {learned.verdict}",
            ("player", "return", "success", "95 %", "learnt from", "until", "CPU-s"),
            [_player(arm) for arm in learned.arms],
        ),
        Table(
            f"Gains in return, {learned.judged} {'held-out ' if learned.held_out_tasks else ''}episodes",
            ("gain", "mean", "95 %", "episodes that differ"),
            [(name, *_gain(gain)) for name, gain in gains.items()],
        ),
        Table("Best fixed sequence", ("actions",), [(_runs(learned.sequence),)]),
    ]


def _player(arm: Arm) -> tuple[str, ...]:
    success = arm.success
    steps = f"{arm.steps:,} steps" if arm.steps else ""
    return (
        _PLAYERS[arm.name], f"{arm.mean:.3f}", f"{success.value:.3f}", f"{success.low:.3f} to {success.high:.3f}",
        steps, arm.stopped, f"{arm.seconds:.1f}",
    )  # fmt: skip


def _gain(gain: Gain) -> tuple[str, ...]:
    interval = gain.interval
    return f"{interval.value:+.3f}", f"{interval.low:+.3f} to {interval.high:+.3f}", str(gain.differing)


def _runs(words: tuple[str, ...]) -> str:
    """The first words, with a count where one is repeated."""
    counted = [(word, len(list(run))) for word, run in itertools.groupby(words)]
    shown = [word if count == 1 else f"{word} x{count}" for word, count in counted[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(counted) > _SHOWN else "")
