"""`python -m overworld_trainer run.yaml key=value ...`: trains, or goes on training."""

from __future__ import annotations

import sys

import transformers
from overworld import ContractError, ServerChangedError, ServerLostError, log, malloc
from overworld.settings import SettingsError
from overworld_vlm.load import ModelError

from overworld_trainer.config import TrainerConfig
from overworld_trainer.guard import RunStoppedError
from overworld_trainer.rollout import EnvError
from overworld_trainer.train import train


def main() -> None:
    """Runs the trainer; what a user can mend ends in one line."""
    log.configure()
    malloc.keep_freed_memory()
    transformers.utils.logging.disable_progress_bar()
    try:
        train(TrainerConfig.load(sys.argv[1:]))
    except (
        SettingsError,
        ModelError,
        EnvError,
        ContractError,
        RunStoppedError,
        ServerLostError,
        ServerChangedError,
    ) as error:
        print(f"overworld_trainer: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
