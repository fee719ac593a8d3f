"""The thread that writes replies: it owns all loaded models and gives each with work to do one token in turn.

Weights are read on a thread of their own.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from overworld_vlm import checkpoint
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM, ModelError, load, torch_device, torch_dtype
from overworld_vlm.writer import Request
from peft import PeftModel

from overworld_policy.config import PolicyServerConfig
from overworld_policy.jobs import Job, Jobs
from overworld_policy.models import Model

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

_Key = tuple[Path, str]
"""A folder, and the digest of the weights in it: a folder's content may be replaced while it is served."""


@dataclass(eq=False, slots=True)
class _Base:
    """A whole model in memory, perhaps with adapters of several checkpoints in its layers."""

    vlm: VLM

    def remove(self, adapter: str) -> None:
        """Takes an adapter out of the layers; with the last one PEFT's wrapper goes, which cannot be without any."""
        model = self.vlm.model
        if set(model.peft_config) == {adapter}:
            self.vlm = self.vlm.wrapped(model.unload())
        else:
            model.delete_adapter(adapter)


@dataclass(eq=False, slots=True)
class Loaded:
    """A model in memory: a whole one, or an adapter within one that others may share.

    `vlm` is for encoding prompts, since each checkpoint has its own settings for images. Replies are written by the
    decoder only, with the layers as they are in `base` at the time.
    """

    vlm: VLM
    base: _Base
    adapter: str | None
    fingerprint: str
    engine: Engine
    jobs: Jobs = field(default_factory=Jobs)
    users: int = 0  # requests that are encoded or written


