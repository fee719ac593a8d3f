"""Does a study's runs: each is an `overworld train` of its own, resumed where an earlier attempt was killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from overworld.errors import OverworldError, SettingsError, TransientError
from overworld.service.process import ProgramProcess, ServiceProcess

from overworld_trainer.study.plan import RunKey, StudyConfig
from overworld_trainer.study.results import FINISHED, note_attempt

_logger = logging.getLogger(__name__)

_SETTINGS = "settings.yaml"
_LOG = "log"
_STOPPED = 1


class Runner:
    """Does runs, as many at a time as the study's `jobs`."""

    def __init__(self, study: StudyConfig) -> None:
        self._study = study
        self._lock = threading.Lock()
        self._programs: set[ProgramProcess] = set()
        self._servers: dict[str, str] = {}
        self._failures: list[str] = []
        self._stopped = threading.Event()

    def run(self, keys: Sequence[RunKey]) -> bool:
        """Does those runs that are not finished. Returns False if it was asked to stop.

        Raises SettingsError if a run was begun with other settings, OverworldError if some failed, after all others are
        done, and what starting an env server raises.
        """
        waiting = [key for key in keys if not self._is_finished(key)]
        if not waiting:
            return True
        with self._ending_on_signals(), self._env_servers({key.env for key in waiting}):
            queue = iter(waiting)
            threads = [threading.Thread(target=self._work, args=(queue,)) for _ in range(self._study.jobs)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._failures and not self._stopped.is_set():
            raise OverworldError(f"{len(self._failures)} runs failed: {'; '.join(self._failures)}")
        return not self._stopped.is_set()

    def _is_finished(self, key: RunKey) -> bool:
        """Raises SettingsError."""
        folder = self._study.run_folder(key)
        _require_same(folder, self._study.run_settings(key))
        return (folder / FINISHED).exists()

    def _work(self, queue: Iterator[RunKey]) -> None:
        """One of the threads: takes one run after another."""
        while not self._stopped.is_set():
            with self._lock:
                key = next(queue, None)
            if key is None:
                return
            try:
                self._do(key)
            except (OverworldError, OSError) as error:
                _logger.error("%s: %s", key, error)
                self._failures.append(f"{key}: {error}")

    def _do(self, key: RunKey) -> None:
        study = self._study
        with _only_one(study.run_folder(key), wait=False) as alone:
            if not alone:
                _logger.info("%s: another process is doing it", key)
                return
            start = study.start_folder(key.env, key.seed)
            with _only_one(start, wait=True):
                self._attempt(start, key.env, study.start_settings(key.env, key.seed))
            if (start / FINISHED).exists():  # else it was asked to stop
                self._attempt(study.run_folder(key), key.env, study.run_settings(key))

    def _attempt(self, folder: Path, env: str, settings: Mapping[str, Any]) -> None:
        """Begins or resumes a run, unless it is finished."""
        if (folder / FINISHED).exists() or self._stopped.is_set():
            return
        _require_same(folder, settings)
        _write(folder / _SETTINGS, yaml.safe_dump(dict(settings), sort_keys=False))
        note_attempt(folder)
        _logger.info("%s begins", folder)
        program = ProgramProcess(
            "overworld_trainer",
            str(folder / _SETTINGS),
            *self._connection(env),
            log=folder / _LOG,
            environment=self._secrets(),
        )
        with self._lock:
            self._programs.add(program)
        if self._stopped.is_set():
            program.terminate()
        ended = program.wait()
        with self._lock:
            self._programs.remove(program)
        note_attempt(folder, ended.cpu_seconds)
        _logger.info("%s: status %d after %.0f CPU-seconds", folder, ended.status, ended.cpu_seconds)
        if ended.status == 0:
            _write(folder / FINISHED, json.dumps({"stopped": ""}))
        elif ended.status == _STOPPED and (folder / "metrics.jsonl").exists():
            _write(folder / FINISHED, json.dumps({"stopped": _last_line(folder / _LOG)}))
        elif not self._stopped.is_set():
            why = f"status {ended.status}: {_last_line(folder / _LOG)}; all it said is in {folder / _LOG}"
            raise (TransientError if ended.status == os.EX_TEMPFAIL else OverworldError)(why)

    def _connection(self, env: str) -> list[str]:
        """Arguments that lead a run to its env servers."""
        study = self._study
        words = [f"servers={study.servers or self._servers[_simulator(study, env)]}"]
        words += [f"{name}={value}" for name in ("tokens", "tls") if (value := getattr(study, name)) is not None]
        return words + (["plaintext=true"] if study.plaintext else [])

    def _secrets(self) -> dict[str, str]:
        """What no list of processes should show."""
        secrets = {"OVERWORLD_TOKEN": self._study.token, "OVERWORLD_REDIS_PASSWORD": self._study.redis_password}
        return {name: secret for name, secret in secrets.items() if secret}

    @contextlib.contextmanager
    def _env_servers(self, envs: set[str]) -> Iterator[None]:
        """Starts the env servers that are needed, unless the study has some."""
        study = self._study
        most = max(env.slots for env in study.envs.values()), *(arm.slots or 0 for arm in study.arms.values())
        slots = study.jobs * (max(most) + study.base["evaluation"].get("slots", 16))
        with contextlib.ExitStack() as opened:
            for simulator in sorted({_simulator(study, env) for env in envs}) if not study.servers else ():
                server = ServiceProcess(
                    "overworld", "serve", simulator, "--port", "0", "--slots", str(slots), "--workers", "1",
                    "--allow-expert", log=study.folder / "logs" / f"{simulator}.log",
                )  # fmt: skip
                self._servers[simulator] = opened.enter_context(server).address
            yield

    @contextlib.contextmanager
    def _ending_on_signals(self) -> Iterator[None]:
        """Within this context SIGTERM and Ctrl-C have all runs write a checkpoint and end."""

        def stop(*_: object) -> None:
            self._stopped.set()
            for program in list(self._programs):
                program.terminate()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _simulator(study: StudyConfig, env: str) -> str:
    return study.envs[env].id.partition("/")[0]


def _require_same(folder: Path, settings: Mapping[str, Any]) -> None:
    path = folder / _SETTINGS
    if path.exists() and path.read_text() != yaml.safe_dump(dict(settings), sort_keys=False):
        raise SettingsError(
            f"{folder} was begun with other settings ({path}): give the study another name, or delete that folder"
        )


@contextlib.contextmanager
def _only_one(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Keeps other processes out of a folder; False: one is there, and was not waited for. The kernel ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    unfinished.rename(path)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"
