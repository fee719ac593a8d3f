"""Plays an episode that another process has recorded: `python -m overworld.check.replay`, JSON on stdin and stdout."""

from __future__ import annotations

import json
import sys

from overworld.check.env_class import replayed

if __name__ == "__main__":
    print(json.dumps(replayed(json.load(sys.stdin))))
