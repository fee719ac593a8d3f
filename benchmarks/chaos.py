"""Trains calmly, and trains while everything fails: both must end in the same bytes. `make chaos SEED=0`.

The tiny model learns NumberLine as in the demo, from two env servers that are found through Redis, while its first
checkpoint is evaluated through a policy server; every few seconds something is killed, frozen, cut, delayed, spoilt or
filled up. Weights, critic, optimizers, open episodes, metrics and the evaluation must come out equal, durations aside.
What was finished is kept in runs/chaos and not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from chaos_faults import FAULTS, Stack
from chaos_stack import Service, apart, evaluator, has_trained, python, trainer
from overworld.client.counts import Counts, together, total
from overworld.evaluation.folder import VARYING
from report import CONSOLE
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1]))
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.scripted_model import ledger, lines, numbers, progress, tensors

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny" / "gym_cards.yaml"
SETTINGS = (
    "envs.0.slots=16",
    "rollout_steps=6",
    "policy.minibatch=32",
    "clone.updates=50",
    "checkpoint_every=1",
    "table.every=4",
    "retry_budget=120",
)
"""A short run of the demo's; what it leaves is the checkpoint that the demo's trainer would leave."""
EVALUATION = ("gym_cards/NumberLine", "model=run@0", "seeds=0-127", "slots=2", "temperature=0.7", "max_tokens=64")
FAULTS_PER_UPDATE = 1.25
"""On average."""
VOLUME = "256m"
MOST_TIMES = 3.0
MOST_STARTS = 100
"""Of the evaluation, which ends when it cannot be kept and is started again."""
FAULTY_SHARE = 0.8
"""Of the updates, over which the faults are spread."""
PAUSE_SHARE = 0.5
"""Of the calm run's time per fault: the average pause between two. With longer ones, the updates outrun the faults."""
MUST_BE_0 = ("fabricated", "failed steps", "not balanced")
"""Of the ledger."""
_INSIDE = "OVERWORLD_CHAOS_INSIDE"


