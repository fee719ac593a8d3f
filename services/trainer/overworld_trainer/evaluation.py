"""Held-out evaluation: the policy plays episodes that it is not trained on, as `overworld eval` has a model play them.

Everything that is known of a run's evaluations stands in its folder, so a run that was killed knows them, too:

    <run>/evaluations/update-000020/  as `overworld eval keep=DIR` writes it, and docs/episodes.md specifies
    <run>/diagnoses/update-000020/    with evaluation.diagnose: docs/diagnose.md
    <run>/checkpoints/000020/         what was evaluated
    <run>/checkpoints/best            the name of the best one
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Sequence
from pathlib import Path

from overworld import EnvSpec, Fleet, Reset, open_registry
from overworld.errors import ContractError, EvaluationError, Reason, SettingsError
from overworld.evaluation.conversation import Message
from overworld.evaluation.diagnosis.diagnose import diagnose, write
from overworld.evaluation.diagnosis.diagnosis import Diagnosis
from overworld.evaluation.evaluate import evaluate, tasks_of_split
from overworld.evaluation.folder import REPORT
from overworld.evaluation.model import Answer
from overworld.evaluation.statistics import wilson
from overworld_vlm import checkpoint
from overworld_vlm.batch import PromptError
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from overworld_vlm.writer import Request, Writer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from overworld_trainer.codec import as_arrays, decode_reply, encode_messages
from overworld_trainer.config import EnvConfig, EvaluationConfig, TrainerConfig
from overworld_trainer.folders import env_folders, update_folder
from overworld_trainer.metrics import Metric, Metrics
from overworld_trainer.run import Run
from overworld_trainer.stop import Stop

_logger = logging.getLogger(__name__)

_FOLDER = "evaluations"
_DIAGNOSES = "diagnoses"

_LOST = {
    "sight": Metric.EVAL_LOST_TO_SIGHT,
    "memory": Metric.EVAL_LOST_TO_MEMORY,
    "planning": Metric.EVAL_LOST_TO_PLANNING,
    "form": Metric.EVAL_LOST_TO_FORM,
    "unexplained": Metric.EVAL_LOST_UNEXPLAINED,
}

Score = tuple[float, float]
"""Success rate and mean return: the return decides between equal success rates, and where an env knows no success."""


class PolicyModel:
    """The policy as the evaluator sees a model: it replies what the policy server would with the same weights."""

    url = "the trainer's own process"

    def __init__(
        self, vlm: VLM, writer: Writer, *, name: str, fingerprint: str, temperature: float, max_tokens: int
    ) -> None:
        self.name = name
        self.temperature = temperature
        self.max_tokens = max_tokens
        self._vlm = vlm
        self._writer = writer
        self._fingerprint = fingerprint

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        """Replies to (messages, seed of the sampling noise), in order. Raises PromptError."""
        requests = [self._request(messages, seed) for messages, seed in prompts]
        self._writer.run(requests)
        return [
            Answer(decode_reply(self._vlm, request.tokens), request.finish == "length", self._fingerprint)
            for request in requests
        ]

    def _request(self, messages: list[Message], seed: int) -> Request:
        prompt = encode_messages(self._vlm, messages)
        room = self._vlm.max_length - len(prompt)
        if room < 1:
            raise PromptError(f"a prompt of {len(prompt)} tokens exceeds the model's {self._vlm.max_length}")
        length = min(self.max_tokens, room)
        return Request(prompt, length, messages=as_arrays(messages), key=(seed,), temperature=self.temperature)


class Evaluations:
    """A run's evaluations: those that were made, and the next one."""

    def __init__(self, run: Run, vlm: VLM, tasks: Sequence[Sequence[Reset]], *, update: int, stop: Stop) -> None:
        self._run = run
        self._vlm = vlm
        self._tasks = tasks
        self._known = update  # evaluations up to this one are those of this run; later ones are left over
        self._stop = stop
        self._folder = run.folder / _FOLDER
        self._reports: dict[int, list[_Figures]] = {}  # that have been read

    @classmethod
    def open(cls, run: Run, vlm: VLM, *, update: int, stop: Stop) -> Evaluations:
        """Chooses the episodes and sees whether the env servers have room for them, before the run costs anything.

        The run begins or is resumed after so many updates; evaluations of later ones are made again. Asked to stop, an
        evaluation is broken off. Of several ranks the first one plays and reads the folder, and the others wait for it.
        Raises SettingsError and what `Fleet` raises.
        """
        tasks = []
        if run.config.evaluation.every and run.ranks.first:
            for env in run.config.envs:
                with _open_fleet(run.config, env, expert=run.config.evaluation.diagnose) as fleet:
                    tasks.append(choose_tasks(fleet.spec, env, run.config.evaluation))
        return cls(run, vlm, tasks, update=update, stop=stop)

    def __repr__(self) -> str:
        return f"Evaluations({self._folder}, {sum(map(len, self._tasks))} episodes each)"

    def due(self, update: int) -> bool:
        """Whether the policy after so many updates is to be evaluated, and was not."""
        every = self._run.config.evaluation.every
        if not every or not update or update % every:
            return False
        return self._run.ranks.decided(lambda: update > self._known or self._figures(update) is None)

    def play(self, update: int) -> Metrics | None:
        """Evaluates the policy after so many updates, of which there is a checkpoint.

        None if it was interrupted, and where another rank plays. Raises what `evaluate` raises, and RankError.
        """
        metrics: list[Metrics | None] = []
        with self._vlm.whole():
            self._stop.alone(lambda: metrics.append(self._play(update)))
        return metrics[0] if metrics else None

    def _play(self, update: int) -> Metrics | None:
        config = self._run.config
        manifest = checkpoint.read(self._run.checkpoint(update), verify=False)
        model = PolicyModel(
            self._vlm,
            # Of its own: what training's engine keeps from one update to the next does not change.
            Engine(self._vlm, max_batch=config.max_batch),
            name=f"{manifest.run}@{update}",
            fingerprint=manifest.digest,
            temperature=0.0 if config.evaluation.greedy else config.temperature,
            max_tokens=config.max_new_tokens,
        )
        self._reports.pop(update, None)
        for folder in self._folders(update):
            (folder / REPORT).unlink(missing_ok=True)  # of no env may one be left over while another is played
        diagnoses: list[Diagnosis] = []
        try:
            for number, (env, tasks, folder) in enumerate(
                zip(config.envs, self._tasks, self._folders(update), strict=True)
            ):
                if config.evaluation.diagnose:  # first: once there is a report, the evaluation counts as made
                    diagnoses.append(self._diagnose(model, update, number))
                with _open_fleet(config, env) as fleet:
                    evaluate(
                        model,
                        fleet,
                        tasks,
                        recipe=config.recipe,
                        blank_frames=config.blank_frames,
                        keep=folder,
                        overwrite=True,
                        on_progress=self._check_interrupted,
                    )
        except _InterruptedError:
            _logger.info("the evaluation after update %d was broken off; the resumed run makes it", update)
            return None
        self._known = max(update, self._known)
        figures = self._figures(update)
        assert figures is not None, "each evaluation has just written its report"
        env_ids = [env.id for env in config.envs]
        metrics = _metrics(figures, env_ids) | _lost(diagnoses, env_ids)
        best = self.best(update)
        assert best is not None
        checkpoint.mark_best(self._run.checkpoints, self._run.checkpoint(best).name)
        _logger.info(
            "evaluation after update %d: success %.3f (95 %%: %.3f to %.3f), return %.3f; the best is update %s",
            update,
            metrics[Metric.EVAL_SUCCESS_RATE],
            metrics[Metric.EVAL_SUCCESS_LOW],
            metrics[Metric.EVAL_SUCCESS_HIGH],
            metrics[Metric.EVAL_RETURN],
            best,
        )
        return metrics

    def _diagnose(self, model: PolicyModel, update: int, number: int) -> Diagnosis:
        """Why the policy fails in env `number`."""
        config = self._run.config
        env = config.envs[number]
        found = diagnose(
            model,
            lambda expert: _open_fleet(config, env, expert=expert),
            self._tasks[number],
            recipe=config.recipe,
            on_progress=lambda done, total: self._check_interrupted(done),
        )
        parent = update_folder(self._run.folder / _DIAGNOSES, update)
        folder = env_folders(parent, [one.id for one in config.envs])[number]
        folder.mkdir(parents=True, exist_ok=True)
        write(found, folder)
        return found

    def best(self, update: int) -> int | None:
        """The update, of the first so many, that was evaluated best; among equals the earliest. None: none was."""
        scores = self._scores(update)
        return max(scores, key=lambda one: scores[one], default=None)

    def exhausted(self, update: int) -> bool:
        """Whether, after so many updates, the run's patience is at its end."""
        patience = self._run.config.evaluation.patience
        return patience is not None and self._run.ranks.decided(lambda: self._since_best(update) >= patience)

    def _since_best(self, update: int) -> int:
        """How many evaluations of the first so many updates came after the best one."""
        best = self.best(update)
        return 0 if best is None else sum(evaluated > best for evaluated in self._scores(update))

    def _scores(self, update: int) -> dict[int, Score]:
        """Of the evaluations of the first so many updates, in their order."""
        found = (re.fullmatch(r"update-(\d+)", path.name) for path in self._folder.glob("update-*"))
        updates = sorted(int(match[1]) for match in found if match is not None)
        figures = {one: self._figures(one) for one in updates if one <= update}
        return {one: _score(reports) for one, reports in figures.items() if reports is not None}

    def _figures(self, update: int) -> list[_Figures] | None:
        """What was reported for each env; None if the evaluation was not finished. Raises EvaluationError."""
        if update not in self._reports:
            paths = [folder / REPORT for folder in self._folders(update)]
            if not all(path.exists() for path in paths):
                return None
            self._reports[update] = [_read(path) for path in paths]
        return self._reports[update]

    def _folders(self, update: int) -> list[Path]:
        return env_folders(update_folder(self._folder, update), [env.id for env in self._run.config.envs])

    def _check_interrupted(self, done: int) -> None:
        if self._stop.company():
            raise _InterruptedError


