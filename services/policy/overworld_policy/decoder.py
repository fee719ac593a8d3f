"""The thread that writes replies: it owns all loaded models and gives each with work to do one token in turn.

A whole model and the adapters of it write in one batch.

Weights are read on a thread of their own.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from overworld_vlm import adapters, checkpoint
from overworld_vlm.adapters import Adapters
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM, ModelError, load, torch_device, torch_dtype, with_images_of
from overworld_vlm.writer import Request

from overworld_policy.config import PolicyServerConfig
from overworld_policy.jobs import Job, Jobs
from overworld_policy.models import Model

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

_Key = tuple[Path, str]
"""A folder, and the digest of the weights in it: a folder's content may be replaced while it is served."""


class _Base:
    """A model in memory that adapters of several checkpoints may share, and what it has to write with any of them."""

    def __init__(self, vlm: VLM, max_batch: int) -> None:
        self.vlm = vlm
        self.adapters = Adapters(vlm.core)
        self.jobs = Jobs()
        self._max_batch = max_batch
        self.start_over()

    def start_over(self) -> None:
        """Gets an engine that knows of nothing."""
        self.engine = Engine(self.vlm, max_batch=self._max_batch, adapters=self.adapters)


@dataclass(eq=False, slots=True)
class Loaded:
    """A model in memory: a whole one, or an adapter within one that others may share.

    `vlm` is for encoding prompts, since each checkpoint has its own settings for images. Replies are written with that
    of `base`, by the decoder only.
    """

    vlm: VLM
    base: _Base
    adapter: str | None
    fingerprint: str
    users: int = 0  # requests that are encoded or written

    @property
    def writes(self) -> bool:
        """Whether a reply is not finished; one that was given up may outlast its user by a token."""
        return any(job.requests[0].adapter == self.adapter for job in self.base.jobs)


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
        self._adapters = itertools.count()  # two folders may hold the same weights: a digest alone names no adapter
        self._images: dict[str, Any] = {
            "min_pixels": config.min_pixels,
            "max_pixels": config.max_pixels,
            "tiling": config.tiling,
        }
        self._busy: list[_Base] = []  # models with jobs
        self._prefilling: Job | None = None  # the long prompt that joined last
        self._owed = 0.0  # seconds for short requests before the next long one
        self._dead = False
        self._loader = ThreadPoolExecutor(1, "loader")
        self._closing = threading.Lock()  # held while work is put into the inbox, and while the thread dies
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        replies = sum(len(base.jobs) for base in self._busy)
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
        for request in requests:
            request.adapter = loaded.adapter
        job = Job(requests, on_tokens)
        begun = self._ask(lambda: self._begin(loaded.base, job))
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
            for base in list(self._busy):
                self._step(base)

    def _die(self) -> None:
        """Lets nobody wait for what will not come."""
        with self._closing:
            self._dead = True
        for base in self._busy:
            for job in base.jobs.take_all():
                job.fail()
        while not self._inbox.empty():
            work = self._inbox.get()
            if work is not None:
                work.fail(DecoderDiedError())
        self._on_death()

    def _begin(self, base: _Base, job: Job) -> None:
        base.jobs.add(job)
        if base not in self._busy:
            self._busy.append(base)

    def _step(self, base: _Base) -> None:
        """One token for each of a model's requests that run, after others have joined."""
        jobs = base.jobs
        for job in jobs.join(long=self._long_may_join()):
            if job.long:
                self._prefilling = job
            try:
                for request in job.unfinished:
                    base.engine.add(request)
            except ValueError:  # whoever made the request has checked its length
                _logger.exception("a request was refused by the engine")
                job.cancel()
        began = time.monotonic()
        try:
            base.engine.step()
        except Exception:  # out of memory, say
            _logger.exception("writing replies failed")
            base.start_over()
            jobs.start_over()
        self._account(time.monotonic() - began)
        for job in [*jobs.take_finished(), *jobs.running]:
            job.report()
        if not jobs:
            self._busy.remove(base)
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
            self._loader.submit(self._answer, model, future)

    def _answer(self, model: Model, future: Future[Loaded]) -> None:
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
        if manifest is not None and manifest.digest != digest:
            raise ModelError(f"{folder} was replaced while it was looked up; ask again")
        if manifest is None or manifest.base is None:
            base_key, base = self._read_base(folder if manifest is None else folder / "weights")
            loaded = Loaded(base.vlm, base, None, digest or base_key[1])
            return lambda: self._attach(key, loaded, base_key)
        base_key, base = self._read_base(checkpoint.base_folder(folder, manifest))
        weights = adapters.read(folder / "weights", base.vlm)
        if weights is None:
            vlm = checkpoint.add_adapter(self._load(base_key), folder, manifest, **self._images)
            base_key, loaded = key, Loaded(vlm, _Base(vlm, self._config.max_batch), None, digest)
        else:
            vlm = with_images_of(base.vlm, folder / "weights", **self._images)
            loaded = Loaded(vlm, base, f"{next(self._adapters)}-{digest[:16]}", digest)
        if checkpoint.read(folder).digest != digest:
            raise ModelError(f"{folder} was replaced while it was read; ask again")
        return lambda: self._attach(key, loaded, base_key, weights)

    def _read_base(self, folder: Path) -> tuple[_Key, _Base]:
        """The whole model in a folder, from memory if it is there."""
        key = folder.resolve(), checkpoint.weights_digest(folder)
        base = self._bases.get(key)
        return key, base or _Base(self._load(key), self._config.max_batch)

    def _load(self, key: _Key) -> VLM:
        folder, digest = key
        _logger.info("loading %s", folder)
        vlm = load(folder, torch_device(self._config.device), torch_dtype(self._config.dtype), **self._images)
        if vlm.device.type == "cpu":
            for tensor in itertools.chain(vlm.core.parameters(), vlm.core.buffers()):
                tensor.data = tensor.data.clone()  # it may be the file itself, and change when that is written to
        if checkpoint.weights_digest(folder) != digest:
            raise ModelError(f"{folder} was replaced while it was read; ask again")
        return vlm

    def _attach(self, key: _Key, loaded: Loaded, base_key: _Key, weights: adapters.Weights | None = None) -> Loaded:
        """Makes what was read one of the loaded models, unless it has become one since."""
        try:
            if key not in self._loaded:
                self._bases[base_key] = loaded.base
                if loaded.adapter is not None and weights is not None:
                    loaded.base.adapters.add(loaded.adapter, weights)
                self._loaded[key] = loaded
            return self._use(key)
        finally:
            self._make_room()

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
            if loaded.users or loaded.writes:
                continue
            del self._loaded[key]
            if loaded.adapter is not None:
                loaded.base.adapters.remove(loaded.adapter)
            _logger.info("let go of %s", key[0])
        in_use = [loaded.base for loaded in self._loaded.values()]
        self._bases = {key: base for key, base in self._bases.items() if base in in_use}


def _key(model: Model) -> _Key:
    return model.folder.resolve(), "" if model.manifest is None else model.manifest.digest