@contextmanager
def stack(folder: Path, seed: int, updates: int) -> Iterator[Stack]:
    """The services, with a run of so many updates in `folder`/run."""
    logs = folder / "logs"
    ports = [free_port() for _ in range(3)]
    policy_port = free_port()
    redis_url = f"redis://127.0.0.1:{ports[0]}/0"
    with ExitStack() as running:

        def started(service: Service) -> Service:
            running.callback(service.stop)
            return service

        redis = started(
            Service(
                "redis",
                ["redis-server", "--port", str(ports[0]), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"],
                logs / "redis.log",
            )
        )
        proxies = [Proxy(f"127.0.0.1:{port}", seed=seed) for port in ports[1:]]
        servers = []
        for number, (port, proxy) in enumerate(zip(ports[1:], proxies, strict=True)):
            running.callback(proxy.close)
            command = python(
                "overworld", "serve", "gym_cards", "--port", str(port), "--slots", "64", "--workers", "1",
                "--step-timeout", "10", "--allow-expert", "--registry", redis_url, "--advertise", proxy.address,
            )  # fmt: skip
            # The frames of the second one cross the network; the first one's are in memory that both sides map.
            command = command if number == 0 else apart(command)
            servers.append(started(Service(f"server-{number}", command, logs / f"server-{number}.log")))
        command = python(
            "overworld_trainer", str(CONFIG), f"run={folder / 'run'}", f"seed={seed}", f"servers={redis_url}",
            f"updates={updates}", *SETTINGS,
        )  # fmt: skip
        serving = python("overworld_policy", f"runs={folder}", f"port={policy_port}", "threads=1")
        asking = python(
            "overworld", "eval", *EVALUATION, f"url=http://127.0.0.1:{policy_port}/v1", f"servers={redis_url}",
            "timeout=120", f"keep={folder / 'evaluation'}",
        )  # fmt: skip
        yield Stack(
            redis=redis,
            servers=servers,
            proxies=proxies,
            trainer=started(trainer(command, logs / "trainer.log")),
            policy=started(Service("policy", serving, logs / "policy.log")),
            evaluator=started(evaluator(asking, logs / "evaluator.log", folder / "run" / "checkpoints" / "000000")),
            run=folder / "run",
        )


def finished(stack: Stack) -> bool:
    """Whether training and evaluation are over. Raises RuntimeError if the trainer has given up, or the evaluation
    gets nowhere.
    """
    if stack.evaluator.starts > MOST_STARTS:
        raise RuntimeError(f"the evaluation was started {stack.evaluator.starts} times and is not over: read its log")
    return has_trained(stack.trainer) and stack.evaluator.ended is not None


def run_calm(folder: Path, seed: int, updates: int) -> float:
    """Trains undisturbed. Returns the seconds that it took."""
    began = time.monotonic()
    with stack(folder, seed, updates) as calm:
        while not finished(calm):
            time.sleep(0.2)
    return time.monotonic() - began


def run_chaos(folder: Path, seed: int, updates: int, faults: int, pause: float) -> tuple[float, Counter[str]]:
    """Trains while `faults` faults happen, spread over the updates, with `pause` seconds or more between two of them on
    average. Returns seconds, and faults by kind.
    """
    chance = random.Random(f"chaos {seed}")
    done: Counter[str] = Counter()
    began = time.monotonic()
    with stack(folder, seed, updates) as chaotic:
        deck: list[str] = []
        until = began
        while not finished(chaotic):
            time.sleep(0.05)
            made = len(lines(folder / "run"))
            due = min(faults * (made + 1) / (updates * FAULTY_SHARE), faults)
            if done.total() >= due or time.monotonic() < until:
                continue
            deck = deck or chance.sample(sorted(FAULTS), len(FAULTS))
            kind = deck.pop()
            at = time.monotonic() - began
            if FAULTS[kind](chaotic, chance):
                done[kind] += 1
                CONSOLE.print(f"{at:6.1f} s  {done.total():3}/{faults}  update {made:2}  {kind}", highlight=False)
            until = time.monotonic() + chance.uniform(0.5, 1.5) * pause
        services = (chaotic.trainer, chaotic.policy, chaotic.evaluator, chaotic.redis, *chaotic.servers)
        starts = {service.name: service.starts for service in services}
        CONSOLE.print(f"starts: {starts}; bits flipped: {sum(proxy.flipped for proxy in chaotic.proxies)}")
    return time.monotonic() - began, done


def evaluation(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of an evaluation that does not differ between any two of them."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in VARYING]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def differences(calm: Path, chaotic: Path, updates: int) -> list[str]:
    """What the two runs do not have in common, of what must be equal."""
    found = []
    if evaluation(chaotic.with_name("evaluation")) != evaluation(calm.with_name("evaluation")):
        found.append("the evaluation differs: report or episodes")
    ours, theirs = tensors(chaotic, updates), tensors(calm, updates)
    found += [f"{name} differs" for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if progress(chaotic, updates) != progress(calm, updates):
        found.append("trainer/state.json differs: open episodes, guard or counters")
    if (made := len(numbers(chaotic))) != len(numbers(calm)):
        found.append(f"{made} updates have metrics, {len(numbers(calm))} in the calm run")
    for number, (one, other) in enumerate(zip(numbers(chaotic), numbers(calm), strict=False)):
        if one != other:
            a, b = json.loads(one), json.loads(other)
            names = [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
            found.append(f"metrics of update {number}: {', '.join(names[:5])}")
    return found


def accounts(run: Path) -> dict[str, Any]:
    """What the run's ledger says, all of its processes together."""
    entries = ledger(run)
    sums = total(together({a: Counts(**c) for a, c in entry["servers"].items()} for entry in entries))
    return {
        "updates made": len(entries),
        "samples": sum(entry["samples"] for entry in entries),
        "fabricated": sum(entry["fabricated"] for entry in entries),
        "failed steps": sum(entry["failed"] for entry in entries),
        "restored actions": sum(entry["restored"] for entry in entries),
        "not balanced": sum(not entry["balanced"] for entry in entries),
        **sums.to_json(),
    }


def code() -> str:
    """A digest of what decides about the numbers: results of other code are not kept."""
    digest = hashlib.sha256(repr((SETTINGS, EVALUATION)).encode())
    folders = (ROOT / "services" / "trainer", ROOT / "services" / "policy", ROOT / "vlm")
    for part in (CONFIG, *(file for folder in folders for file in sorted(folder.rglob("*.py")))):
        digest.update(part.read_bytes())
    return digest.hexdigest()[:16]


def trial(seed: int, faults: int, kept: Path) -> dict[str, Any]:
    """Both runs of a seed, or what is known of them: the calm one serves every number of faults of its updates."""
    updates = max(round(faults / FAULTS_PER_UPDATE), 2)
    calm, chaotic = kept / f"calm-{updates}", kept / f"chaos-{faults}"
    calm_file, file = calm.with_suffix(".json"), chaotic.with_suffix(".json")
    for known in (calm_file, file):
        if known.exists() and json.loads(known.read_text())["code"] != code():
            known.unlink()
    with tempfile.TemporaryDirectory() as made:
        volume = Path(made)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={VOLUME}", "none", made], check=True)
        if not calm_file.exists():
            CONSOLE.print(f"seed {seed}: the calm run, {updates} updates")
            seconds = run_calm(volume, seed, updates)
            _keep(volume, calm)
            calm_file.write_text(json.dumps({"code": code(), "seconds": seconds}))
        calm_seconds = json.loads(calm_file.read_text())["seconds"]
        if not file.exists():
            for left in ("run", "logs", "evaluation"):
                shutil.rmtree(volume / left, ignore_errors=True)
            CONSOLE.print(f"seed {seed}: {faults} faults ({calm_seconds:.0f} s without)")
            try:
                pause = PAUSE_SHARE * calm_seconds / faults
                seconds, done = run_chaos(volume, seed, updates, faults, pause)
            finally:
                _keep(volume, chaotic)
            trained = {
                "code": code(),
                "seed": seed,
                "wanted": faults,
                "calm_seconds": calm_seconds,
                "seconds": seconds,
                "faults": done,
                "ledger": accounts(chaotic / "run"),
                "differences": differences(calm / "run", chaotic / "run", updates),
            }
            file.write_text(json.dumps(trained, indent=1))
        subprocess.run(["umount", "--lazy", made], check=True)
    row: dict[str, Any] = json.loads(file.read_text())
    return row


def _keep(volume: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(volume, folder)


def show(row: dict[str, Any]) -> list[str]:
    """Prints a trial. Returns what is wrong with it."""
    table = Table("fault", "how often", title=f"seed {row['seed']}")
    for kind in FAULTS:
        table.add_row(kind, str(row["faults"].get(kind, 0)))
    table.add_row("all", str(sum(row["faults"].values())))
    CONSOLE.print(table)
    times = row["seconds"] / row["calm_seconds"]
    CONSOLE.print(f"calm {row['calm_seconds']:.0f} s, with faults {row['seconds']:.0f} s: {times:.2f} times")
    CONSOLE.print(
        "the ledger:", ", ".join(f"{name} {count:,}" for name, count in row["ledger"].items()), highlight=False
    )
    wrong = list(row["differences"])
    wrong += [f"the ledger says {name}: {row['ledger'][name]}" for name in MUST_BE_0 if row["ledger"][name]]
    if (happened := sum(row["faults"].values())) < row["wanted"]:
        wrong.append(f"{happened} faults happened before the run was over; {row['wanted']} were wanted")
    if times > MOST_TIMES:
        wrong.append(f"it took {times:.2f} times as long; {MOST_TIMES:g} are allowed")
    if not row["differences"]:
        CONSOLE.print("weights, critic, optimizers, open episodes, metrics and the evaluation are equal")
    return wrong


def main() -> None:
    """Runs the trials, in a mount namespace of its own, where a volume can be made that may be filled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "chaos")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    arguments = parser.parse_args()
    if not os.environ.get(_INSIDE):
        os.environ[_INSIDE] = "1"
        apart_from_all = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp("unshare", [*apart_from_all, sys.executable, *sys.argv])
    kept = arguments.folder / f"seed-{arguments.seed}"
    kept.mkdir(parents=True, exist_ok=True)
    row = trial(arguments.seed, arguments.faults, kept)
    wrong = show(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(row | {"wrong": wrong}, indent=1))
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
