"""`python -m tests.traces.record [simulator ...]`: records the traces again."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.traces.script import conversation
from tests.traces.server import SIMULATORS, serving
from tests.traces.wire import Wire, write_trace


def main() -> None:
    """The process's entry."""
    parser = argparse.ArgumentParser(prog="python -m tests.traces.record", description=__doc__)
    parser.add_argument("simulators", nargs="*", metavar="simulator", help=f"of {', '.join(SIMULATORS)} (all)")
    for simulator in parser.parse_args().simulators or SIMULATORS:
        if simulator not in SIMULATORS:
            parser.error(f"there is no trace of {simulator!r}; there are {', '.join(SIMULATORS)}")
        with tempfile.TemporaryDirectory() as cache, serving(simulator, Path(cache)) as server, Wire(server) as wire:
            lines = conversation(simulator, wire)
        path = Path(__file__).parent / f"{simulator}.jsonl.gz"
        write_trace(path, lines)
        refused = sum("refused" in line for line in lines)
        print(f"{path}: {len(lines)} calls, {refused} of them refused, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
