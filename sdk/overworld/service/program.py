"""Programs: how a command of ours begins, and how it ends when something is wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from overworld.errors import OverworldError
from overworld.service.process import follow_parent

Command = Callable[[Sequence[str]], int]
"""Takes its arguments and returns its exit status."""


def run(command: Command, arguments: Sequence[str], name: str) -> NoReturn:
    """Runs the command and exits with its status.

    An OverworldError prints one line, "<name>: <message>", and exits with status 1; Ctrl-C exits with 130.
    """
    follow_parent()
    try:
        status = command(arguments)
    except OverworldError as error:
        print(f"{name}: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # whoever read what we print is gone, as `head` is
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails again when it flushes
        status = 128 + signal.SIGPIPE
    sys.exit(status)
