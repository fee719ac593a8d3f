"""`overworld compare FIRST SECOND`: two models that played the same episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from overworld.evaluation.comparison import compare_folders
from overworld.evaluation.folder import EpisodeFolder
from overworld.service.extras import needs_extra
from overworld.service.settings import Settings

with needs_extra("eval"):
    from rich.console import Console
    from rich.table import Table


class CompareConfig(Settings):
    """Compares two models that played the same episodes."""

    positional: ClassVar[tuple[str, ...]] = ("first", "second")

    first: Path = Field(description="folder that an evaluation kept")
    second: Path = Field(description="another one, with the same seeds or split")


def main(arguments: Sequence[str]) -> int:
    """Prints the paired differences."""
    config = CompareConfig.load(arguments, "overworld compare")
    found = compare_folders(EpisodeFolder(config.first), EpisodeFolder(config.second))
    title = f"{found.episodes} episodes, paired"
    if found.tasks < found.episodes:
        title = f"{found.episodes} episodes of {found.tasks} tasks, paired by task"
    table = Table("second - first", "difference", "95 % interval", title=title)
    for name, interval in (("success", found.success), ("return", found.returns)):
        shown = f"{interval.low:+.3f} to {interval.high:+.3f}"
        if interval.low == interval.high:
            shown = "the same difference in every episode"
        table.add_row(name, f"{interval.value:+.3f}", shown)
    Console().print(table)
    test = "McNemar's exact test" if found.tasks == found.episodes else "permutation test by tasks"
    Console().print(f"{test}: p = {found.p:.3g}")
    for difference in found.differences:
        Console().print(f"not alike: {difference}", markup=False, highlight=False)
    return 0
