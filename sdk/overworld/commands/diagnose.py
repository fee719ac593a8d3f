"""`overworld diagnose ENV --model NAME`: why a model fails in an env."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from overworld.client.fleet import Fleet
from overworld.client.moves import Reset
from overworld.commands.eval import seed_numbers
from overworld.commands.model_settings import ModelSettings
from overworld.errors import ContractError, EvaluationError, Reason, SettingsError
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.diagnosis.diagnose import PAGE, diagnose
from overworld.evaluation.diagnosis.diagnosis import TITLES, Diagnosis
from overworld.evaluation.diagnosis.verdict import DEFECTS, UNEXPLAINED
from overworld.evaluation.evaluate import tasks_of_split
from overworld.evaluation.folder import to_json
from overworld.registry import open_registry
from overworld.service.extras import needs_extra

with needs_extra("eval"):
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table


class DiagnoseConfig(ModelSettings):
    """Says whether a model fails in an env because of its sight, memory, planning, or the form of its replies.

    It plays the same tasks about ten times: as it is, with other pictures, and with more and more help from the
    simulator. The env servers must be started with --allow-expert. The model server's key is taken from OPENAI_API_KEY.
    """

    positional: ClassVar[tuple[str, ...]] = ("env",)

    env: str = Field(description="env id, e.g. gym_cards/NumberLine")
    model: str = Field(description="the model's name at its server")
    seeds: str = Field(default="0-199", description="seeds of the tasks, as in 0-99,500; not used with a split")
    split: str = Field(default="", description="play each task of this split")
    options: dict[str, Any] = Field(default={}, description="the env's options; none: those of the model's training")
    long_history: int | None = Field(
        default=None, ge=2, le=64, description="turns that longer prompts show; null: four times the recipe's"
    )
    notes: int = Field(default=32, ge=1, description="most earlier turns that are written down for the model")
    keep: Path | None = Field(default=None, description="folder for the page, the figures and all episodes")
    overwrite: bool = Field(default=False, description="delete the diagnosis that the folder holds, if any")
    json_file: Path | None = Field(default=None, alias="json", description="file to write the figures to")


def main(arguments: Sequence[str]) -> int:
    """Diagnoses and prints what was found."""
    config = DiagnoseConfig.load(arguments, "overworld diagnose")
    with (
        config.open_model(config.model) as model,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        options = config.options or model.options(config.env)
        recipe = config.recipe or model.recipe() or Recipe()

        def open_fleet(expert: bool) -> Fleet:
            return _open_fleet(config, options, expert=expert)

        with open_fleet(True) as fleet:
            splits = fleet.spec.splits
        seeds = [] if config.split else seed_numbers(config.seeds)
        tasks = tasks_of_split(splits, config.split) if config.split else [Reset(seed=seed) for seed in seeds]
        bar = progress.add_task("episodes", total=None)
        try:
            found = diagnose(
                model,
                open_fleet,
                tasks,
                recipe=recipe,
                long_history=config.long_history,
                notes=config.notes,
                keep=config.keep,
                overwrite=config.overwrite,
                on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
        except OSError as error:
            raise EvaluationError(f"the diagnosis cannot be kept in {config.keep}: {error}") from None
    if config.json_file is not None:
        try:
            config.json_file.write_bytes(to_json(found.to_json()))
        except OSError as error:
            raise SettingsError(f"json: {config.json_file} cannot be written: {error}") from None
    _print(found)
    if config.keep is not None:
        Console().print(f"page: {config.keep / PAGE}", highlight=False, soft_wrap=True)
    return 0


def _open_fleet(config: DiagnoseConfig, options: dict[str, Any], *, expert: bool) -> Fleet:
    try:
        return Fleet(
            open_registry(config.servers, config.credentials),
            config.env,
            config.slots,
            credentials=config.credentials,
            compress=config.compress,
            options=options,
            expert=expert,
            retry_budget=config.timeout,
        )
    except ContractError as error:
        if not expert or error.reason not in (Reason.EXPERT_NOT_ALLOWED, Reason.FEATURE_MISSING):
            raise
        raise EvaluationError(
            f"a diagnosis needs the expert of {config.env} ({error}): start the env servers with --allow-expert, and "
            "give the env an expert if it has none"
        ) from None


def _print(found: Diagnosis) -> None:
    console = Console()
    table = Table(
        "condition", "success", "difference", "p", title=f"{found.model} in {found.env}, {found.episodes} tasks"
    )
    contrasts = {**found.steps, **found.controls}
    for name, title in TITLES.items():
        if name in found.conditions:
            row = contrasts.get(name)
            difference, p = ("", "") if row is None else (f"{row.difference.value:+.3f}", f"{row.adjusted:.2g}")
            style = None if row is None or not row.effect else "green" if row.effect > 0 else "red"
            table.add_row(title, f"{found.conditions[name].success.value:.3f}", difference, p, style=style)
    console.print(table)
    shares = ", ".join(f"{name} {found.shares[name]:.1%}" for name in (*DEFECTS, UNEXPLAINED))
    console.print(f"success {found.conditions['as_is'].success.value:.1%}; failures: {shares}", highlight=False)
    for sentence in found.meaning:
        console.print(sentence, style="bold", markup=False, highlight=False)
    for sentence in found.cautions:
        console.print(f"- {sentence}", markup=False, highlight=False)
