"""Programs: how a command of ours begins, and how it ends when something is wrong."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from overworld.errors import OverworldError, TransientError
from overworld.service.process import follow_parent

Command = Callable[[Sequence[str]], int]
"""Takes its arguments and returns its exit status."""


def run(command: Command, arguments: Sequence[str], name: str) -> NoReturn:
    """Runs the command and exits with its status.

    An OverworldError prints one line, "<name>: <message>". Its status tells supervisors what to do: 1, somebody has to
    put right what the line says; 75 (EX_TEMPFAIL), for a TransientError, start the program again. Any other exception
    is a defect: its traceback is logged, and the status is 70 (EX_SOFTWARE). Ctrl-C exits with 130.
    """
    follow_parent()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # or it logs each failed handshake, in a form of its own
    try:
        status = command(arguments)
    except OverworldError as error:
        print(f"{name}: {error}", file=sys.stderr)
        status = os.EX_TEMPFAIL if isinstance(error, TransientError) else 1
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # whoever read what we print is gone, as `head` is
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails again when it flushes
        status = 128 + signal.SIGPIPE
    except Exception:  # Python's own status for these is 1
        logging.getLogger(name).exception("a defect in this program; please report it")
        status = os.EX_SOFTWARE
    sys.exit(status)
