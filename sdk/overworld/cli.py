"""The command `overworld`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from overworld import catalogue, log
from overworld.channel import ServerLostError, server_info
from overworld.errors import ContractError


def _serve(arguments: argparse.Namespace) -> int:
    from overworld.host.server import ServerConfig, serve
    from overworld.host.workers import WorkerError

    log.configure()

    def announce(port: int) -> None:
        slots, envs = arguments.slots, " ".join(arguments.envs)
        print(f"overworld: {envs}, {slots} slots, listening on {arguments.host}:{port}", flush=True)

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
    from rich.console import Console
    from rich.table import Table

    table = Table("server", "env", "slots free", "state")
    failures = 0
    for address in arguments.servers:
        try:
            info = server_info(address, _token(), retry_budget=arguments.timeout)
        except (ContractError, ServerLostError) as error:
            failures += 1
            table.add_row(address, "", "", str(error))
            continue
        state = "draining" if info.draining else "serving"
        for env_id in info.envs:
            table.add_row(address, env_id, f"{info.slots_free} of {info.slots_total}", state)
    Console().print(table)
    return 1 if failures else 0


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
        epilog="The bearer token is taken from OVERWORLD_TOKEN.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _token() -> str:
    return os.environ.get("OVERWORLD_TOKEN", "")


def _fail(error: Exception) -> int:
    print(f"overworld: {error}", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits with its status."""
    parsed = _parser().parse_args(arguments)
    try:
        sys.exit(parsed.run(parsed))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
