"""When a run stops, with an explanation, and when it warns."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from overworld.errors import OverworldError

from overworld_trainer.metrics import Metric, valid_replies

_logger = logging.getLogger(__name__)

_MAX_LOGPROB_ERROR_FP32 = 1e-4  # seen: 6e-6
_MAX_LOGPROB_ERROR_BF16 = 0.05  # on average
_MAX_CLIPFRAC = 0.5
_MAX_KL = 3.0
_MIN_VALID_FRACTION = 0.5
_KNOWN_FORM = 0.1
"""Share of valid replies at the start below which there was no form to forget: a few replies by chance come and go."""
_IN_A_ROW = 3
_MIN_EXPLAINED_VARIANCE = 0.05
_WARN_AFTER_UPDATES = 10
_MAX_IDLE_TASKS = 0.9
_MIN_NORMALISED_STD = 0.99  # 1, were it not for rounding


class RunStoppedError(OverworldError):
    """Training went wrong in a way that more training cannot put right; the message says how and what to try."""


class Guard:
    """Checks each update's metrics. Its state goes into checkpoints."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._clipped = 0
        self._invalid = 0
        self._valid_at_start: float | None = None
        self._warned: set[str] = set()

    def state(self) -> dict[str, Any]:
        """What has been counted so far, as JSON."""
        return {
            "clipped": self._clipped,
            "invalid": self._invalid,
            "valid_at_start": self._valid_at_start,
            "warned": sorted(self._warned),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""
        self._clipped, self._invalid = state["clipped"], state["invalid"]
        self._valid_at_start = state["valid_at_start"]
        self._warned = set(state["warned"])

    def check(self, metrics: Mapping[str, float], update: int) -> None:
        """Raises RunStoppedError if the run should not continue; warns once of what may be wrong with it."""
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            raise RunStoppedError(f"update {update}: {', '.join(broken)} is not a number; try a smaller learning rate")
        self._check_sampler(metrics)
        self._clipped = self._clipped + 1 if metrics.get(Metric.CLIPFRAC, 0.0) > _MAX_CLIPFRAC else 0
        if self._clipped >= _IN_A_ROW:
            raise RunStoppedError(
                f"more than half of all tokens were clipped {_IN_A_ROW} updates in a row: the policy moves too fast; "
                "try a smaller policy.lr or fewer policy.epochs"
            )
        kl = metrics.get(Metric.KL_K3, 0.0)
        if kl > _MAX_KL:
            raise RunStoppedError(
                f"KL to the reference is {kl:.1f} per token: the policy has left it; try a larger kl.beta or a smaller "
                "policy.lr"
            )
        valid = valid_replies(metrics)
        if self._valid_at_start is None:
            self._valid_at_start = valid
        forgotten = self._valid_at_start >= _KNOWN_FORM and valid < _MIN_VALID_FRACTION * self._valid_at_start
        self._invalid = self._invalid + 1 if forgotten else 0
        if self._invalid >= _IN_A_ROW:
            raise RunStoppedError(
                f"only {valid:.0%} of the replies hold an admissible action, at the start it was "
                f"{self._valid_at_start:.0%}: the policy has forgotten the form; try a larger kl.beta"
            )
        self._warn(metrics, update)

    def _check_sampler(self, metrics: Mapping[str, float]) -> None:
        """Stops where rollout and training disagree about the policy: the ratios would mean nothing."""
        largest, mean = metrics.get(Metric.MAX_LOGPROB_ERROR, 0.0), metrics.get(Metric.MEAN_LOGPROB_ERROR, 0.0)
        if self._dtype == "float32" and largest > _MAX_LOGPROB_ERROR_FP32:
            raise RunStoppedError(
                f"log-probs of rollout and training differ by {largest:.1e} (at most {_MAX_LOGPROB_ERROR_FP32}): "
                "sampler and training disagree about the policy; this is a bug"
            )
        if self._dtype != "float32" and mean > _MAX_LOGPROB_ERROR_BF16:
            raise RunStoppedError(
                f"log-probs at the rollout and in training differ by {mean:.3f} on average (at most "
                f"{_MAX_LOGPROB_ERROR_BF16}): too much for {self._dtype}; try model.dtype = float32"
            )

    def _warn(self, metrics: Mapping[str, float], update: int) -> None:
        explained = metrics.get(Metric.EXPLAINED_VARIANCE, 1.0)
        spread = metrics.get(Metric.RELATIVE_TARGET_STD, 0.0)
        if update >= _WARN_AFTER_UPDATES and explained < _MIN_EXPLAINED_VARIANCE < spread:
            self._warn_once(
                "critic",
                f"the critic explains {100 * explained:.0f} % of the returns' variance after {update} updates: can it "
                "see what they rest on?",
            )
        idle = metrics.get(Metric.IDLE_TASKS, 0.0)
        if idle > _MAX_IDLE_TASKS:
            self._warn_once(
                "idle",
                f"update {update}: in {100 * idle:.0f} % of the tasks all episodes had the same return, which teaches "
                "nothing; a larger group_size makes that rarer",
            )
        normalised = metrics.get(Metric.NORMALISED_ADVANTAGE_STD, 1.0)
        if normalised < _MIN_NORMALISED_STD:
            self._warn_once(
                "floor",
                f"update {update}: the standard deviation of the advantages is {100 * normalised:.0f} % of what they "
                "are divided by, a tenth of the env's reward scale, so the policy learns that much more slowly. This "
                f"ends as rewards come in; {Metric.NORMALISED_ADVANTAGE_STD} shows it. If it stays, check the reward "
                "bounds in the env's spec",
            )

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _logger.warning(message)
