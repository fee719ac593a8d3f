"""`python -m overworld_trainer.study` is `overworld study`."""

import sys

from overworld.service.program import run

from overworld_trainer.study.command import main

if __name__ == "__main__":
    run(main, sys.argv[1:], "overworld_trainer.study")
