"""`overworld compare FIRST SECOND`: two models that played the same episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from overworld.evaluation.evaluate import compare
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
    result = compare(EpisodeFolder(config.first), EpisodeFolder(config.second))
    table = Table("second - first", "difference", "95 % interval", title=f"{result['episodes']} episodes, paired")
    for name in ("success", "return"):
        interval = result[name]
        table.add_row(name, f"{interval['value']:+.3f}", f"{interval['low']:+.3f} to {interval['high']:+.3f}")
    Console().print(table)
    Console().print(f"McNemar's exact test: p = {result['mcnemar_p']:.3g}")
    return 0
