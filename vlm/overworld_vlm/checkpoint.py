"""Checkpoints: a folder with weights, critic, the trainer's state, and a manifest that is written last.

    weights/             a PEFT adapter or a whole Hugging Face model, which transformers and vLLM load as it is
    critic.safetensors   the value head
    trainer/             what a resumed run needs; may be deleted
    manifest.json        hashes of all files, base weights, recipe, config, provenance

A checkpoint without a valid manifest does not exist. Next to a run's checkpoints the file `best` may name one of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from overworld_vlm.load import VLM, ModelError, load, save, save_processors, with_images_of

_MAX_MANIFEST_BYTES = 16 << 20
_YOUNG_NS = 2 * 10**9
_hashes: dict[tuple[int, ...], str] = {}
"""Device, inode, size and times of a file -> its SHA-256."""
_BEST = "best"
_MAX_NAME_BYTES = 32


class WriteError(Exception):
    """The disk did not take a checkpoint; what there was of it has been removed."""


class Base(BaseModel):
    """The model that an adapter belongs to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """A folder; relative to the checkpoint's folder if it does not begin with a slash."""
    digest: str
    """`weights_digest` of it."""


class Manifest(BaseModel):
    """A checkpoint's description of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    run: str
    update: int
    env_steps: int
    kind: Literal["model", "adapter"]
    base: Base | None = None
    files: dict[str, str]
    """Path within the folder -> SHA-256 in hex."""
    digest: str
    """Names the weights: `weights_digest` of weights/, with that of the base mixed in for an adapter."""
    recipe: dict[str, Any]
    config: dict[str, Any]
    provenance: dict[str, dict[str, str]]
    """Env id -> its provenance."""
    used_expert: bool = False
    """Whether expert advice went into the weights."""


def write(
    folder: Path,
    vlm: VLM,
    *,
    run: str,
    update: int,
    env_steps: int,
    base: Path | None,
    critic: Mapping[str, Tensor] | None,
    write_trainer: Callable[[Path], None] | None,
    recipe: Mapping[str, Any],
    config: Mapping[str, Any],
    provenance: Mapping[str, Mapping[str, str]],
    used_expert: bool,
    state: Mapping[str, Tensor] | None = None,
) -> Manifest:
    """Writes a checkpoint. It appears at `folder` complete or not at all, even if the machine loses power.

    `base` is the folder of the model that an adapter belongs to. `write_trainer` fills the folder that it is given.
    `state` are the weights, if they are not those that the model holds (`VLM.gathered`).
    Raises WriteError if the disk is full or fails.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with _telling_of_a_full_disk(folder, unfinished):
        weights = unfinished / "weights"
        weights.mkdir(parents=True)
        adapter = isinstance(vlm.model, PeftModel)
        base_entry = None
        if adapter:
            assert base is not None
            base_entry = Base(path=_reference(base, folder), digest=weights_digest(base))
            vlm.model.peft_config["default"].base_model_name_or_path = base_entry.path
            # Embeddings are the base's.
            vlm.model.save_pretrained(weights, save_embedding_layers=False, state_dict=state)
            save_processors(vlm, weights)
        else:
            save(vlm, weights, state)
        if critic is not None:
            save_file({name: tensor.contiguous() for name, tensor in critic.items()}, unfinished / "critic.safetensors")
        if write_trainer is not None:
            (unfinished / "trainer").mkdir()
            write_trainer(unfinished / "trainer")
        files = {str(path.relative_to(unfinished)): _sha256(path) for path in _files(unfinished)}
        hashes = {unfinished / name: digest for name, digest in files.items()}
        manifest = Manifest(
            run=run,
            update=update,
            env_steps=env_steps,
            kind="adapter" if adapter else "model",
            base=base_entry,
            files=files,
            digest=_mixed(weights_digest(weights, hashes), base_entry),
            recipe=dict(recipe),
            config=dict(config),
            provenance={env: dict(made_by) for env, made_by in provenance.items()},
            used_expert=used_expert,
        )
        (unfinished / "manifest.json").write_text(manifest.model_dump_json(indent=1))
        for path in (unfinished, *unfinished.rglob("*")):
            _flush(path)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    _flush(folder.parent)
    return manifest


@contextlib.contextmanager
def _telling_of_a_full_disk(folder: Path, unfinished: Path) -> Iterator[None]:
    """Raises WriteError for what the disk refuses within, and removes what was written so far."""
    try:
        yield
    except Exception as error:
        # Tokenizers raise a bare Exception, with Rust's text for an error of the system.
        if not isinstance(error, (OSError, SafetensorError)) and "(os error " not in str(error):
            raise
        shutil.rmtree(unfinished, ignore_errors=True)
        raise WriteError(f"the checkpoint {folder} cannot be written: {error}") from error


