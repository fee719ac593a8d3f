"""`overworld check HOST:PORT [ENV]`: does a server follow the contract? `overworld check module:Class`: does an env?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from overworld.check.env_class import check_env
from overworld.check.findings import shortened
from overworld.check.report import as_json, show
from overworld.check.running import Report, check_server
from overworld.client.settings import ClientSettings
from overworld.errors import OverworldError, SettingsError
from overworld.service.addresses import is_address
from overworld.service.extras import needs_extra

with needs_extra("check"):
    from rich.console import Console
    from rich.markup import escape

_UNCHECKED = 2


class CheckConfig(ClientSettings):
    """Checks a server in any language against the contract, or an Env class in this process.

    The exit status is 0 where all rules hold, 1 where one is broken, 2 where nothing could be checked.
    """

    positional: ClassVar[tuple[str, ...]] = ("subject", "env")

    subject: str = Field(description="a server, host:port; or an env: module:Class, gym_cards/EZPoints")
    env: str = Field(default="", description="the server's env to check; empty: all of them")
    timeout: float = Field(default=20.0, gt=0, description="seconds that a call may take")
    slow: bool = Field(default=False, description="check keepalive and silence as well, which takes minutes")
    terminate: int = Field(default=0, ge=0, description="process to send SIGTERM at the end, to see the server drain")
    verbose: bool = Field(default=False, description="list every rule, also as -v")
    json_file: Path | None = Field(default=None, alias="json", description="file to write the whole report to")


def main(arguments: Sequence[str]) -> int:
    """Checks and prints what was found."""
    arguments = ["--verbose" if argument == "-v" else argument for argument in arguments]
    try:
        config = CheckConfig.load(arguments, "overworld check")
        console = Console(highlight=False, soft_wrap=False)
        with Console(stderr=True).status("connecting") as status:
            report = _check(config, lambda name: status.update(escape(shortened(name, 100))))
        if config.json_file is not None:
            try:
                config.json_file.write_text(as_json(report))
            except OSError as error:
                raise SettingsError(f"json: {config.json_file} cannot be written: {error}") from None
    except OverworldError as error:
        print(f"overworld check: {error}", file=sys.stderr)
        return _UNCHECKED
    show(report, console, verbose=config.verbose)
    return 0 if report.conforms else 1


def _check(config: CheckConfig, on_check: Callable[[str], None]) -> Report:
    if not is_address(config.subject):
        if config.env:
            raise SettingsError(f"{config.subject} is not host:port, so there is no {config.env!r} on it")
        return check_env(config.subject, timeout=config.timeout, on_check=on_check)
    return check_server(
        config.subject,
        config.env,
        credentials=config.credentials,
        timeout=config.timeout,
        slow=config.slow,
        terminate=config.terminate,
        on_check=on_check,
    )
