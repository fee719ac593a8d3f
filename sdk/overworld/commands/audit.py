"""`overworld audit HOST:PORT [ENV]`, `overworld audit module:Class`: is an env any good?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationError

from overworld.audit.auditing import audit
from overworld.audit.page import as_html
from overworld.audit.report import Report
from overworld.audit.terminal import show
from overworld.check.findings import shortened
from overworld.client.settings import ClientSettings
from overworld.errors import OverworldError, SettingsError
from overworld.service.extras import needs_extra

with needs_extra("check"):
    from rich.console import Console
    from rich.markup import escape

_NOT_AUDITED = 2


class AuditConfig(ClientSettings):
    """Plays an env in many ways, without a model, and says what is wrong with it.

    The exit status is 0 where nothing is (there may be warnings), 1 where something is, 2 where nothing could be
    audited.
    """

    positional: ClassVar[tuple[str, ...]] = ("subject", "env")

    subject: str = Field(description="a server, host:port; or an env: module:Class, gym_cards/EZPoints")
    env: str = Field(default="", description="one env of a server or a simulator; empty: all of them")
    options: dict[str, Any] = Field(default={}, description="the env's options, as in options.size=128")
    seed: int = Field(default=0, ge=0, lt=2**32, description="what the audit's episodes depend on")
    seconds: float = Field(default=50.0, gt=0, description="that the audit of an env may take")
    timeout: float = Field(default=20.0, gt=0, description="seconds that a step may take")
    learn: bool = Field(
        default=False,
        description="let a small network learn the env, with frames and without, too: minutes of CPU time",
    )
    verbose: bool = Field(default=False, description="list every question, also as -v")
    json_file: Path | None = Field(default=None, alias="json", description="file to write the whole report to")
    html: Path | None = Field(default=None, description="page to write, with some frames")


def main(arguments: Sequence[str]) -> int:
    """Audits, prints what was found, and writes the files."""
    arguments = ["--verbose" if argument == "-v" else argument for argument in arguments]
    try:
        config = AuditConfig.load(arguments, "overworld audit")
        report = _audit(config)
        _write(config.json_file, "json", json.dumps(report.as_json(), indent=2) + "\n")
        _write(config.html, "html", as_html(report))
    except OverworldError as error:
        print(f"overworld audit: {error}", file=sys.stderr)
        return _NOT_AUDITED
    show(report, Console(highlight=False, soft_wrap=False), verbose=config.verbose)
    return 0 if report.good else 1


def _audit(config: AuditConfig) -> Report:
    with Console(stderr=True).status("connecting") as status:
        try:
            return audit(
                config.subject,
                config.env or None,
                options=config.options,
                seed=config.seed,
                seconds=config.seconds,
                timeout=config.timeout,
                credentials=config.credentials,
                learn=config.learn,
                on_question=lambda name: status.update(escape(shortened(name, 100))),
            )
        except ValidationError as error:
            problem = error.errors()[0]
            raise SettingsError(f"options.{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def _write(path: Path | None, name: str, content: str) -> None:
    if path is None:
        return
    try:
        path.write_text(content)
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be written: {error}") from None