def read(folder: Path, *, verify: bool = True) -> Manifest:
    """The manifest of a checkpoint; with `verify` all its files are hashed. Raises ModelError."""
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ModelError(f"{path} is too large to be a manifest")
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a checkpoint: it has no manifest.json") from None
    except (ValidationError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    for name, digest in manifest.files.items() if verify else ():
        file = folder / name
        try:
            inside, there = file.resolve().is_relative_to(folder.resolve()), file.is_file()
        except (OSError, ValueError) as error:  # too long, say, or with a zero byte in it
            raise ModelError(f"{path} names {name[:80]!r}..., which is not a possible file name") from error
        if not inside:
            raise ModelError(f"{path} names {name!r}, which is outside the checkpoint")
        if name.startswith("trainer/") and not (folder / "trainer").exists():
            continue  # pruned
        if not there:
            raise ModelError(f"the checkpoint {folder} is damaged: {name} is missing; use another one")
        if _sha256(file) != digest:
            raise ModelError(f"the checkpoint {folder} is damaged: {name} has changed; use another one")
    return manifest


def load_checkpoint(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[VLM, Manifest]:
    """The model of a checkpoint, verified, ready for inference. Raises ModelError."""
    manifest = read(folder)
    if manifest.base is None:
        return load(folder / "weights", device, dtype), manifest
    vlm = load(base_folder(folder, manifest), device, dtype)
    return add_adapter(vlm, folder, manifest), manifest


def add_adapter(
    vlm: VLM,
    folder: Path,
    manifest: Manifest,
    name: str = "default",
    trainable: bool = False,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    tiling: bool | None = None,
) -> VLM:
    """`vlm`, which must be the adapter's base, with the adapter of a verified checkpoint. Raises ModelError.

    Images are treated as they were when the adapter was trained, with the last three settings on top as in `load`.
    """
    weights = folder / "weights"
    if not (weights / "adapter_model.safetensors").is_file():  # peft would look for a pickle, then for a download
        raise ModelError(f"{weights} holds no adapter (adapter_model.safetensors)")
    try:
        if isinstance(vlm.model, PeftModel):
            vlm.model.load_adapter(weights, name, is_trainable=trainable, use_safetensors=True)
            model = vlm.model
        else:
            model = PeftModel.from_pretrained(vlm.model, weights, name, trainable, use_safetensors=True)
    except Exception as error:  # peft and safetensors each raise their own
        raise ModelError(f"the adapter in {weights} cannot be loaded: {type(error).__name__}: {error}") from error
    model.eval()
    return with_images_of(vlm.wrapped(model), weights, min_pixels=min_pixels, max_pixels=max_pixels, tiling=tiling)


def base_folder(folder: Path, manifest: Manifest) -> Path:
    """The folder of an adapter's base, verified against the manifest's digest. Raises ModelError."""
    assert manifest.base is not None
    path = Path(os.path.normpath(folder / manifest.base.path))
    if not path.is_dir():
        raise ModelError(f"the checkpoint {folder} needs its base model at {path}, which is not there")
    if weights_digest(path) != manifest.base.digest:
        raise ModelError(f"the base model at {path} is not the one that the checkpoint {folder} was trained on")
    return path


def load_critic(folder: Path) -> dict[str, Tensor]:
    """The critic's tensors of a verified checkpoint."""
    tensors: dict[str, Tensor] = load_file(folder / "critic.safetensors")
    return tensors


def find(root: Path) -> Iterator[Path]:
    """The checkpoints in a run's folder, oldest first, unverified."""
    yield from sorted(path.parent for path in root.glob("*/manifest.json") if not path.parent.name.startswith("."))


def mark_best(root: Path, name: str) -> None:
    """Makes the checkpoint called `name` the best one of a run's folder.

    A file, not a link: it can be copied to where links do not exist, and `find` does not take it for a checkpoint.
    """
    unfinished = root / f".{_BEST}.unfinished"
    unfinished.write_text(name + "\n")
    _flush(unfinished)
    unfinished.rename(root / _BEST)
    _flush(root)


def find_best(root: Path) -> Path | None:
    """The best checkpoint in a run's folder, unverified; None if none is marked, or it is not there any more."""
    name = best_name(root)
    return None if name is None else next((folder for folder in find(root) if folder.name == name), None)


def best_name(root: Path) -> str | None:
    """What `mark_best` was given last, whether or not it is there; None if nothing was."""
    try:
        with (root / _BEST).open("rb") as file:
            return file.read(_MAX_NAME_BYTES).decode(errors="replace").strip()
    except OSError:
        return None


def weights_digest(folder: Path, hashes: Mapping[Path, str] | None = None) -> str:
    """Names the weights in a folder: SHA-256 over its safetensors files, some of whose `hashes` may be known."""
    hashes = hashes or {}
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {hashes.get(path) or _sha256(path)}\n".encode())
    return digest.hexdigest()


def _mixed(digest: str, base: Base | None) -> str:
    return digest if base is None else hashlib.sha256(f"{base.digest} {digest}".encode()).hexdigest()


def _reference(base: Path, folder: Path) -> str:
    """How a checkpoint refers to its base: relative within one run, so that the run's folder can be moved."""
    base, folder = base.resolve(), folder.resolve()
    return os.path.relpath(base, folder) if base.is_relative_to(folder.parents[1]) else str(base)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    """SHA-256 in hex. A file that has not changed since this process hashed it is not read again.

    Its inode, size and times tell. They may fail to within the clock's resolution, so young files are read each time.
    """
    stat = path.stat()
    known = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    if known in _hashes:
        return _hashes[known]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _YOUNG_NS:
        _hashes[known] = digest
    return digest


def _flush(path: Path) -> None:
    """Flushes a file, or a folder's entries, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
