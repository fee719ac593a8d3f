"""The faults of `make chaos`: what is done to a stack, at moments and to victims that a generator draws."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos_stack import Service, workers_of

sys.path.append(str(Path(__file__).parents[1]))
from tests.support.proxy import Proxy

_WRITING_SECONDS = 30.0
_FULL_SECONDS = 6.0
_PASSING_SECONDS = 30.0
_POLL_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What can fail: each server is behind the proxy of the same number, and `run` is on a volume of its own. The
    evaluator asks the policy server.
    """

    redis: Service
    servers: list[Service]
    proxies: list[Proxy]
    trainer: Service
    policy: Service
    evaluator: Service
    run: Path


Fault = Callable[[Stack, random.Random], bool]
"""Does what it is called, and ends it where it does not end by itself. False: there was nothing that it could hit."""


def _kill_worker(stack: Stack, chance: random.Random) -> bool:
    workers = workers_of(chance.choice(stack.servers))
    return bool(workers) and _signal(chance.choice(workers), signal.SIGKILL)


def _freeze_worker(stack: Stack, chance: random.Random) -> bool:
    """For good: it is for its server to notice."""
    workers = workers_of(chance.choice(stack.servers))
    return bool(workers) and _signal(chance.choice(workers), signal.SIGSTOP)


def _kill_server(stack: Stack, chance: random.Random) -> bool:
    return chance.choice(stack.servers).signal(signal.SIGKILL)


def _freeze_server(stack: Stack, chance: random.Random) -> bool:
    return _freeze(chance.choice(stack.servers), chance)


def _kill_redis(stack: Stack, chance: random.Random) -> bool:
    return stack.redis.signal(signal.SIGKILL)


def _freeze_redis(stack: Stack, chance: random.Random) -> bool:
    return _freeze(stack.redis, chance)


def _kill_trainer(stack: Stack, chance: random.Random) -> bool:
    return stack.trainer.signal(signal.SIGKILL)


def _kill_trainer_that_writes(stack: Stack, chance: random.Random) -> bool:
    """While a checkpoint is being written."""
    until = time.monotonic() + _WRITING_SECONDS
    while time.monotonic() < until and stack.trainer.ended is None:
        if any((stack.run / "checkpoints").glob(".*.unfinished")):
            time.sleep(chance.uniform(0, 0.03))
            return stack.trainer.signal(signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    return False


def _freeze_trainer(stack: Stack, chance: random.Random) -> bool:
    return _freeze(stack.trainer, chance)


def _kill_policy(stack: Stack, chance: random.Random) -> bool:
    return stack.evaluator.ended is None and stack.policy.signal(signal.SIGKILL)


def _freeze_policy(stack: Stack, chance: random.Random) -> bool:
    return stack.evaluator.ended is None and _freeze(stack.policy, chance)


def _cut_network(stack: Stack, chance: random.Random) -> bool:
    """In mid-answer, if one comes."""
    proxy = chance.choice(stack.proxies)
    proxy.cut_after, cuts = chance.randrange(2000), proxy.cuts
    time.sleep(1.0)
    if proxy.cuts == cuts:
        proxy.cut_after = None
        proxy.cut()
    return True


def _delay_network(stack: Stack, chance: random.Random) -> bool:
    for proxy in stack.proxies:
        proxy.delay = chance.uniform(0.05, 0.3)
    time.sleep(chance.uniform(1, 3))
    for proxy in stack.proxies:
        proxy.delay = 0.0
    return True


def _flip_bits(stack: Stack, chance: random.Random) -> bool:
    proxy = chance.choice(stack.proxies)
    proxy.flips, until = chance.randint(1, 3), time.monotonic() + _PASSING_SECONDS
    while proxy.flips and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    flipped, proxy.flips = not proxy.flips, 0
    return flipped


def _fill_disk(stack: Stack, chance: random.Random) -> bool:
    """To the last byte, for some seconds."""
    filler = stack.run.parent / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    continue
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    time.sleep(_FULL_SECONDS)
    filler.unlink()
    return True


FAULTS: dict[str, Fault] = {
    "kill a worker": _kill_worker,
    "freeze a worker": _freeze_worker,
    "kill an env server": _kill_server,
    "freeze an env server": _freeze_server,
    "kill Redis": _kill_redis,
    "freeze Redis": _freeze_redis,
    "kill the trainer": _kill_trainer,
    "kill the trainer while it writes a checkpoint": _kill_trainer_that_writes,
    "freeze the trainer": _freeze_trainer,
    "kill the policy server": _kill_policy,
    "freeze the policy server": _freeze_policy,
    "cut the network": _cut_network,
    "delay the network": _delay_network,
    "flip bits on the network": _flip_bits,
    "fill the disk": _fill_disk,
}


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _freeze(service: Service, chance: random.Random) -> bool:
    """For seconds."""
    if not service.signal(signal.SIGSTOP):
        return False
    time.sleep(chance.uniform(1, 5))
    service.signal(signal.SIGCONT)
    return True
