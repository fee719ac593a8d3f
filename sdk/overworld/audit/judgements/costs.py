"""What a slot costs, and whether that grows."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from overworld.audit import players
from overworld.audit.case import Case
from overworld.audit.episodes import play
from overworld.audit.judging import answers
from overworld.audit.report import Table

RESOURCES = "runtime.resource_bounds"

_EPISODES = 8
_TURNS = 15
_ROUNDS = 4
_GROWTH = 16 * 2**20
"""Bytes that the rounds after the first may take."""
_PER_TURN = 8 * 2**10
_HANDLES = 12
_SLOW = 1.0


@answers(RESOURCES)
def of_costs(case: Case) -> None:
    """CPU time and memory of random play, in this process or in the one that was started for it."""
    place = case.elsewhere or case.place
    pids = place.processes()
    if not pids:
        _judge_slow(case)
        raise case.skip("the server's processes cannot be seen from here; name the env as module:Class to see its own")
    slots = min(4, place.slots)
    before = _used(place.processes())
    stage = place.open(slots)
    try:
        jobs = [
            case.job("cost", players.drawn, case.seeds[-1] + 700 + number, _TURNS)
            for number in range(case.some(_EPISODES))
        ]
        used = []
        turns = 0
        started = time.monotonic()
        for _ in range(_ROUNDS):
            played = play(stage, jobs, until=lambda: case.late)
            turns += sum(len(episode.turns) for episode in played)
            used.append(_used(place.processes()))
        seconds = time.monotonic() - started
    finally:
        stage.close()
    turns = max(turns, 1)
    cpu = (used[-1].cpu - before.cpu) / turns
    memory = (used[0].memory - before.memory) / slots
    row = (
        str(turns), f"{1000 * cpu:.3g}", f"{1 / max(cpu, 1e-9):,.0f}",
        f"{max(memory, 0) / 2**20:.1f}", f"{used[-1].memory / 2**20:.0f}",
    )  # fmt: skip
    columns = ("turns", "CPU-ms a turn", "turns a CPU-second", "MB a slot", "MB in all")
    case.report.tables.append(Table("What it costs", columns, [row]))
    grown = used[-1].memory - used[0].memory
    each = grown / (turns * (_ROUNDS - 1) / _ROUNDS)
    sent = f"{turns:,} turns of random play in {slots} slots"
    if grown > _GROWTH and each > _PER_TURN and used[-1].memory > used[1].memory > used[0].memory:
        came = f"memory grew by {grown / 2**20:.0f} MB, {each / 1024:.0f} KB a turn"
        case.find("error", sent, came, "no growth")
    for name in ("threads", "files"):
        one, other = getattr(used[0], name), getattr(used[-1], name)
        if other - one > _HANDLES:
            case.find("error", sent, f"{name} grew from {one} to {other}", "no growth")
    if seconds / turns * slots > _SLOW:
        case.find("warning", sent, f"{seconds / turns * slots:.1f} s a turn in each slot", "less than a second")


def _judge_slow(case: Case) -> None:
    started, before = time.monotonic(), case.report.turns
    with case.open(1) as stage:
        case.play(stage, [case.job("cost", players.drawn, case.seeds[-1] + 700, _TURNS)])
    each = (time.monotonic() - started) / max(case.report.turns - before, 1)
    row = (str(case.report.turns - before), f"{1000 * each:.3g}")
    case.report.tables.append(Table("What it costs", ("turns", "ms a turn, one slot, with the way here"), [row]))


@dataclass(frozen=True, slots=True)
class _Use:
    """CPU-seconds, resident bytes, threads and open files of processes together."""

    cpu: float
    memory: int
    threads: int
    files: int


def _used(pids: list[int]) -> _Use:
    if pids == [os.getpid()]:
        cpu = time.process_time()
    else:
        cpu = sum(sum(map(int, _stat(pid)[11:13])) for pid in pids) / os.sysconf("SC_CLK_TCK")
    memory = sum(int(_read(pid, "statm").split()[1]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")
    threads = threading.active_count() if pids == [os.getpid()] else sum(int(_stat(pid)[17]) for pid in pids)
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return _Use(cpu, memory, threads, files)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name of the program."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()
