"""`python -m overworld_trainer run.yaml key=value ...`: trains, or goes on training."""

from __future__ import annotations

import signal
import sys

from overworld import ContractError, ServerBrokenError, ServerChangedError, ServerLostError
from overworld.service import log, malloc
from overworld.service.process import follow_parent
from overworld.service.settings import SettingsError
from overworld_vlm.batch import PromptError
from overworld_vlm.load import ModelError, quieten_transformers

from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import EnvError
from overworld_trainer.guard import RunStoppedError
from overworld_trainer.train import train

_INTERRUPTED = 128 + signal.SIGTERM


def main() -> None:
    """Runs the trainer; what a user can mend ends in one line.

    Status 0: the run is finished; 1: it cannot go on, and why was said; 143: SIGTERM came first, and the same command
    goes on with the run.
    """
    follow_parent()
    log.configure()
    malloc.keep_freed_memory()
    quieten_transformers()
    # The first process of a container ignores signals that it does not handle. In training, `train` does better.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_INTERRUPTED))
    try:
        if not train(TrainerConfig.load(sys.argv[1:])):
            sys.exit(_INTERRUPTED)
    except (
        SettingsError,
        ModelError,
        PromptError,
        EnvError,
        ContractError,
        RunStoppedError,
        ServerBrokenError,
        ServerLostError,
        ServerChangedError,
    ) as error:
        print(f"overworld_trainer: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
