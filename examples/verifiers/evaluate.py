"""verifiers' own command evaluates a tiny model in NumberLine: `make example-verifiers`.

Four programs: an env server; the trainer, which clones a tiny model from the env's expert; the policy server with the
result, and vf-eval, from an environment of its own, which knows the others by their addresses.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from overworld.service.process import ServiceProcess, run

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_RUN = _ROOT / "runs" / "example-verifiers"
_ENV = "gym_cards/NumberLine"
_OPTIONS = {"size": 56, "colours": True, "max_turns": 20}
_EPISODES = 30  # the split "deals" has as many


def main() -> None:
    """Makes the model and has it evaluated."""
    shutil.rmtree(_RUN, ignore_errors=True)
    with ServiceProcess("overworld", "serve", "gym_cards", "--port", "0", "--slots", "64", "--allow-expert") as envs:
        run(
            "overworld_trainer", str(_ROOT / "configs" / "tiny" / "gym_cards.yaml"), f"run={_RUN}",
            f"servers={envs.address}", "clone.random_actions=0", "updates=1",
        )  # fmt: skip
        with ServiceProcess("overworld_policy", f"runs={_RUN.parent}", "port=0") as policy:
            evaluate(envs.address, policy.address)
    episodes = [json.loads(line) for path in _RUN.glob("verifiers/*/traces.jsonl") for line in path.open()]
    traces: list[dict[str, Any]] = [trace for episode in episodes for trace in episode["traces"]]
    turns = sum(node["sampled"] for trace in traces for node in trace["nodes"])
    reward = sum(trace["rewards"]["episode_return"]["score"] for trace in traces) / len(traces)
    success = sum(trace["metrics"]["success"] for trace in traces) / len(traces)
    print(f"{len(episodes)} episodes, {turns} turns: mean return {reward:.2f}, success {success:.2f}")
    if len(episodes) != _EPISODES or not all(episode["ok"] for episode in episodes):
        sys.exit(f"{_EPISODES} episodes without an error were expected; {_RUN / 'verifiers'} has the traces")


def evaluate(server: str, policy: str) -> None:
    """Runs vf-eval; its traces are written beside the run."""
    subprocess.run(
        [
            _ROOT / ".venv-verifiers" / "bin" / "vf-eval", "overworld_verifiers",
            "--env.taskset.servers", json.dumps([server]), "--env.taskset.env", _ENV,
            "--env.taskset.split", "deals", "--env.taskset.options", json.dumps(_OPTIONS),
            "-n", str(_EPISODES), "-m", f"{_RUN.name}@latest", "--client.base-url", policy,
            "--client.api-key-var", "NO_KEY", "--sampling.temperature", "0", "--sampling.max-tokens", "64",
            "--no-push", "--no-rich", "-o", str(_RUN / "verifiers"),
        ],
        env=os.environ | {"PYTHONPATH": str(_HERE), "NO_KEY": "none"},
        stdout=subprocess.DEVNULL,  # the last trace in full
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
