"""`python -m overworld_trainer run.yaml key=value ...`: trains, or goes on training."""

from __future__ import annotations

import sys

from overworld import ContractError, ServerBrokenError, ServerChangedError, ServerLostError, log, malloc
from overworld.process import follow_parent
from overworld.settings import SettingsError
from overworld_vlm.batch import PromptError
from overworld_vlm.load import ModelError, quieten_transformers

from overworld_trainer.config import TrainerConfig
from overworld_trainer.guard import RunStoppedError
from overworld_trainer.rollout import EnvError
from overworld_trainer.train import train


def main() -> None:
    """Runs the trainer; what a user can mend ends in one line."""
    follow_parent()
    log.configure()
    malloc.keep_freed_memory()
    quieten_transformers()
    try:
        train(TrainerConfig.load(sys.argv[1:]))
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