class _Work(Generic[_T]):
    """Something to be done on the decoder's thread, whose outcome is a future's."""

    def __init__(self, work: Callable[[], _T], future: Future[_T]) -> None:
        self._work = work
        self._future = future

    def __call__(self) -> None:
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            result = self._work()
        except Exception as error:  # whatever it is, it is the outcome; the thread must survive
            if not isinstance(error, ModelError):
                _logger.exception("the decoder failed at one of its tasks")
            self._future.set_exception(error)
        except BaseException:
            self._future.set_exception(DecoderDiedError())
            raise
        else:
            self._future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Gives the work up."""
        if self._future.set_running_or_notify_cancel():
            self._future.set_exception(error)


class DecoderDiedError(Exception):
    """The thread that writes replies has ended by an error, and nothing can be written any more."""

    def __init__(self) -> None:
        super().__init__("the thread that writes replies has died; the server ends, see its log")


class Decoder:
    """Loads models and writes replies. Its methods may be called from any thread.

    What fails costs only the request that it was done for. Should the thread itself die all the same, every reply under
    way is cancelled, every future raises DecoderDiedError, and `on_death` is called on the thread, last of all.
    """

    def __init__(self, config: PolicyServerConfig, on_death: Callable[[], None]) -> None:
        self._config = config
        self._on_death = on_death
        self._inbox: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._loaded: OrderedDict[_Key, Loaded] = OrderedDict()  # least recently used first
        self._bases: dict[_Key, _Base] = {}
        self._adapters = itertools.count()
        self._busy: list[Loaded] = []  # models with jobs
        self._prefilling: Job | None = None  # the long prompt that joined last
        self._owed = 0.0  # seconds for short requests before the next long one
        self._dead = False
        self._loader = ThreadPoolExecutor(1, "loader")
        self._closing = threading.Lock()  # held while work is put into the inbox, and while the thread dies
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        replies = sum(len(loaded.jobs) for loaded in self._busy)
        return f"Decoder({len(self._loaded)} models loaded, {replies} replies in flight)"

    def loaded(self) -> list[Loaded]:
        """The models in memory."""
        return list(self._loaded.values())

    def use(self, model: Model) -> Future[Loaded]:
        """The model, loaded if need be and kept until `release`. The future raises ModelError."""
        future: Future[Loaded] = Future()
        self._ask(lambda: self._use_or_load(model, future)).add_done_callback(
            lambda asked: None if (error := asked.exception()) is None else future.set_exception(error)
        )
        return future

    def probe(self) -> Future[None]:
        """Is done when the thread has come to it, which says that the thread works."""
        return self._ask(lambda: None)

    def release(self, loaded: Loaded) -> None:
        """The counterpart of `use`."""
        self._ask(lambda: self._release(loaded))

    def write(self, loaded: Loaded, requests: Sequence[Request], on_tokens: Callable[[], None]) -> None:
        """Writes replies to one prompt; `on_tokens` is called on the decoder's thread after each token of theirs."""
        job = Job(requests, on_tokens)
        begun = self._ask(lambda: self._begin(loaded, job))
        begun.add_done_callback(lambda begun: job.fail() if begun.exception() is not None else None)

    def close(self) -> None:
        """Ends the threads."""
        self._loader.shutdown(cancel_futures=True)
        self._inbox.put(None)
        self._thread.join()

    def _ask(self, work: Callable[[], _T]) -> Future[_T]:
        """Has the thread do `work` between two tokens."""
        future: Future[_T] = Future()
        with self._closing:
            if not self._dead:
                self._inbox.put(_Work(work, future))
                return future
        future.set_exception(DecoderDiedError())
        return future

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:
            _logger.critical("the thread that writes replies has died", exc_info=True)
            self._die()

    def _work(self) -> None:
        while True:
            while not self._busy or not self._inbox.empty():
                work = self._inbox.get()
                if work is None:
                    return
                work()
            for loaded in list(self._busy):
                self._step(loaded)

    def _die(self) -> None:
        """Lets nobody wait for what will not come."""
        with self._closing:
            self._dead = True
        for loaded in self._busy:
            for job in loaded.jobs.take_all():
                job.fail()
        while not self._inbox.empty():
            work = self._inbox.get()
            if work is not None:
                work.fail(DecoderDiedError())
        self._on_death()

    def _begin(self, loaded: Loaded, job: Job) -> None:
        loaded.jobs.add(job)
        if loaded not in self._busy:
            self._busy.append(loaded)

    def _step(self, loaded: Loaded) -> None:
        """One token for each of a model's requests that run, after others have joined."""
        jobs = loaded.jobs
        for job in jobs.join(long=self._long_may_join()):
            if job.long:
                self._prefilling = job
            try:
                for request in job.unfinished:
                    loaded.engine.add(request)
            except ValueError:  # whoever made the request has checked its length
                _logger.exception("a request was refused by the engine")
                job.cancel()
        began = time.monotonic()
        try:
            with _active(loaded):
                loaded.engine.step()
        except Exception:  # out of memory, say
            _logger.exception("writing replies failed")
            loaded.engine = self._engine(loaded.vlm)
            jobs.start_over()
        self._account(time.monotonic() - began)
        for job in [*jobs.take_finished(), *jobs.running]:
            job.report()
        if not jobs:
            self._busy.remove(loaded)
            self._make_room()

    def _long_may_join(self) -> bool:
        """Long prompts take at most half of the time while there are requests with short ones."""
        return self._prefilling is None and (self._owed <= 0 or not any(one.jobs.any_short for one in self._busy))

    def _account(self, seconds: float) -> None:
        """Counts the seconds of a step for or against long prompts."""
        if self._prefilling is not None and self._prefilling.prefilled:
            self._owed = seconds
            self._prefilling = None
        else:
            self._owed -= seconds

    def _use_or_load(self, model: Model, future: Future[Loaded]) -> None:
        """Answers from memory, or leaves it to the loader's thread: replies under way do not wait for the disk."""
        if not future.set_running_or_notify_cancel():
            return
        key = _key(model)
        if key in self._loaded:
            future.set_result(self._use(key))
        else:
            self._loader.submit(self._load, model, future)

    def _load(self, model: Model, future: Future[Loaded]) -> None:
        """On the loader's thread: reads what must be read, then has the decoder's thread do the rest."""
        try:
            attach = self._read(model)
            loaded = self._ask(attach).result()
        except Exception as error:  # whatever it is, it answers the request
            if not isinstance(error, ModelError):
                _logger.exception("%s cannot be loaded", model.name)
            future.set_exception(error)
        else:
            future.set_result(loaded)

    def _read(self, model: Model) -> Callable[[], Loaded]:
        folder, digest = key = _key(model)
        manifest = None if model.manifest is None else checkpoint.read(folder)
        if manifest is None:
            weights = folder
        elif manifest.digest != digest:
            raise ModelError(f"{folder} was replaced while it was looked up; ask again")
        else:
            weights = folder / "weights" if manifest.base is None else checkpoint.base_folder(folder, manifest)
        weights_key = weights.resolve(), checkpoint.weights_digest(weights)
        base = self._bases.get(weights_key)
        if base is None:
            _logger.info("loading %s", weights)
            base = _Base(self._load_weights(weights))
            if checkpoint.weights_digest(weights) != weights_key[1]:
                raise ModelError(f"{weights} was replaced while it was read; ask again")
        return lambda: self._attach(key, weights_key, base, manifest)

    def _load_weights(self, weights: Path) -> VLM:
        config = self._config
        return load(
            weights,
            torch_device(config.device),
            torch_dtype(config.dtype),
            min_pixels=config.min_pixels,
            max_pixels=config.max_pixels,
            tiling=config.tiling,
        )

    def _attach(self, key: _Key, weights: _Key, base: _Base, manifest: checkpoint.Manifest | None) -> Loaded:
        """Makes what was read one of the loaded models, unless it has become one since."""
        try:
            if key not in self._loaded:
                base = self._bases.setdefault(weights, base)
                self._loaded[key] = (
                    self._with_adapter(key[0], base, manifest)
                    if manifest and manifest.base
                    else Loaded(base.vlm, base, None, key[1] or weights[1], self._engine(base.vlm))
                )
            return self._use(key)
        finally:
            self._make_room()

    def _with_adapter(self, folder: Path, base: _Base, manifest: checkpoint.Manifest) -> Loaded:
        config = self._config
        adapter = f"{next(self._adapters)}-{manifest.digest[:16]}"  # two folders may hold the same weights
        vlm = checkpoint.add_adapter(
            base.vlm,
            folder,
            manifest,
            adapter,
            min_pixels=config.min_pixels,
            max_pixels=config.max_pixels,
            tiling=config.tiling,
        )
        base.vlm = base.vlm.wrapped(vlm.model)
        return Loaded(vlm, base, adapter, manifest.digest, self._engine(vlm))

    def _engine(self, vlm: VLM) -> Engine:
        return Engine(vlm, max_batch=self._config.max_batch)

    def _use(self, key: _Key) -> Loaded:
        self._loaded.move_to_end(key)
        loaded = self._loaded[key]
        loaded.users += 1
        return loaded

    def _release(self, loaded: Loaded) -> None:
        loaded.users -= 1
        self._make_room()

    def _make_room(self) -> None:
        """Lets go of models that nobody uses, beyond those that are to be kept."""
        for key, loaded in list(self._loaded.items()):
            if len(self._loaded) <= self._config.max_loaded:
                break
            if loaded.users or len(loaded.jobs):
                continue
            del self._loaded[key]
            try:
                if loaded.adapter is not None:
                    loaded.base.remove(loaded.adapter)
            except Exception:  # it stays in its base's layers, where it does nothing
                _logger.exception("the adapter of %s could not be taken out", key[0])
            _logger.info("let go of %s", key[0])
        in_use = [loaded.base for loaded in self._loaded.values()]
        self._bases = {key: base for key, base in self._bases.items() if base in in_use}


def _key(model: Model) -> _Key:
    return model.folder.resolve(), "" if model.manifest is None else model.manifest.digest


@contextlib.contextmanager
def _active(loaded: Loaded) -> Iterator[None]:
    """Activates the model's adapter, or disables adapters for a whole model."""
    model = loaded.base.vlm.model
    if not isinstance(model, PeftModel):
        yield
    elif loaded.adapter is None:
        with model.disable_adapter():
            yield
    else:
        if model.active_adapter != loaded.adapter:
            model.set_adapter(loaded.adapter)
        yield
