"""`python -m overworld.authoring.trial ENV ...`: can these envs be loaded? If not, says why, on lines of the author's.

A process of its own finds that out, since what a module has once defined stays in the one that imported it.
"""

from __future__ import annotations

import os
import sys
import traceback

from overworld.authoring.catalogue import load
from overworld.errors import OverworldError


def main() -> int:
    """The exit status is 0 if all envs were loaded."""
    try:
        load(sys.argv[1:])
    except OverworldError as error:
        print(error, file=sys.stderr)
    except Exception as error:
        trace = traceback.extract_tb(error.__traceback__)
        here = [frame for frame in trace if frame.filename.startswith(os.getcwd() + os.sep)]
        lines = traceback.format_list(here or trace) + traceback.format_exception_only(error)
        print("".join(lines).rstrip(), file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
