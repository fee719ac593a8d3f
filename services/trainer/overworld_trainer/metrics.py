"""The names of all metrics: what is logged, shown, served and guarded is called this and nothing else."""

from __future__ import annotations

import enum
from collections.abc import Mapping

Metrics = dict[str, float]
"""Name -> value. Where there are several envs, some names are followed by `/<env id>`."""


class Metric(enum.StrEnum):
    """Names under which metrics appear in every sink. docs/metrics.md says what each of them is."""

    EPISODES = "charts/episodes"
    EPISODIC_LENGTH = "charts/episodic_length"
    EPISODIC_RETURN = "charts/episodic_return"
    FAILED_STEPS = "charts/failed_steps"
    LEARNING_RATE = "charts/learning_rate"
    PLAYED_SLOTS = "charts/played_slots"
    STEPS_PER_SECOND = "charts/SPS"
    SUCCESS_RATE = "charts/success_rate"
    VALUE_AT_START = "charts/value_at_start"

    ENDS_RULE = "ends/rule"
    ENDS_TASK = "ends/task"
    ENDS_TIME_LIMIT = "ends/time_limit"

    EVAL_CUT = "eval/cut_replies"
    EVAL_EPISODES = "eval/episodes"
    EVAL_INVALID = "eval/invalid_replies"
    EVAL_LENGTH = "eval/length"
    EVAL_LOST_TO_FORM = "eval/lost_to_form"
    EVAL_LOST_TO_MEMORY = "eval/lost_to_memory"
    EVAL_LOST_TO_PLANNING = "eval/lost_to_planning"
    EVAL_LOST_TO_SIGHT = "eval/lost_to_sight"
    EVAL_LOST_UNEXPLAINED = "eval/lost_unexplained"
    EVAL_RETURN = "eval/return"
    EVAL_SUCCESS_HIGH = "eval/success_rate_high"
    EVAL_SUCCESS_LOW = "eval/success_rate_low"
    EVAL_SUCCESS_RATE = "eval/success_rate"

    LEDGER_DROPPED = "ledger/dropped"
    LEDGER_EXECUTED = "ledger/executed"
    LEDGER_FABRICATED = "ledger/fabricated"
    LEDGER_FAILED = "ledger/failed"
    LEDGER_REPEATED = "ledger/repeated"
    LEDGER_REPLAYED = "ledger/replayed"
    LEDGER_UNBALANCED = "ledger/unbalanced"

    ADVANTAGE_STD = "losses/advantage_std"
    CLIPFRAC = "losses/clipfrac"
    CRITIC_EPOCHS = "losses/critic_epochs"
    ENTROPY_ACTION = "losses/entropy_action"
    ENTROPY_THOUGHTS = "losses/entropy_thoughts"
    EXPLAINED_VARIANCE = "losses/explained_variance"
    HELD_OUT_EXPLAINED_VARIANCE = "losses/held_out_explained_variance"
    IDLE_TASKS = "losses/idle_tasks"
    KL_K1 = "losses/kl_k1"
    KL_K3 = "losses/kl_k3"
    MAX_LOGPROB_ERROR = "losses/max_logprob_error"
    MAX_RATIO = "losses/max_ratio"
    MEAN_LOGPROB_ERROR = "losses/mean_logprob_error"
    NORMALISED_ADVANTAGE_STD = "losses/normalised_advantage_std"
    POLICY_GRAD_NORM = "losses/policy_grad_norm"
    POLICY_LOSS = "losses/policy_loss"
    RELATIVE_TARGET_STD = "losses/relative_target_std"
    SAMPLER_KL = "losses/sampler_kl"
    VALUE_GRAD_NORM = "losses/value_grad_norm"
    VALUE_LOSS = "losses/value_loss"

    GPU_PEAK_MEMORY = "memory/gpu_peak"
    HOST_PEAK_MEMORY = "memory/host_peak"

    REPLIES_CUT = "replies/cut"
    REPLIES_INADMISSIBLE = "replies/inadmissible"
    REPLIES_TOKENS = "replies/tokens"
    REPLIES_UNPARSEABLE = "replies/unparseable"

    DECODE_TOKENS_PER_SECOND = "throughput/decode_tokens_per_second"
    PREFILL_TOKENS_PER_SECOND = "throughput/prefill_tokens_per_second"
    UPDATE_MFU = "throughput/update_mfu"
    UPDATE_TFLOPS = "throughput/update_tflops"
    UPDATE_TOKENS_PER_SECOND = "throughput/update_tokens_per_second"

    SECONDS_CHECKPOINT = "time/checkpoint"
    SECONDS_CRITIC = "time/critic"
    SECONDS_DECODE = "time/decode"
    SECONDS_ENCODE = "time/encode"
    SECONDS_EVALUATE = "time/evaluate"
    SECONDS_OLD_LOGPS = "time/old_logps"
    SECONDS_OTHER = "time/other"
    SECONDS_PREFILL = "time/prefill"
    SECONDS_RECORD = "time/record"
    SECONDS_REFERENCE = "time/reference"
    SECONDS_UPDATE = "time/update"
    SECONDS_VALUES = "time/values"
    SECONDS_WAITING = "time/waiting_for_envs"


def valid_replies(metrics: Mapping[str, float]) -> float:
    """The fraction of an update's replies that held an admissible action."""
    invalid = metrics[Metric.REPLIES_UNPARSEABLE] + metrics[Metric.REPLIES_INADMISSIBLE]
    return max(1 - invalid, 0.0)  # two means may add up to a little more than 1


def seconds_by_part(seconds: Mapping[str, float]) -> Metrics:
    """What a stopwatch took, as metrics."""
    return {Metric(f"time/{part}"): value for part, value in seconds.items()}
