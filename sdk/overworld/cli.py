"""The command `overworld`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from overworld.authoring import catalogue
from overworld.authoring.env import Pixels
from overworld.authoring.runner import Result
from overworld.client.channel import ServerBrokenError, ServerLostError, server_info
from overworld.client.fleet import Fleet
from overworld.client.session import Reset, ServerChangedError
from overworld.errors import ContractError
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.evaluate import ModelChangedError, Report, compare, evaluate, read_episodes, tasks_of_split
from overworld.evaluation.openai_client import ModelServerError, OpenAIModel
from overworld.evaluation.play import Agent, chance, expert, person, play, show_in, side_by_side, write_gif
from overworld.registry import open_registry
from overworld.service import log
from overworld.service.process import follow_parent
from overworld.service.secret import secret


def _serve(arguments: argparse.Namespace) -> int:
    from overworld.host.server import ServerConfig, bracketed, serve
    from overworld.host.worker_process import WorkerError

    log.configure()

    def announce(port: int) -> None:
        slots, envs = arguments.slots, " ".join(arguments.envs)
        print(f"overworld: {envs}, {slots} slots, listening on {bracketed(arguments.host)}:{port}", flush=True)

    try:
        config = ServerConfig(
            envs=arguments.envs,
            host=arguments.host,
            port=arguments.port,
            slots=arguments.slots,
            workers=arguments.workers,
            token=_token(),
            insecure=arguments.insecure,
            allow_expert=arguments.allow_expert,
            slot_bytes=arguments.slot_bytes,
            step_timeout=arguments.step_timeout,
            grace=arguments.grace,
            metrics_port=arguments.metrics_port,
            registry=arguments.registry,
            advertise=arguments.advertise,
        )
        serve(config, announce)
    except (ValueError, OSError, WorkerError) as error:
        return _fail(error)
    return 0


def _ps(arguments: argparse.Namespace) -> int:
    table = Table("server", "env", "slots free", "state")
    failures = 0
    for address in arguments.servers:
        try:
            info = server_info(address, _token(), retry_budget=arguments.timeout)
        except (ContractError, ServerBrokenError, ServerLostError, ValueError, grpc.RpcError) as error:
            failures += 1
            table.add_row(address, "", "", str(error))
            continue
        state = "draining" if info.draining else "serving"
        for env_id in info.envs:
            table.add_row(address, env_id, f"{info.slots_free} of {info.slots_total}", state)
    Console().print(table)
    return 1 if failures else 0


def _eval(arguments: argparse.Namespace) -> int:
    try:
        options, recipe = _pairs(arguments.option), _recipe(arguments.recipe)
        seeds = [] if arguments.split else _numbers(arguments.seeds)
        with (
            OpenAIModel(
                arguments.url,
                arguments.model,
                api_key=secret("OPENAI_API_KEY"),
                temperature=arguments.temperature,
                max_tokens=arguments.max_tokens,
                concurrency=arguments.slots,
            ) as model,
            Fleet(
                open_registry(arguments.servers),
                arguments.env,
                arguments.slots,
                token=_token(),
                options=options or model.options(arguments.env),
                retry_budget=arguments.timeout,
            ) as fleet,
        ):
            recipe = recipe or model.recipe() or Recipe()
            if arguments.split:
                tasks = tasks_of_split(fleet.spec.splits, arguments.split)
            else:
                tasks = [Reset(seed=seed) for seed in seeds]
            with Progress(console=Console(stderr=True)) as progress:
                bar = progress.add_task("episodes", total=len(tasks))
                report, _ = evaluate(
                    model,
                    fleet,
                    tasks,
                    recipe=recipe,
                    blank_frames=arguments.blank_frames,
                    keep=arguments.keep,
                    on_progress=lambda done: progress.update(bar, completed=done),
                )
    except (
        ContractError,
        ModelChangedError,
        ModelServerError,
        OSError,
        ServerBrokenError,
        ServerChangedError,
        ServerLostError,
        ValueError,
        grpc.RpcError,
    ) as error:
        return _fail(error)
    _print_report(report)
    return 0


def _print_report(report: Report) -> None:
    table = Table(show_header=False, title=f"{report.model} in {report.env}, {report.episodes} episodes")
    success = report.success
    table.add_row("success", f"{success.value:.3f}  (95 %: {success.low:.3f} to {success.high:.3f})")
    table.add_row("return", f"{report.mean_return:.3f}, above 0 in {report.positive_return:.1%} of the episodes")
    table.add_row("length", f"{report.mean_length:.1f} turns")
    table.add_row("invalid replies", f"{report.invalid_replies:.1%}")
    table.add_row("cut replies", f"{report.cut_replies:.1%}")
    table.add_row("ends", ", ".join(f"{name} {count}" for name, count in report.ends.items()))
    table.add_row("weights", report.fingerprint or "not told")
    Console().print(table)


def _play(arguments: argparse.Namespace) -> int:
    console = Console()
    frames: list[Pixels] = []
    show = show_in(console)

    def keep_and_show(result: Result) -> None:
        if arguments.gif and result.observation.images:
            frames.append(side_by_side(result.observation.images).copy())
        if arguments.agent == "you" or not arguments.gif:
            show(result)

    try:
        runner = catalogue.make(arguments.env, expert=arguments.agent == "expert", **_pairs(arguments.option))
        if arguments.agent == "expert" and not runner.spec.has_expert:
            raise ValueError(f"{runner.spec.id} has no expert")
        match arguments.agent:
            case "expert":
                agent: Agent = expert
            case "random":
                agent = chance(runner, arguments.seed)
            case _:
                agent = person(runner, console)
        console.print(f"[bold]{runner.spec.id}[/]  {escape(runner.spec.task)}")
        first = runner.reset(arguments.seed, split=arguments.split, task=arguments.task)
        results = play(runner, first, agent, keep_and_show)
        if arguments.gif:
            write_gif(frames, arguments.gif)
    except ValidationError as error:
        first_problem = error.errors()[0]
        return _fail(ValueError(f"--option {'.'.join(map(str, first_problem['loc']))}: {first_problem['msg']}"))
    except (ContractError, ImportError, LookupError, OSError, ValueError) as error:
        return _fail(error)
    last = results[-1]
    outcome = "stopped" if last.end is None else f"{last.end.name}, {'success' if last.success else 'no success'}"
    total = sum(result.reward for result in results)
    console.print(f"{last.turn} turns, return {total:g}, {outcome}" + (f"; {arguments.gif}" if arguments.gif else ""))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    try:
        result = compare(read_episodes(arguments.first), read_episodes(arguments.second))
    except (OSError, ValueError) as error:
        return _fail(error)
    table = Table("second - first", "difference", "95 % interval", title=f"{result['episodes']} episodes, paired")
    for name in ("success", "return"):
        interval = result[name]
        table.add_row(name, f"{interval['value']:+.3f}", f"{interval['low']:+.3f} to {interval['high']:+.3f}")
    Console().print(table)
    Console().print(f"McNemar's exact test: p = {result['mcnemar_p']:.3g}")
    return 0


def _pairs(arguments: Sequence[str]) -> dict[str, Any]:
    """key=value arguments, the values as YAML. Raises ValueError."""
    pairs = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} must have the form key=value")
        try:
            pairs[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"{argument!r}: what stands behind = must be YAML") from None
    return pairs


def _recipe(arguments: Sequence[str]) -> Recipe | None:
    """A recipe from key=value arguments, if there are any. Raises ValueError."""
    try:
        return Recipe.model_validate(_pairs(arguments)) if arguments else None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"--recipe {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _positive(text: str) -> int:
    """For argparse: a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _numbers(text: str) -> list[int]:
    """Numbers like "0-99,500,501". Raises ValueError."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdigit() or (dash and not last.strip().isdigit()):
            raise ValueError(f"{text!r}: seeds are numbers and ranges, like 0-99,500")
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("overworld", description="Simulators over gRPC for vision-language agents.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = _command(commands, "serve", _serve, "serve simulators over gRPC")
    serve.add_argument(
        "envs",
        nargs="+",
        metavar="ENV",
        help=f"a simulator ({', '.join(catalogue.simulators()) or 'none is installed'}), an env id, or module:Class",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=int, default=50051, help="port to listen on; 0 chooses a free one")
    serve.add_argument("--slots", type=int, default=64, help="episodes that can be played at once")
    serve.add_argument("--workers", type=int, default=0, help="processes that run simulators; 0: one per core")
    serve.add_argument("--insecure", action="store_true", help="allow listening beyond loopback without a token")
    serve.add_argument("--allow-expert", action="store_true", help="give expert advice to sessions that ask for it")
    serve.add_argument("--slot-bytes", type=int, default=16 << 20, help="bound of the images of one observation")
    serve.add_argument("--step-timeout", type=float, default=60.0, help="seconds before a hanging step is given up")
    serve.add_argument("--grace", type=float, default=30.0, help="seconds that sessions get after SIGTERM")
    serve.add_argument("--metrics-port", type=int, default=0, help="port of /metrics for Prometheus; 0: none")

    serve.add_argument("--registry", default="", help="URL of a Redis to announce the server in")
    serve.add_argument("--advertise", default="", help="address under which clients reach the server, for the registry")

    played = _command(commands, "play", _play, "play an env in the terminal, or have it played")
    played.add_argument("env", help="env id, e.g. gym_cards/NumberLine, or module:Class")
    played.add_argument("--agent", choices=("you", "expert", "random"), default="you", help="who plays")
    played.add_argument("--seed", type=int, default=0, help="seed of the episode")
    played.add_argument("--split", default="", help="split of the task; empty: the env's default")
    played.add_argument("--task", type=int, help="number of the task in the split")
    played.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the env")
    played.add_argument("--gif", type=Path, metavar="FILE", help="write what was seen there")

    evaluated = _command(commands, "eval", _eval, "play a model in an env and count its successes")
    evaluated.add_argument("env", help="env id, e.g. gym_cards/NumberLine")
    evaluated.add_argument("--model", required=True, help="the model's name at its server")
    evaluated.add_argument("--url", default="http://127.0.0.1:8000/v1", help="an OpenAI-compatible server")
    evaluated.add_argument(
        "--servers", default="127.0.0.1:50051", help="env servers: addresses, or redis://host:port/0"
    )
    evaluated.add_argument("--seeds", default="0-99", help="seeds of the episodes; ignored with --split")
    evaluated.add_argument("--split", default="", help="play each task of this split once")
    evaluated.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="instead of the model's own"
    )
    evaluated.add_argument(
        "--recipe", action="append", default=[], metavar="KEY=VALUE", help="instead of the model's own"
    )
    evaluated.add_argument("--temperature", type=float, default=0.0, help="of sampling; 0 is greedy")
    evaluated.add_argument("--max-tokens", type=_positive, default=256, help="longest reply")
    evaluated.add_argument("--slots", type=_positive, default=16, help="episodes played at once")
    evaluated.add_argument("--blank-frames", action="store_true", help="show white pictures instead, as a control")
    evaluated.add_argument("--keep", type=Path, metavar="DIR", help="write report, episodes and pictures there")
    evaluated.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for a lost server")

    compared = _command(commands, "compare", _compare, "compare two models that played the same episodes")
    compared.add_argument("first", type=Path, help="folder that an evaluation kept")
    compared.add_argument("second", type=Path, help="another one")

    ps = _command(commands, "ps", _ps, "show env servers, their envs and free slots")
    ps.add_argument("servers", nargs="+", metavar="HOST:PORT")
    ps.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for each")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="The bearer token is taken from OVERWORLD_TOKEN, or from the file that OVERWORLD_TOKEN_FILE names.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _token() -> str:
    return secret("OVERWORLD_TOKEN")


def _fail(error: Exception) -> int:
    print(f"overworld: {error}", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits with its status."""
    follow_parent()
    parsed = _parser().parse_args(arguments)
    try:
        sys.exit(parsed.run(parsed))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
