"""`python -m overworld_policy` is `overworld policy`."""

import sys

from overworld.service.program import run

from overworld_policy.command import main

if __name__ == "__main__":
    run(main, sys.argv[1:], "overworld_policy")
