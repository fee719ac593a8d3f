"""`overworld report FOLDER ...`: kept evaluations as a page and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from overworld.errors import EvaluationError
from overworld.evaluation.page import write_page
from overworld.evaluation.suite import evaluations_in
from overworld.service.extras import needs_extra
from overworld.service.settings import Settings

with needs_extra("eval"):
    from rich.console import Console
    from rich.progress import Progress


class ReportConfig(Settings):
    """Shows kept evaluations as a page to open in a browser, with film strips and GIFs, and as CSV files."""

    positional: ClassVar[tuple[str, ...]] = ("folders",)

    folders: list[Path] = Field(
        min_length=1, description="evaluations that were kept, or folders of them: of a suite, of a training run"
    )
    out: Path = Field(default=Path("report"), description="folder for the page")
    overwrite: bool = Field(default=False, description="delete the page that the folder holds, if any")


def main(arguments: Sequence[str]) -> int:
    """Writes the page and prints where it is."""
    config = ReportConfig.load(arguments, "overworld report")
    folders = [found for folder in config.folders for found in evaluations_in(folder)]
    write_report(folders, config.out, overwrite=config.overwrite)
    return 0


def write_report(folders: Sequence[Path], out: Path, *, overwrite: bool) -> None:
    """Writes the page of these evaluations and prints where it is. Raises EvaluationError."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("page", total=None)
        try:
            page = write_page(
                folders,
                out,
                overwrite=overwrite,
                on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
        except OSError as error:
            raise EvaluationError(f"the page cannot be written to {out}: {error}") from None
    print(page)
