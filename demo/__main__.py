"""`make demo`: clones, trains and evaluates an agent on NumberLine, every service a process of its own on loopback.

The cloned and the trained policy are evaluated through the policy server, greedily, on all 30 deals; then the trained
one once more with blank frames, as a control: an agent that looks must do no better than chance without its eyes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from overworld import Fleet, OverworldError
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.episodes import Episode
from overworld.evaluation.evaluate import evaluate, tasks_of_split
from overworld.evaluation.openai_client import OpenAIModel
from overworld.evaluation.report import Report
from overworld.service import malloc
from overworld.service.process import ServiceProcess, run
from rich.console import Console
from rich.table import Table

from demo.processes import EndingOnSignals, cpu_seconds
from demo.report import write_report

_ROOT = Path(__file__).parents[1]
_CONFIG = _ROOT / "configs" / "tiny" / "gym_cards.yaml"
_ENV = "gym_cards/NumberLine"
_SPLIT = "deals"
_SLOTS = 64
_MAX_TOKENS = 64
_console = Console()

EVALUATIONS = {"cloned": ("0", False), "trained": ("latest", False), "trained_blank": ("latest", True)}
"""Name in the report -> checkpoint, and whether its frames are blank."""


def main() -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides everything")
    parser.add_argument(
        "--run", type=Path, default=_ROOT / "runs" / "demo", help="the run's folder; what is in it is deleted"
    )
    arguments = parser.parse_args()
    seed, folder = arguments.seed, arguments.run.resolve()
    malloc.keep_freed_memory()
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    try:
        with EndingOnSignals():
            evaluations = train_and_evaluate(seed, folder)
    except OverworldError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    summary = write_report(folder, seed, evaluations, cpu_seconds(), time.monotonic() - started)
    show(summary, folder)


def train_and_evaluate(seed: int, folder: Path) -> dict[str, tuple[Report, list[Episode]]]:
    """All of the work; when it returns or raises, every process has ended."""
    logs = folder / "logs"
    _step(1, f"env server for {_ENV}")
    with ServiceProcess(
        "overworld", "serve", "gym_cards", "--port", "0", "--slots", str(_SLOTS), "--allow-expert",
        log=logs / "env_server.log",
    ) as env_server:  # fmt: skip
        _step(2, f"trainer: cloning, then VL-DAC over gRPC from {env_server.address}")
        run("overworld_trainer", str(_CONFIG), f"run={folder}", f"seed={seed}", f"servers={env_server.address}")
        _step(3, "policy server with the checkpoints")
        with ServiceProcess(
            "overworld_policy", f"runs={folder.parent}", "port=0", log=logs / "policy_server.log"
        ) as policy_server:
            _step(4, "evaluation through the policy server, greedy, on all deals")
            return {
                name: evaluate_model(
                    policy_server.address,
                    env_server.address,
                    f"{folder.name}@{checkpoint}",
                    blank,
                    folder / "evaluations" / name,
                )
                for name, (checkpoint, blank) in EVALUATIONS.items()
            }


def evaluate_model(url: str, server: str, name: str, blank: bool, keep: Path) -> tuple[Report, list[Episode]]:
    """Plays a model on each deal once."""
    with (
        OpenAIModel(url, name, max_tokens=_MAX_TOKENS) as model,
        Fleet([server], _ENV, 30, options=model.options(_ENV), fallback_reward=None) as fleet,
    ):
        tasks = tasks_of_split(fleet.spec.splits, _SPLIT)
        recipe = model.recipe() or Recipe()
        return evaluate(model, fleet, tasks, recipe=recipe, blank_frames=blank, keep=keep)


def show(summary: dict[str, Any], folder: Path) -> None:
    """Prints the table."""
    table = Table("30 deals, greedy", "success", "95 % interval", "return > 0", "invalid replies")
    for name in EVALUATIONS:
        row = summary[name]
        interval = f"{row['success_low']:.2f} to {row['success_high']:.2f}"
        numbers = f"{row['success']:.2f}", interval, f"{row['positive_return']:.2f}", f"{row['invalid_replies']:.2f}"
        table.add_row(name.replace("_", ", "), *numbers)
    _console.print(table)
    _console.print(
        f"seed {summary['seed']}, {summary['env_steps']:,} env steps, {summary['cpu_seconds']:.0f} CPU-seconds; "
        f"rollout and training log-probs differ by {summary['max_rollout_train_logprob_error']:.1e} at most"
    )
    for name in ("report.html", "report.json"):
        _console.print(f"  {folder / name}", soft_wrap=True)


def _step(number: int, text: str) -> None:
    _console.print(f"[bold]{number}/4[/] {text}")


if __name__ == "__main__":
    main()
