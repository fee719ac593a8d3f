"""What an update's rollout and samples amount to, as metrics."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from overworld import End, Outcome

from overworld_trainer.episodes import EpisodeStatistics
from overworld_trainer.metrics import Metric, Metrics
from overworld_trainer.rollout import Rollout
from overworld_trainer.samples import Samples

_ENDS = {End.TASK: Metric.ENDS_TASK, End.RULE: Metric.ENDS_RULE, End.TIME_LIMIT: Metric.ENDS_TIME_LIMIT}


def rollout_metrics(rollout: Rollout, env_ids: Sequence[str]) -> Metrics:
    """Episodes, replies and seconds of a rollout; episodes also by env where there are several."""
    steps = rollout.all_records
    metrics: Metrics = {
        Metric.REPLIES_UNPARSEABLE: _fraction([step.outcome is Outcome.NO_ACTION for step in steps]),
        Metric.REPLIES_INADMISSIBLE: _fraction([step.outcome is Outcome.NOT_ADMISSIBLE for step in steps]),
        Metric.REPLIES_CUT: _fraction([step.cut for step in steps]),
        Metric.REPLIES_TOKENS: sum(step.reply_tokens for step in steps) / len(steps),
        Metric.FAILED_STEPS: float(sum(step.failed for step in steps)),
        Metric.EPISODES: float(len(rollout.episodes)),
    }
    for end, name in _ENDS.items():
        metrics[name] = _fraction([episode.end is end for episode in rollout.episodes])
    metrics |= _episode_metrics(rollout.episodes)
    if len(env_ids) > 1:
        for env in env_ids:  # several of them may be one env with different options
            own = [episode for episode in rollout.episodes if env_ids[episode.env] == env]
            metrics |= {f"{name}/{env}": value for name, value in _episode_metrics(own).items()}
    return metrics


def sample_metrics(samples: Samples, reward_scale: float) -> Metrics:
    """How far the advantages spread; how well a critic predicted the returns, and how much there was to predict."""
    metrics: Metrics = {Metric.ADVANTAGE_STD: samples.advantage_std}
    if samples.features.numel():
        variance = samples.targets.var(correction=0).item()
        residual = (samples.targets - samples.old_values).var(correction=0).item()
        metrics[Metric.EXPLAINED_VARIANCE] = 1 - residual / variance if variance > 0 else 0.0
        metrics[Metric.RELATIVE_TARGET_STD] = variance**0.5 / reward_scale
    if samples.normalised_std is not None:
        metrics[Metric.NORMALISED_ADVANTAGE_STD] = samples.normalised_std
    if samples.idle_tasks is not None:
        metrics[Metric.IDLE_TASKS] = samples.idle_tasks
    if samples.value_at_start is not None:
        metrics[Metric.VALUE_AT_START] = samples.value_at_start
    return metrics


def _episode_metrics(episodes: Collection[EpisodeStatistics]) -> Metrics:
    """Means over finished episodes; nothing where there are none."""
    if not episodes:
        return {}
    return {
        Metric.EPISODIC_RETURN: sum(episode.reward for episode in episodes) / len(episodes),
        Metric.EPISODIC_LENGTH: sum(episode.length for episode in episodes) / len(episodes),
        Metric.SUCCESS_RATE: _fraction([episode.success for episode in episodes]),
    }


def _fraction(flags: Collection[bool]) -> float:
    """The fraction that is true; 0 of none."""
    return sum(flags) / len(flags) if flags else 0.0
