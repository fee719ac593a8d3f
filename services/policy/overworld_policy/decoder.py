"""The thread that writes replies: it owns all loaded models and gives each with work to do one token in turn."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from overworld_vlm import checkpoint
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM, load, torch_device, torch_dtype
from overworld_vlm.writer import Request
from peft import PeftModel

from overworld_policy.config import PolicyServerConfig
from overworld_policy.models import Model

_logger = logging.getLogger(__name__)


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
    """A model in memory: a whole one, or an adapter within one that others may share."""

    base: _Base
    adapter: str | None
    fingerprint: str
    engine: Engine
    users: int = 0  # requests that are encoded or written

    @property
    def vlm(self) -> VLM:
        """For encoding prompts; replies are written by the decoder only."""
        return self.base.vlm


@dataclass(frozen=True, slots=True)
class _Job:
    """A request, and the callback for its tokens."""

    loaded: Loaded
    request: Request
    on_tokens: Callable[[Request], None]


class Decoder:
    """Loads models and writes replies. Its methods may be called from any thread."""

    def __init__(self, config: PolicyServerConfig) -> None:
        self._config = config
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._loaded: OrderedDict[Path, Loaded] = OrderedDict()  # by checkpoint, least recently used first
        self._bases: dict[Path, _Base] = {}  # by the folder of the weights
        self._jobs: list[_Job] = []
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"Decoder({len(self._loaded)} models loaded, {len(self._jobs)} replies in flight)"

    def use(self, model: Model) -> Future[Loaded]:
        """The model, loaded if need be and kept until `release`. The future raises ModelError."""
        future: Future[Loaded] = Future()

        def work() -> None:
            try:
                loaded = self._load(model)
            except Exception as error:  # whatever it is, it answers the request; the thread must survive
                future.set_exception(error)
                return
            loaded.users += 1  # first: a model without users may be let go
            self._make_room()
            future.set_result(loaded)

        self._inbox.put(work)
        return future

    def release(self, loaded: Loaded) -> None:
        """The counterpart of `use`."""
        self._inbox.put(lambda: self._release(loaded))

    def write(self, loaded: Loaded, request: Request, on_tokens: Callable[[Request], None]) -> None:
        """Writes a reply; `on_tokens` is called on the decoder's thread after each token and when it is finished."""
        self._inbox.put(lambda: self._begin(_Job(loaded, request, on_tokens)))

    def close(self) -> None:
        """Ends the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            while not self._jobs or not self._inbox.empty():
                work = self._inbox.get()
                if work is None:
                    return
                work()
            for loaded in dict.fromkeys(job.loaded for job in self._jobs):
                self._step(loaded)

    def _begin(self, job: _Job) -> None:
        try:
            job.loaded.engine.add(job.request)
        except ValueError:  # whoever made the request has checked its length
            _logger.exception("a request was refused by the engine")
            job.request.finish = "cancelled"
            job.on_tokens(job.request)
            return
        self._jobs.append(job)

    def _step(self, loaded: Loaded) -> None:
        """One token for each of a model's requests."""
        try:
            with _active(loaded):
                loaded.engine.step()
        except Exception:  # out of memory, say: it costs the requests of this model, not the server
            _logger.exception("writing replies failed")
            loaded.engine = Engine(loaded.vlm, max_batch=self._config.max_batch)
            for job in self._jobs:
                if job.loaded is loaded:
                    job.request.finish = "cancelled"
        for job in [job for job in self._jobs if job.loaded is loaded]:
            job.on_tokens(job.request)
            if job.request.finish is not None:
                self._jobs.remove(job)

    def _load(self, model: Model) -> Loaded:
        folder = model.folder.resolve()
        loaded = self._loaded.get(folder)
        if loaded is not None and (model.manifest is None or loaded.fingerprint == model.manifest.digest):
            self._loaded.move_to_end(folder)
            return loaded
        _logger.info("loading %s from %s", model.name, folder)
        loaded = self._load_whole(folder, None) if model.manifest is None else self._load_checkpoint(folder)
        self._loaded[folder] = loaded
        return loaded

    def _load_checkpoint(self, folder: Path) -> Loaded:
        manifest = checkpoint.read(folder)
        if manifest.base is None:
            return self._load_whole(folder / "weights", manifest.digest)
        base = self._base(checkpoint.base_folder(folder, manifest))
        adapter = manifest.digest[:16]
        base.vlm = checkpoint.add_adapter(base.vlm, folder, manifest, adapter)
        return Loaded(base, adapter, manifest.digest, Engine(base.vlm, max_batch=self._config.max_batch))

    def _load_whole(self, weights: Path, digest: str | None) -> Loaded:
        base = self._base(weights)
        fingerprint = digest or checkpoint.weights_digest(weights)
        return Loaded(base, None, fingerprint, Engine(base.vlm, max_batch=self._config.max_batch))

    def _base(self, weights: Path) -> _Base:
        weights = weights.resolve()
        if weights not in self._bases:
            config = self._config
            vlm = load(
                weights,
                torch_device(config.device),
                torch_dtype(config.dtype),
                min_pixels=config.min_pixels,
                max_pixels=config.max_pixels,
            )
            self._bases[weights] = _Base(vlm)
        return self._bases[weights]

    def _release(self, loaded: Loaded) -> None:
        loaded.users -= 1
        self._make_room()

    def _make_room(self) -> None:
        """Lets go of models that nobody uses, beyond those that are to be kept."""
        for folder, loaded in list(self._loaded.items()):
            if len(self._loaded) <= self._config.max_loaded:
                break
            if loaded.users:
                continue
            del self._loaded[folder]
            if loaded.adapter is not None:
                loaded.base.remove(loaded.adapter)
            _logger.info("let go of %s", folder)
        in_use = [loaded.base for loaded in self._loaded.values()]
        self._bases = {weights: base for weights, base in self._bases.items() if base in in_use}


@contextlib.contextmanager
def _active(loaded: Loaded) -> Iterator[None]:
    """Activates the model's adapter, or disables adapters for a whole model."""
    model = loaded.vlm.model
    if not isinstance(model, PeftModel):
        yield
    elif loaded.adapter is None:
        with model.disable_adapter():
            yield
    else:
        if model.active_adapter != loaded.adapter:
            model.set_adapter(loaded.adapter)
        yield
