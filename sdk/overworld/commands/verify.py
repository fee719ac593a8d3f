"""`overworld verify FOLDER`: does a kept evaluation hold, without its model?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from overworld.client.settings import ClientSettings
from overworld.errors import OverworldError, SettingsError
from overworld.evaluation.verification import Difference, Status, Verification, verify
from overworld.registry import open_registry
from overworld.service.extras import needs_extra

with needs_extra("eval"):
    from rich.console import Console
    from rich.progress import Progress

_LISTED = 20


class VerifyConfig(ClientSettings):
    """Replays a kept evaluation without its model, and confirms what was recorded and the figures.

    The exit status is 0 where all holds, 1 where something differs, 2 where it could not be checked.
    """

    positional: ClassVar[tuple[str, ...]] = ("folder",)

    folder: Path = Field(description="folder that an evaluation kept")
    servers: str = Field(default="127.0.0.1:50051", description="env servers: addresses, or rediss://host:port/0")
    slots: int = Field(default=16, ge=1, description="episodes replayed at once")
    compress: bool = Field(default=False, description="have env servers compress frames: worth it on slow links")
    timeout: float = Field(default=60.0, gt=0, description="seconds to wait for a lost server")
    json_file: Path | None = Field(default=None, alias="json", description="file to write all that was found to")


def main(arguments: Sequence[str]) -> int:
    """Verifies and prints what was found."""
    try:
        config = VerifyConfig.load(arguments, "overworld verify")
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("episodes", total=None)
            try:
                found = verify(
                    config.folder,
                    open_registry(config.servers, config.credentials),
                    slots=config.slots,
                    credentials=config.credentials,
                    compress=config.compress,
                    timeout=config.timeout,
                    on_progress=lambda done: progress.update(bar, completed=done),
                )
            except OSError as error:
                raise SettingsError(f"folder: {config.folder} cannot be read: {error}") from None
        if config.json_file is not None:
            try:
                config.json_file.write_text(json.dumps(found.to_json(), indent=1) + "\n")
            except OSError as error:
                raise SettingsError(f"json: {config.json_file} cannot be written: {error}") from None
    except OverworldError as error:
        print(f"overworld verify: {error}", file=sys.stderr)
        return Status.UNCHECKED
    _print(found)
    return found.status


def _print(found: Verification) -> None:
    for difference in found.differences[:_LISTED]:
        print(f"differs: {_line(difference)}")
    if found.differing > _LISTED:
        print(f"... and {found.differing - _LISTED} more; --json FILE lists up to {len(found.differences)}")
    for line in found.unrepeatable[:_LISTED]:
        print(f"not repeated: {line}")
    if found.unchecked:
        print(f"could not be checked: {found.unchecked}")
    frames = f"{found.frames_confirmed} frames confirmed"
    if found.frames_not_comparable:
        frames += f", {found.frames_not_comparable} not comparable here"
    print(f"{found.replayed} of {found.episodes} episodes replayed, {found.turns} turns recorded, {frames}")
    if found.prefixed:
        print(f"{found.prefixed} episodes begin after actions that were replayed first, and that no figure counts")
    if found.seal:
        print(f"seal: sha256 {found.seal}")
    print({Status.VERIFIED: "verified", Status.DIFFERS: "differs", Status.UNCHECKED: "not verified"}[found.status])


def _line(difference: Difference) -> str:
    where = difference.file
    if difference.episode is not None:
        where = f"episode {difference.episode} (seed {difference.seed}), turn {difference.turn}"
    recorded = f"recorded {difference.recorded}, " if difference.recorded else ""
    return f"{where}: {difference.field} {recorded}found {difference.found}"
