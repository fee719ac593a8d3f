"""`overworld eval ENV --model NAME`: a model's success in an env."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from overworld.client.fleet import Fleet
from overworld.client.moves import Reset
from overworld.client.settings import ClientSettings
from overworld.errors import EvaluationError, SettingsError
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.evaluate import evaluate, tasks_of_split
from overworld.evaluation.openai_client import OpenAIModel
from overworld.evaluation.report import Report
from overworld.registry import open_registry
from overworld.service.extras import needs_extra
from overworld.service.secret import secret

with needs_extra("eval"):
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table


class EvalConfig(ClientSettings):
    """Plays a model in an env and counts its successes. The model server's key is taken from OPENAI_API_KEY."""

    positional: ClassVar[tuple[str, ...]] = ("env",)

    env: str = Field(description="env id, e.g. gym_cards/NumberLine")
    model: str = Field(description="the model's name at its server")
    url: str = Field(default="http://127.0.0.1:8000/v1", description="an OpenAI-compatible server")
    servers: str = Field(default="127.0.0.1:50051", description="env servers: addresses, or rediss://host:port/0")
    seeds: str = Field(default="0-99", description="seeds of the episodes, as in 0-99,500; not used with a split")
    split: str = Field(default="", description="play each task of this split once")
    options: dict[str, Any] = Field(default={}, description="the env's options; none: those of the model's training")
    fallback_reward: float | None = Field(
        default=None,
        description="reward of a turn without an admissible action; null: less than that of any action, "
        "min(reward_min, 0) - .1 x the reward scale",
    )
    recipe: Recipe | None = Field(default=None, description="the prompt's recipe; null: the model's own")
    temperature: float = Field(default=0.0, ge=0, description="of sampling; 0 is greedy")
    max_tokens: int = Field(default=256, ge=1, description="longest reply")
    slots: int = Field(default=16, ge=1, description="episodes played at once")
    compress: bool = Field(default=False, description="have env servers compress frames: worth it on slow links")
    blank_frames: bool = Field(default=False, description="show white pictures instead, as a control")
    keep: Path | None = Field(default=None, description="folder for report, episodes and pictures")
    overwrite: bool = Field(default=False, description="delete the evaluation that the folder holds, if any")
    timeout: float = Field(default=60.0, gt=0, description="seconds to wait for a lost server, of envs or of the model")


def main(arguments: Sequence[str]) -> int:
    """Evaluates and prints the report."""
    config = EvalConfig.load(arguments, "overworld eval")
    seeds = [] if config.split else _numbers(config.seeds)
    with (
        OpenAIModel(
            config.url,
            config.model,
            api_key=secret("OPENAI_API_KEY"),
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            concurrency=config.slots,
            retry_budget=config.timeout,
        ) as model,
        Fleet(
            open_registry(config.servers, config.credentials),
            config.env,
            config.slots,
            credentials=config.credentials,
            compress=config.compress,
            options=config.options or model.options(config.env),
            fallback_reward=config.fallback_reward,
            retry_budget=config.timeout,
        ) as fleet,
        Progress(console=Console(stderr=True)) as progress,
    ):
        tasks = (
            tasks_of_split(fleet.spec.splits, config.split) if config.split else [Reset(seed=seed) for seed in seeds]
        )
        bar = progress.add_task("episodes", total=len(tasks))
        try:
            report, episodes = evaluate(
                model,
                fleet,
                tasks,
                recipe=config.recipe or model.recipe() or Recipe(),
                blank_frames=config.blank_frames,
                keep=config.keep,
                overwrite=config.overwrite,
                on_progress=lambda done: progress.update(bar, completed=done),
            )
        except OSError as error:
            raise EvaluationError(f"the evaluation cannot be kept in {config.keep}: {error}") from None
    errors = [f"seed {episode.seed}: {episode.error}" for episode in episodes if episode.error]
    _print(report, errors)
    if len(errors) == len(episodes):
        raise EvaluationError(
            f"all {len(episodes)} episodes failed, so these figures say nothing about {config.model}; the first, of "
            f"{errors[0]}. See the env server's log"
        )
    return 0


def _print(report: Report, errors: Sequence[str]) -> None:
    table = Table(show_header=False, title=f"{report.model} in {report.env}, {report.episodes} episodes")
    success = report.success
    table.add_row("success", f"{success.value:.3f}  (95 %: {success.low:.3f} to {success.high:.3f})")
    table.add_row("return", f"{report.mean_return:.3f}, above 0 in {report.positive_return:.1%} of the episodes")
    table.add_row("length", f"{report.mean_length:.1f} turns")
    table.add_row("invalid replies", f"{report.invalid_replies:.1%}")
    table.add_row("cut replies", f"{report.cut_replies:.1%}")
    table.add_row("ends", ", ".join(f"{name} {count}" for name, count in report.ends.items()))
    if errors:
        table.add_row("failed", f"{len(errors)}, the first of {errors[0]}")
    table.add_row("weights", report.fingerprint or "not told")
    Console().print(table)


def _numbers(text: str) -> list[int]:
    """Numbers like "0-99,500,501". Raises SettingsError."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdigit() or (dash and not last.strip().isdigit()):
            raise SettingsError(f"{text!r}: seeds are numbers and ranges, like 0-99,500")
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers
