"""`make train ENV=... UPDATES=...`: an env server of its own, and the tiny model trained in it."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from overworld.errors import OverworldError
from overworld.service.process import ServiceProcess, run

from demo.processes import EndingOnSignals

_ROOT = Path(__file__).parents[1]


def main() -> None:
    """Starts the server, trains, stops the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True, help="env id, e.g. gym_cards/EZPoints")
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="the run's folder; what is in it is deleted")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="further settings of the trainer")
    arguments = parser.parse_args()
    simulator = arguments.env.partition("/")[0]
    config = _ROOT / "configs" / "tiny" / f"{simulator}.yaml"
    folder = arguments.run or _ROOT / "runs" / f"train-{arguments.env.replace('/', '-')}"
    if not config.exists():
        sys.exit(f"there are no settings for {simulator!r}: {config} is missing")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with (
            EndingOnSignals(),
            ServiceProcess(
                "overworld", "serve", simulator, "--port", "0", "--slots", "64", "--allow-expert",
                log=folder / "logs" / "env_server.log",
            ) as server,
        ):  # fmt: skip
            run(
                "overworld_trainer", str(config), f"run={folder}", f"servers={server.address}",
                f"envs.0.id={arguments.env}", f"updates={arguments.updates}", f"seed={arguments.seed}",
                *arguments.settings,
            )  # fmt: skip
    except OverworldError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"metrics and checkpoints: {folder}")


if __name__ == "__main__":
    main()
