"""Does `overworld diagnose` name the defect of an agent that has one, and none where there is none?

Scripted agents play tests/support/errand.py, a game that takes sight, memory and planning, on a real env server; each
run has tasks and chance of its own. A run is a file in --runs, and one whose file is there, of the same code, is not
run again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from overworld import Fleet, Reset
from overworld.evaluation import diagnosis
from overworld.evaluation.diagnosis.diagnose import diagnose
from overworld.host.process import ServerProcess
from report import CONSOLE, Row, finish, parser
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support import errand

TASKS = 200
SLOTS = 200
ALLOWED_SECONDS = 5.0
WANTED_SHARE = 0.95

Run = Mapping[str, Any]
"""What a run's file holds."""


def digest() -> str:
    """Differs where game, agents or diagnosis differ."""
    judging = {"conditions.py", "contrasts.py", "diagnose.py", "donors.py", "trial.py", "verdict.py"}
    files = [Path(errand.__file__), *sorted(Path(diagnosis.__path__[0], name) for name in judging)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def run(agent: str, number: int, folder: Path, server: ServerProcess) -> Run:
    """The run of an agent, from its file if there is one."""
    file = folder / f"{agent}-{number}.json"
    wanted = digest()
    if file.exists():
        kept: Run = json.loads(file.read_text())
        if kept["digest"] == wanted:
            return kept
    before = cpu_seconds(server)

    def open_fleet(expert: bool) -> Fleet:
        return Fleet([server.address], "errand/Errand", SLOTS, expert=expert)

    model = errand.ScriptedAgent(agent, errand.AGENTS[agent], number)
    tasks = [Reset(number * TASKS + seed) for seed in range(TASKS)]
    found = diagnose(model, open_fleet, tasks, recipe=errand.RECIPE)
    seconds = cpu_seconds(server) - before
    result = {"digest": wanted, "cpu_seconds": seconds, "diagnosis": found.to_json()}
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    partial.rename(file)
    return json.loads(file.read_text())  # type: ignore[no-any-return]


def cpu_seconds(server: ServerProcess) -> float:
    """What this process and the env server with its children have used."""
    process = psutil.Process(server.process.pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return time.process_time() + sum(one.user + one.system for one in times)


def right(agent: str, done: Run) -> bool:
    """Whether exactly the agent's defect was named."""
    named: list[str] = done["diagnosis"]["named"]
    return named == ([] if agent == "healthy" else [agent])


def main() -> None:
    """Runs what is missing and reports."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--runs", type=Path, default=Path("runs/diagnose-agents"), help="folder of the runs' files")
    arguments.add_argument("--count", type=int, default=20, help="runs of each agent")
    chosen = arguments.parse_args()
    runs: dict[str, list[Run]] = {agent: [] for agent in errand.AGENTS}
    with ServerProcess(
        errand.ERRAND,
        arguments=("--slots", str(2 * SLOTS), "--workers", "1", "--allow-expert"),
    ) as server:
        for number in range(chosen.count):  # so that a run that is cut off says something of every agent
            for agent, done in runs.items():
                done.append(run(agent, number, chosen.runs, server))
    table = Table("agent", "named", "success as it is", "CPU-s, median", "CPU-s, most")
    rows = []
    for agent, done in runs.items():
        named = Counter(", ".join(one["diagnosis"]["named"]) or "nothing" for one in done)
        success = [one["diagnosis"]["conditions"]["as_is"]["success"]["value"] for one in done]
        seconds = sorted(one["cpu_seconds"] for one in done)
        told = ", ".join(f"{name} {count}" for name, count in named.most_common())
        middle, most = seconds[len(seconds) // 2], seconds[-1]
        table.add_row(agent, told, f"{min(success):.2f} to {max(success):.2f}", f"{middle:.1f}", f"{most:.1f}")
        correct, wanted = sum(right(agent, one) for one in done), WANTED_SHARE * len(done)
        rows.append(Row(agent, "named right", correct, f"of {len(done)}", "wanted", wanted, correct / wanted, 1.0))
        ratio = ALLOWED_SECONDS / middle
        rows.append(Row(agent, "median", middle, "CPU-s", "allowed", ALLOWED_SECONDS, ratio, 1.0))
    CONSOLE.print(table)
    finish(rows, chosen.json)


if __name__ == "__main__":
    main()
