"""The processes of a run, one per GPU, as torchrun starts them. Each plays its share of the slots.

What all of them must know is exchanged on the CPU, over gloo, and is the same on every rank to the last bit; gradients
go by the device's own way. Every exchange that an interruption may precede is announced by `Stop.meet`, so that no rank
waits for one that has left.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import overworld
import overworld_vlm
import torch
import torch.distributed as dist
import transformers
from overworld.errors import OverworldError, SettingsError, TransientError
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

import overworld_trainer
from overworld_trainer.config import TrainerConfig

_BUCKET = 1 << 24
"""Gradients that are summed at once: 64 MB in fp32."""

_STOP = "overworld/stop"
_PROPOSED = "overworld/proposed"
_POLL_SECONDS = 0.05


class RankError(TransientError):
    """Another rank has died or hangs; the run can go on from its newest checkpoint."""


class RanksDifferError(OverworldError):
    """Ranks that should have computed the same have not."""


class Ranks:
    """All of a run's processes, `size` of them, seen from the one with the given `number`."""

    def __init__(self, number: int = 0, size: int = 1, store: Any = None, timeout: float = 0.0) -> None:
        self.number = number
        self.size = size
        self._store = store
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"Ranks({self.number} of {self.size})"

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes files and shows progress."""
        return self.number == 0

    def share(self, count: int) -> range:
        """The part of `count` slots that this rank plays; parts differ by one at most."""
        return range(count * self.number // self.size, count * (self.number + 1) // self.size)

    def gather(self, message: bytes) -> list[bytes]:
        """The messages of all ranks, in their order. Raises RankError."""
        if self.size == 1:
            return [message]
        empty = torch.empty(0, dtype=torch.uint8)  # which cannot be made from a buffer
        parts = self.gather_rows(torch.frombuffer(bytearray(message), dtype=torch.uint8) if message else empty)
        return [part.numpy().tobytes() for part in parts]

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """The tensors of all ranks, each [n, ...] on the CPU, alike but for n. Raises RankError."""
        if self.size == 1:
            return [rows]
        with self._telling():
            counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(counts, torch.tensor([len(rows)]))
            lengths = [int(count) for count in counts]
            padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
            padded[: len(rows)] = rows
            gathered = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(gathered, padded)
        return [part[:length] for part, length in zip(gathered, lengths, strict=True)]

    def of_first(self, message: bytes) -> bytes:
        """Rank 0's message. Raises RankError."""
        return self.gather(message if self.first else b"")[0]

    def largest(self, *values: int) -> list[int]:
        """The largest of all ranks' values, one by one. Raises RankError."""
        if self.size == 1:
            return list(values)
        with self._telling():
            tensor = torch.tensor(values)
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def decided(self, decide: Callable[[], bool]) -> bool:
        """What rank 0 decides, which the others do not ask themselves. Raises RankError."""
        return bool(self.largest(self.first and decide())[0])

    def sum_gradients(self, weights: Sequence[Tensor]) -> None:
        """Replaces each weight's gradient by the sum of all ranks' in fp32; where no rank has one there is none.

        Raises RankError.
        """
        if self.size == 1:
            return
        somewhere = self.largest(*(weight.grad is not None for weight in weights))
        trained = [weight for weight, here in zip(weights, somewhere, strict=True) if here]
        for weight in trained:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        with self._telling():
            for bucket in _buckets([weight.grad for weight in trained if weight.grad is not None]):
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                dist.all_reduce(flat)
                for gradient, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                    gradient.copy_(part.view_as(gradient))

    def ask_to_stop(self) -> None:
        """Leaves word for the others that the run is to stop. Raises RankError."""
        if self._store is not None:
            with self._telling():
                self._store.set(_STOP, "1")

    def asked_to_stop(self) -> bool:
        """Whether any rank has left word. Raises RankError."""
        if self._store is None:
            return False
        with self._telling():
            return bool(self._store.check([_STOP]))

    def require_equal(self, facts: Mapping[str, str]) -> None:
        """Raises SettingsError if facts, by their names, are not the same on all ranks."""
        for number, theirs in enumerate(map(json.loads, self.gather(json.dumps(dict(facts)).encode()))):
            differing = [name for name in facts if theirs.get(name) != facts[name]]
            if differing:
                raise SettingsError(
                    f"rank {number} has other {' and '.join(differing)} than rank {self.number}: start all ranks from "
                    "the same image with the same settings"
                )

    def require_alike(self, tensors: Mapping[str, Iterable[Tensor]]) -> None:
        """Raises RanksDifferError if tensors, by what they are called, are not the same on all ranks.

        Told by their sums in fp64, which are computed alike everywhere.
        """
        if self.size == 1:
            return
        sums = {
            name: [float(one.detach().double().sum()).hex() for one in several] for name, several in tensors.items()
        }
        for number, theirs in enumerate(map(json.loads, self.gather(json.dumps(sums).encode()))):
            differing = [name for name in sums if theirs[name] != sums[name]]
            if differing:
                raise RanksDifferError(
                    f"rank {number} has computed other {' and '.join(differing)} than rank {self.number}: are their "
                    "devices of one kind? Otherwise this is a bug. The newest checkpoint is from before that"
                )

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Raises RankError for what goes wrong in an exchange."""
        try:
            yield
        except RuntimeError as error:  # gloo's; NCCL's DistBackendError is one, too
            raise RankError(
                f"rank {self.number} of {self.size} has lost another one: it has died, or has not been heard of for "
                f"{self._timeout:g} s (rank_timeout); its own log says why. torchrun --max-restarts=N starts all of "
                f"them again, and the run resumes. {str(error).splitlines()[0]}"
            ) from error


@contextlib.contextmanager
def joined(config: TrainerConfig) -> Iterator[Ranks]:
    """The ranks that torchrun has started, this one among them. Raises SettingsError and RankError."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if config.parallel == "none":
        if size > 1:
            raise SettingsError(
                f"parallel = none, and torchrun has started {size} processes: set parallel=replicate, or "
                "parallel=shard for a model that one device cannot train"
            )
        yield Ranks()
        return
    if "RANK" not in os.environ:
        raise SettingsError(
            f"parallel = {config.parallel} takes processes that torchrun starts: "
            "torchrun --nproc-per-node=8 -m overworld_trainer run.yaml key=value ..."
        )
    for env in config.envs:
        if env.slots < size:
            raise SettingsError(
                f"{env.id} has {env.slots} slots for {size} ranks, each of which plays at least one: give it more slots"
            )
    gpu = config.model.device != "cpu" and torch.cuda.is_available()
    if gpu and config.model.device not in ("auto", "cuda"):
        raise SettingsError(f"model.device = {config.model.device}: each rank has a GPU of its own; leave it at auto")
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    timeout = datetime.timedelta(seconds=config.rank_timeout)
    try:
        store, number, size = next(rendezvous("env://", timeout=timeout))
        store = _unused_part(store, number, size, config.rank_timeout)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timeout, store=store, rank=number, world_size=size
        )
    except RuntimeError as error:
        raise RankError(
            f"this rank has not met all others within {config.rank_timeout:g} s (rank_timeout), or cannot reach one of "
            f"them: {str(error).splitlines()[0]}"
        ) from error
    ranks = Ranks(number, size, store, config.rank_timeout)
    ranks.require_equal(
        {
            "code": _code_digest(),
            "settings": config.model_dump_json(),
            "versions": f"PyTorch {torch.__version__}, transformers {transformers.__version__}",
        }
    )
    yield ranks
    dist.destroy_process_group()  # not after an error: it would wait for ranks that do not come