def choose_tasks(spec: EnvSpec, env: EnvConfig, config: EvaluationConfig) -> list[Reset]:
    """The episodes of an env that its policy is evaluated on, none of which it is trained on. Raises SettingsError."""
    split = env.evaluation_split or env.split
    name, trained = split or spec.default_split, env.split or spec.default_split
    if name not in spec.splits:
        raise SettingsError(
            f"evaluation_split of {env.id}: there is no split {name!r}; choose one of {sorted(spec.splits)}"
        )
    size = spec.splits[name]
    if not size:
        return [Reset(config.seed + number, split) for number in range(config.episodes)]
    if name == trained:
        others = sorted({*spec.splits} - {name})
        raise SettingsError(
            f"{env.id} is trained on all {size} tasks of its split {name!r}, so that none is left to evaluate on: set "
            f"its evaluation_split to another one ({others}), or evaluation.every=0"
        )
    tasks = tasks_of_split(spec.splits, name, config.seed)
    if config.episodes >= size:
        return tasks
    # Drawn, since neighbours may be alike; in order, so that it is the same file for whoever plays them again.
    return [tasks[number] for number in sorted(random.Random(config.seed).sample(range(size), config.episodes))]


class _InterruptedError(Exception):
    """The run is to end now."""


class _Share(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    value: float = Field(ge=0, le=1)


class _Figures(BaseModel):
    """What is needed of a report."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    episodes: int = Field(ge=1)
    success: _Share
    mean_return: float
    mean_length: float
    invalid_replies: float
    cut_replies: float

    @property
    def successes(self) -> int:
        return round(self.success.value * self.episodes)


def _read(path: Path) -> _Figures:
    try:
        return _Figures.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise EvaluationError(f"{path} is not the report of an evaluation; delete its folder: {error}") from None


def _open_fleet(config: TrainerConfig, env: EnvConfig, *, expert: bool = False) -> Fleet:
    """Slots as `overworld eval` takes them."""
    slots = min(config.evaluation.slots, config.evaluation.episodes)
    try:
        return Fleet(
            open_registry(config.servers, config.credentials),
            env.id,
            slots,
            credentials=config.credentials,
            options=env.options,
            expert=expert,
            fallback_reward=env.fallback_reward,
            retry_budget=config.retry_budget,
        )
    except ContractError as error:
        if expert and error.reason in (Reason.EXPERT_NOT_ALLOWED, Reason.FEATURE_MISSING):
            raise SettingsError(
                f"evaluation.diagnose needs the expert of {env.id} ({error}): start the env servers with "
                "--allow-expert, or set evaluation.diagnose=false"
            ) from error
        if error.reason is not Reason.NO_FREE_SLOTS:
            raise
        raise SettingsError(
            f"there are not {slots} slots of {env.id} to evaluate in, besides those of training ({error}): give the "
            "env servers more slots, or lower evaluation.slots"
        ) from error


def _score(reports: Sequence[_Figures]) -> Score:
    metrics = _pooled(reports)
    return metrics[Metric.EVAL_SUCCESS_RATE], metrics[Metric.EVAL_RETURN]


def _metrics(reports: Sequence[_Figures], env_ids: Sequence[str]) -> Metrics:
    """Over all episodes; also by env where there are several."""
    metrics = _pooled(reports)
    if len(env_ids) > 1:
        for env in env_ids:  # several of them may be one env with different options
            own = [report for report, of in zip(reports, env_ids, strict=True) if of == env]
            metrics |= {f"{name}/{env}": value for name, value in _pooled(own).items()}
    return metrics


def _lost(diagnoses: Sequence[Diagnosis], env_ids: Sequence[str]) -> Metrics:
    """What the failures are due to, over all episodes; also by env where there are several."""
    if not diagnoses:
        return {}
    metrics = _pooled_shares(diagnoses)
    if len(env_ids) > 1:
        for env in env_ids:
            own = [found for found, of in zip(diagnoses, env_ids, strict=True) if of == env]
            metrics |= {f"{name}/{env}": value for name, value in _pooled_shares(own).items()}
    return metrics


def _pooled_shares(diagnoses: Sequence[Diagnosis]) -> Metrics:
    episodes = sum(found.episodes for found in diagnoses)
    return {
        metric: sum(found.shares[share] * found.episodes for found in diagnoses) / episodes
        for share, metric in _LOST.items()
    }


def _pooled(reports: Sequence[_Figures]) -> Metrics:
    episodes = sum(report.episodes for report in reports)
    lengths = [report.mean_length * report.episodes for report in reports]
    turns = sum(lengths)
    success = wilson(sum(report.successes for report in reports), episodes)
    invalid, cut = (
        sum(share * length for share, length in zip(shares, lengths, strict=True)) / max(turns, 1)
        for shares in ([one.invalid_replies for one in reports], [one.cut_replies for one in reports])
    )
    return {
        Metric.EVAL_SUCCESS_RATE: success.value,
        Metric.EVAL_SUCCESS_LOW: success.low,
        Metric.EVAL_SUCCESS_HIGH: success.high,
        Metric.EVAL_RETURN: sum(report.mean_return * report.episodes for report in reports) / episodes,
        Metric.EVAL_LENGTH: turns / episodes,
        Metric.EVAL_INVALID: invalid,
        Metric.EVAL_CUT: cut,
        Metric.EVAL_EPISODES: float(episodes),
    }
