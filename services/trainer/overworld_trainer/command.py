"""`overworld train run.yaml key=value ...`: begins a run, or resumes it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from overworld.errors import SettingsError
from overworld.service import log, malloc

from overworld_trainer.config import TrainerConfig

_INTERRUPTED = 128 + signal.SIGTERM


def main(arguments: Sequence[str]) -> int:
    """Trains. Status 0: the run is finished; 1: it cannot continue, and the last line says why; 143: SIGTERM came
    first, and the same command resumes the run.
    """
    config = TrainerConfig.load(arguments, "overworld train")
    # Only now: torch and transformers take seconds to import, which a wrong setting or --help need not wait for.
    from overworld_vlm.batch import PromptError
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
    return 0 if finished else _INTERRUPTED
