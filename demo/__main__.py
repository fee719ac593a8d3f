"""`make demo` and `make demo-miniworld`: an agent is cloned, trained and evaluated, every service a process of its own.

The cloned and the trained policy are evaluated through the policy server, greedily, on held-out episodes; then the
trained one once more with blank frames, as a control: an agent that looks must do no better than chance without its
eyes. A course with targets has more controls, which together are the blind ceiling; if a target is missed, the status
is 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from overworld import Fleet, OverworldError, Reset
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.diagnosis.diagnose import play_controls
from overworld.evaluation.evaluate import evaluate, tasks_of_split
from overworld.evaluation.openai_client import OpenAIModel
from overworld.service import malloc
from overworld.service.process import ServiceProcess, run
from rich.console import Console
from rich.table import Table

from demo.courses import COURSES, Course, Targets
from demo.processes import EndingOnSignals, cpu_seconds
from demo.report import Evaluation, Evaluations, invalid_replies, write_report
from demo.sequence import Sequences
from demo.verdict import Verdict, judge

_ROOT = Path(__file__).parents[1]
_SLOTS = 64
_MAX_TOKENS = 64
_SEARCH_SEEDS = range(1 << 32, (1 << 32) + 60)
"""On which the best fixed sequence is looked for: training's."""
_console = Console()


def main() -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--course", choices=COURSES, default="number-line", help="what is taught")
    parser.add_argument("--seed", type=int, default=0, help="decides everything")
    parser.add_argument("--run", type=Path, help="the run's folder; what is in it is deleted")
    arguments = parser.parse_args()
    course, seed = COURSES[arguments.course], arguments.seed
    default = "demo" if arguments.course == "number-line" else f"demo-{arguments.course}"
    folder = (arguments.run or _ROOT / "runs" / default).resolve()
    malloc.keep_freed_memory()
    started = time.monotonic()
    try:
        with EndingOnSignals():
            demo = Demo(course, seed, folder)
            evaluations = demo.train_and_evaluate()
            verdict = demo.verdict(evaluations, course.targets) if course.targets is not None else None
    except OverworldError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    summary = write_report(folder, seed, evaluations, verdict, cpu_seconds(), time.monotonic() - started)
    show(summary, list(evaluations), folder)
    if verdict is not None and verdict.missed:
        sys.exit("demo: " + "; ".join(verdict.missed))