def _unused_part(store: Any, number: int, size: int, timeout: float) -> Any:
    """A part of the store that no earlier attempt of torchrun's has left anything in.

    torchrun's store outlives a restart, and gloo would look for ranks that have died where they left their addresses.
    Nobody can tell by itself how often the others were started, so rank 0 proposes a name, everybody signs it, and it
    holds once all signatures of this attempt are under it.
    """
    signature = secrets.token_hex(8)
    if number == 0:
        name = secrets.token_hex(8)
        store.set(_PROPOSED, name)
        signatures = [signature, *(store.get(f"{name}/{other}").decode() for other in range(1, size))]
        store.set(f"{name}/all", " ".join(signatures))
        return PrefixStore(name, store)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        name = store.get(_PROPOSED).decode()
        store.set(f"{name}/{number}", signature)
        if store.check([f"{name}/all"]) and signature in store.get(f"{name}/all").decode().split():
            return PrefixStore(name, store)
        time.sleep(_POLL_SECONDS)
    raise RuntimeError("rank 0 has not come")


def _code_digest() -> str:
    """Names the code that decides what is computed."""
    digest = hashlib.sha256()
    for package in (overworld, overworld_vlm, overworld_trainer):
        for folder in package.__path__:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(one.numel() for one in bucket) + gradient.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
