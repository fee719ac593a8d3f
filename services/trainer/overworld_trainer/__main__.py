"""`python -m overworld_trainer` is `overworld train`."""

import sys

from overworld.service.program import run

from overworld_trainer.command import main

if __name__ == "__main__":
    run(main, sys.argv[1:], "overworld_trainer")
