"""`overworld train run.yaml key=value ...`: begins a run, or resumes it."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence

from overworld.errors import ServerLostError, ServerStuckError, SettingsError, TransientError
from overworld.service import log, malloc

from overworld_trainer.config import TrainerConfig

_INTERRUPTED = 128 + signal.SIGTERM
_FULL = (errno.ENOSPC, errno.EDQUOT)
_AGAIN = "start the run again: it resumes from its newest checkpoint"


def main(arguments: Sequence[str]) -> int:
    """Trains. Status 0: the run is finished; 1: it cannot continue until somebody does what the last line says.

    After these the same command resumes the run: 143, SIGTERM came first; 75, the last line says what may pass, such as
    a full volume, or env servers that a run had and lost; 70, a defect, whose traceback is logged.
    """
    config = TrainerConfig.load(arguments, "overworld train")
    # Only now: torch and transformers take seconds to import, which a wrong setting or --help need not wait for.
    from overworld_vlm.batch import PromptError
    from overworld_vlm.checkpoint import WriteError
    from overworld_vlm.load import ModelError, quieten_transformers

    from overworld_trainer.train import train

    log.configure()
    malloc.keep_freed_memory()
    quieten_transformers()
    # The first process of a container ignores signals that it does not handle. In training, `train` does better.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_INTERRUPTED))
    try:
        finished = train(config)
    except (ModelError, PromptError) as error:  # overworld_vlm knows nothing of Overworld's errors
        raise SettingsError(str(error)) from error
    except WriteError as error:
        raise TransientError(f"{error}; make room there, and {_AGAIN}") from error
    except (ServerLostError, ServerStuckError) as error:
        if not (config.run / "metrics.jsonl").exists():
            raise  # it may never have been there
        raise TransientError(f"{error}; if it was there before, {_AGAIN}") from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise TransientError(f"run: {config.run} cannot be written: {error}; make room there, and {_AGAIN}") from error
    return 0 if finished else _INTERRUPTED
