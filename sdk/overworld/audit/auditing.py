"""Audits envs: of a server, or of classes in this process."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from PIL import Image as Pillow

from overworld.audit import judgements  # noqa: F401 - they register themselves
from overworld.audit.case import ROBUSTNESS, Case
from overworld.audit.judgements.costs import RESOURCES
from overworld.audit.judging import JUDGEMENTS, Judgement
from overworld.audit.report import EnvReport, Frame, Report, Table
from overworld.audit.stage import ClassPlace, Place, ServerPlace
from overworld.authoring.env import Env, Pixels
from overworld.check.env_class import load
from overworld.check.findings import SkipCheckError, shortened
from overworld.client.channel import server_info
from overworld.errors import ContractError, EvaluationError, ServerError, ServerLostError, SettingsError
from overworld.host.process import ServerProcess
from overworld.service.addresses import is_address
from overworld.service.credentials import Credentials

_logger = logging.getLogger(__name__)

_SLOTS = 8
_TURNS = 8_000
"""That an audit usually takes, roughly."""
_SLOW = 0.1
"""Seconds a turn with which an audit cannot ask much."""
_LEARNING_SLOTS = 32
_SURROUNDINGS = {"PYTHONHASHSEED": "4242", "OVERWORLD_LOG_LEVEL": "WARNING"}


def audit(
    target: str | type[Env],
    env: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    seconds: float = 50.0,
    timeout: float = 20.0,
    credentials: Credentials | None = None,
    learn: bool = False,
    on_question: Callable[[str], None] = lambda name: None,
) -> Report:
    """Audits the env `env` of the server at "host:port", or all of its envs; or an `Env` class; or what a name like
    "module:Class", "gym_cards" or "gym_cards/EZPoints" stands for, which is played in this process, and compared with
    one that is started for it.

    `options` are those of the env. The same `seed` asks the same questions with the same episodes. An env has `seconds`
    of time, and one of its steps `timeout`; what there was no time for is listed as skipped. `on_question` is told what
    is being asked. With `learn`, a small network tries to learn each env as well, beyond those `seconds`; the report
    says why where it has nothing to learn from: no action words, no picture. Raises OverworldError if there is nothing
    to audit.
    """
    report = Report(subject=target if isinstance(target, str) else target.spec.id, seed=seed)
    with ExitStack() as stack:
        for place, elsewhere in _places(target, env, options or {}, credentials or Credentials(), timeout, stack):
            learned, tables = _learn(place, seed, on_question) if learn else (None, [])
            report.envs.append(_audit(place, elsewhere, seed, seconds, on_question))
            report.envs[-1].learned = learned
            report.envs[-1].tables += tables
    return report


def _places(
    target: str | type[Env],
    env: str | None,
    options: Mapping[str, Any],
    credentials: Credentials,
    timeout: float,
    stack: ExitStack,
) -> Iterator[tuple[Place, Place | None]]:
    """Where each env is played, and a second process with it."""
    if not isinstance(target, str):
        yield ClassPlace(target.spec.id, target, options=options, timeout=timeout), None
        return
    if is_address(target):
        info = server_info(target, credentials=credentials)
        if env and env not in info.envs:
            raise SettingsError(f"{target} has no env {env!r}; it has {sorted(info.envs)}")
        for env_id in [env] if env else info.envs:
            arguments: dict[str, Any] = {"options": options, "credentials": credentials, "timeout": timeout}
            yield ServerPlace(target, info, env_id, **arguments), None
        return
    classes = load(target)
    if env:
        if env not in classes:
            raise SettingsError(f"{target} has no env {env!r}; it has {sorted(classes)}")
        classes = {env: classes[env]}
    with _surroundings():
        server = stack.enter_context(
            ServerProcess(target, arguments=("--slots", "16", "--workers", "1", "--allow-expert"))
        )
    info = server_info(server.address)
    for env_id, env_class in classes.items():
        here = ClassPlace(target, env_class, options=options, timeout=timeout)
        there = ServerPlace(
            server.address,
            info,
            env_id,
            options=options,
            credentials=Credentials(),
            timeout=timeout,
            process=server.process.pid,
        )
        yield here, there


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """For a process that is started meanwhile: its sets have another order, and it does not log every session."""
    before = {name: os.environ.get(name) for name in _SURROUNDINGS}
    os.environ.update(_SURROUNDINGS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _learn(place: Place, seed: int, on_question: Callable[[str], None]) -> tuple[Mapping[str, Any] | None, list[Table]]:
    """What a small network learns there, whole and in tables; None and why, if there is nothing to learn from."""
    from overworld.audit.learning.figures import tables  # they need PyTorch, which other audits do without
    from overworld.audit.learning.learn import learn

    here = isinstance(place, ClassPlace)
    stage = place.open(_LEARNING_SLOTS if here else max(1, min(_LEARNING_SLOTS, place.slots)))
    try:
        learned = learn(
            stage, seed=seed, on_progress=lambda player: on_question(f"{stage.spec.id}: learning, {player}")
        )
    except EvaluationError as error:
        return None, [Table("Learning: not possible", ("why",), [(str(error),)])]
    finally:
        stage.close()
    return learned.as_dict(), tables(learned)


def _audit(
    place: Place, elsewhere: Place | None, seed: int, seconds: float, on_question: Callable[[str], None]
) -> EnvReport:
    started = time.monotonic()
    stage = place.open(1)
    stage.close()
    report = EnvReport(spec=stage.spec)
    case = Case(
        place=place,
        seed=seed,
        deadline=started + seconds,
        report=report,
        slots=max(1, min(_SLOTS, place.slots)),
        elsewhere=elsewhere,
    )
    for judgement in JUDGEMENTS:
        on_question(f"{stage.spec.id}: {judgement.questions[0]}")
        _ask(case, judgement)
        if judgement is JUDGEMENTS[0]:
            case.thin = _thinned((time.monotonic() - started) / max(report.turns, 1), seconds)
    report.frames = _frames(case)
    report.seconds = time.monotonic() - started
    if case.late and report.turns and report.seconds / report.turns > _SLOW:
        told = f"{report.turns:,} turns, {report.seconds / report.turns:.1f} s each"
        case.find("warning", f"an audit of {seconds:g} s", told, "faster turns", question=RESOURCES)
    return report


def _thinned(each: float, seconds: float) -> int:
    """By what to divide the audit, if a turn takes `each` seconds: 1 unless it would take most of its time."""
    return next((thin for thin in (1, 2, 4) if _TURNS * each / thin < seconds / 2), 8)


def _ask(case: Case, judgement: Judgement) -> None:
    case.question = judgement.questions[0]
    report = case.report
    try:
        if case.late:
            raise case.skip("the time was over")
        judgement.judge(case)
        why = ""
    except SkipCheckError as error:
        why = str(error)
    except ServerLostError as error:
        if case.elsewhere is None:
            case.find("error", "the episodes of this question", str(error), "results", question=ROBUSTNESS)
        why = shortened(str(error))  # else it is the second process that was lost: what the env does here is known
    except (ContractError, ServerError) as error:  # a class's own errors are results; these are of a server
        why = shortened(f"the server failed: {error}")
        case.find("error", "the episodes of this question", str(error), "results", question=ROBUSTNESS)
    for question in judgement.questions:
        if why:
            report.skipped.setdefault(question, why)
        elif question not in report.skipped:
            report.answered.add(question)
    for question in report.answered & set(report.skipped):
        del report.skipped[question]


def _frames(case: Case) -> list[Frame]:
    """The beginning, the middle and the end of an episode, the expert's if there is one."""
    kept = [episode for episode in case.everything if episode.frames]
    if not kept:
        return []
    episode = next((each for each in kept if each.player == "expert"), kept[0])
    frames = episode.frames
    chosen = {0, len(frames) // 3, 2 * len(frames) // 3, len(frames) - 1}
    return [
        Frame(f"seed {episode.seed}, {episode.player}, turn {frames[at][0]}", _png(frames[at][1]))
        for at in sorted(chosen)
    ]


def _png(pixels: Pixels) -> bytes:
    image = Pillow.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((320, 320))
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()