class Demo:
    """One course with one seed. What is in its folders is deleted."""

    def __init__(self, course: Course, seed: int, folder: Path) -> None:
        self.course = course
        self.seed = seed
        self.folder = folder
        self.blind_folder = folder.with_name(f"{folder.name}-blind")
        self._options: dict[str, Any] = {}
        self._parts = 4 if course.targets is None else 6
        for one in (self.folder, self.blind_folder):
            shutil.rmtree(one, ignore_errors=True)

    def train_and_evaluate(self) -> Evaluations:
        """All of the services' work; when it returns or raises, every process has ended."""
        course, logs = self.course, self.folder / "logs"
        self._step(1, f"env server for {course.env}")
        with ServiceProcess(
            "overworld", "serve", course.simulator, "--port", "0", "--slots", str(_SLOTS), "--allow-expert",
            log=logs / "env_server.log",
        ) as env_server:  # fmt: skip
            self._step(2, f"trainer: cloning, then VL-DAC over gRPC from {env_server.address}")
            self._train(self.folder, env_server.address)
            with ServiceProcess(
                "overworld_policy", f"runs={self.folder.parent}", "port=0", log=logs / "policy_server.log"
            ) as policy_server:
                self._step(3, "policy server with the checkpoints")
                what = f"{course.episodes} held-out episodes" if course.episodes else f"all {course.split}"
                self._step(4, f"evaluation through the policy server, greedy, on {what}")
                addresses = policy_server.address, env_server.address
                evaluations = {"cloned": self._evaluate("cloned", self.folder, "0", *addresses)}
                if course.targets is None:
                    evaluations["trained"] = self._evaluate("trained", self.folder, "latest", *addresses)
                    evaluations["trained_blank"] = self._evaluate(
                        "trained_blank", self.folder, "latest", *addresses, blank=True
                    )
                    return evaluations
                evaluations |= self._controls(*addresses)
                self._step(5, "another agent, from cloning on, that is shown white pictures only")
                self._train(self.blind_folder, env_server.address, "blank_frames=true")
                evaluations["trained_blind"] = self._evaluate(
                    "trained_blind", self.blind_folder, "latest", *addresses, blank=True
                )
                return evaluations

    def verdict(self, evaluations: Evaluations, targets: Targets) -> Verdict:
        """Compares the trained agent with the blind ones; looks for the best fixed sequence of actions."""
        self._step(6, "the best fixed sequence of actions")
        sequences = Sequences(self.course.env, self._options)
        best = sequences.best(_SEARCH_SEEDS, self.seed)
        won = {
            name: [episode.success for episode in one.episodes]
            for name, one in evaluations.items()
            if name.startswith("trained")
        }
        trained = won.pop("trained")
        won["fixed_sequence"] = sequences.successes(best, range(self.course.episodes))
        sequences.close()
        return judge(trained, won, invalid_replies(self.folder), targets)

    def _train(self, folder: Path, server: str, *settings: str) -> None:
        config = str(self.course.config)
        run("overworld_trainer", config, f"run={folder}", f"seed={self.seed}", f"servers={server}", *settings)

    def _evaluate(
        self, name: str, run_folder: Path, checkpoint: str, url: str, server: str, *, blank: bool = False
    ) -> Evaluation:
        """Plays a model in each task once."""
        keep = self.folder / "evaluations" / name
        with self._model(url, run_folder, checkpoint) as model, self._fleet(model, server) as fleet:
            recipe = model.recipe() or Recipe()
            report, episodes = evaluate(model, fleet, self._tasks(fleet), recipe=recipe, blank_frames=blank, keep=keep)
            return Evaluation(report, episodes, keep)

    def _controls(self, url: str, server: str) -> dict[str, Evaluation]:
        """Plays the trained model in each task as it is, with white pictures, and with another episode's."""
        keep = self.folder / "evaluations" / "trained"
        with self._model(url, self.folder, "latest") as model, self._fleet(model, server) as fleet:
            recipe = model.recipe() or Recipe()
            played = play_controls(model, fleet, self._tasks(fleet), recipe=recipe, keep=keep)
        names = {"as_is": "trained", "blank_frames": "trained_blank", "swapped_frames": "trained_swapped"}
        return {names[name]: Evaluation(*found, keep / name) for name, found in played.items()}

    def _model(self, url: str, run_folder: Path, checkpoint: str) -> OpenAIModel:
        return OpenAIModel(url, f"{run_folder.name}@{checkpoint}", max_tokens=_MAX_TOKENS)

    def _fleet(self, model: OpenAIModel, server: str) -> Fleet:
        self._options = model.options(self.course.env)
        return Fleet([server], self.course.env, 30, options=self._options, fallback_reward=None)

    def _tasks(self, fleet: Fleet) -> list[Reset]:
        if self.course.episodes:
            return [Reset(seed) for seed in range(self.course.episodes)]
        return tasks_of_split(fleet.spec.splits, self.course.split)

    def _step(self, number: int, text: str) -> None:
        _console.print(f"[bold]{number}/{self._parts}[/] {text}")


def show(summary: dict[str, Any], names: list[str], folder: Path) -> None:
    """Prints the table."""
    table = Table(
        f"{summary['cloned']['episodes']} episodes, greedy", "success", "95 % interval", "return > 0", "invalid replies"
    )
    for name in names:
        row = summary[name]
        interval = f"{row['success_low']:.2f} to {row['success_high']:.2f}"
        numbers = f"{row['success']:.2f}", interval, f"{row['positive_return']:.2f}", f"{row['invalid_replies']:.2f}"
        table.add_row(name.replace("_", ", "), *numbers)
    _console.print(table)
    _console.print(
        f"seed {summary['seed']}, {summary['env_steps']:,} env steps, {summary['cpu_seconds']:.0f} CPU-seconds; "
        f"rollout and training log-probs differ by {summary['max_rollout_train_logprob_error']:.1e} at most"
    )
    if verdict := summary.get("verdict"):
        margin = verdict["margin"]
        _console.print(
            f"blind ceiling {verdict['ceiling']:.2f} ({verdict['control'].replace('_', ', ')}), exceeded by "
            f"{margin['value']:.2f} ({margin['low']:.2f} to {margin['high']:.2f}); "
            f"{verdict['invalid']:.1%} of the last sampled replies invalid"
        )
    for name in ("report.html", "report.json"):
        _console.print(f"  {folder / name}", soft_wrap=True)


if __name__ == "__main__":
    main()
