"""`overworld eval ENV ... model=NAME,...`: the success of models and baselines in envs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from overworld.authoring.env import EnvSpec
from overworld.client.fleet import Fleet
from overworld.client.moves import Reset
from overworld.commands.model_settings import ModelSettings
from overworld.commands.report import write_report
from overworld.errors import EvaluationError, NoCheckpointError, OverworldError, SettingsError
from overworld.evaluation.baselines import ExpertAgent, PersonAgent, RandomAgent
from overworld.evaluation.comparison import Comparison, compare
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.episodes import Episode
from overworld.evaluation.evaluate import evaluate, tasks_of_split
from overworld.evaluation.model import Agent
from overworld.evaluation.report import Report
from overworld.evaluation.suite import Suite, pinned_in
from overworld.evaluation.usage import Usage
from overworld.registry import open_registry
from overworld.service.extras import needs_extra

with needs_extra("eval"):
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress
    from rich.table import Table

    from overworld.evaluation.play import asking

_BASELINES = ("expert", "random", "person")
_MANY_INVALID = 0.5
_POLL_SECONDS = 5.0


class EvalEnv(BaseModel):
    """An env of a suite; what it does not say is as for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="e.g. gym_cards/NumberLine")
    servers: str | None = Field(default=None, description="env servers that have it")
    seeds: str | None = Field(default=None, description="seeds of its episodes")
    split: str | None = Field(default=None, description="play each task of this split of it once")
    options: dict[str, Any] | None = Field(default=None, description="its options")


def _envs(value: Any) -> Any:
    """Words on the command line are ids, with commas or without. Raises ValueError."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return value
    words = [part for one in value for part in (one.split(",") if isinstance(one, str) else [one])]
    ids = [one.get("id") if isinstance(one, dict) else one for one in words]
    for one in ids:
        if ids.count(one) > 1:
            raise ValueError(f"{one} is named twice: play it with other options or seeds in a suite of its own")
    return [{"id": one} if isinstance(one, str) else one for one in words]


class EvalConfig(ModelSettings):
    """Plays models and baselines in envs and counts their successes, each in the same episodes.

    Several envs and models make a table. The model server's key is taken from OPENAI_API_KEY. An evaluation that was
    kept and interrupted is resumed by the same command.
    """

    positional: ClassVar[tuple[str, ...]] = ("envs",)

    envs: Annotated[list[EvalEnv], BeforeValidator(_envs)] = Field(
        min_length=1, description="env ids, e.g. gym_cards/NumberLine"
    )
    model: str = Field(
        default="",
        description="names of models at their server, with commas; run@latest, run@best and run@all mean what they do "
        "when the evaluation begins; expert, random and person are baselines",
    )
    watch: Path | None = Field(
        default=None,
        description="instead of models, the folder of a training run: each checkpoint is evaluated when it appears at "
        "the model server, into the run's metrics.jsonl and tensorboard/watch",
    )
    seeds: str = Field(default="0-99", description="seeds of the episodes, as in 0-99,500; not used with a split")
    split: str = Field(default="", description="play each task of this split once")
    samples: int = Field(default=1, ge=1, description="how often each task is played, with other noise; for pass@k")
    noise: int = Field(default=0, ge=0, description="number of the first sample: others have other noise of sampling")
    options: dict[str, Any] = Field(default={}, description="the env's options; none: those of the model's training")
    fallback_reward: float | None = Field(
        default=None,
        description="reward of a turn without an admissible action; null: less than that of any action, "
        "min(reward_min, 0) - .1 x the reward scale",
    )
    blank_frames: bool = Field(default=False, description="show white pictures instead, as a control")
    keep: Path | None = Field(
        default=None, description="folder for report, episodes and pictures; of several evaluations, for one of each"
    )
    overwrite: bool = Field(default=False, description="delete the evaluation that the folder holds, if any")
    page: Path | None = Field(
        default=None, description="folder for a page of what was kept, with film strips, and tables as CSV"
    )


@dataclass(slots=True)
class _Outcome:
    """One line of the table."""

    env: str
    agent: str
    report: Report
    episodes: list[Episode]
    usages: list[Usage]
    comparison: Comparison | None = None


def main(arguments: Sequence[str]) -> int:
    """Evaluates and prints the report."""
    config = EvalConfig.load(arguments, "overworld eval")
    with ExitStack() as stack:
        try:
            return _run(config, stack)
        except OSError as error:
            raise EvaluationError(f"the evaluation cannot be kept in {config.keep}: {error}") from None
        except EOFError:
            print("stopped; what is kept (keep=FOLDER) is continued by the same command", file=sys.stderr)
            return 1


def _run(config: EvalConfig, stack: ExitStack) -> int:
    if config.page is not None and config.keep is None:
        raise SettingsError("page: it is made of what was kept: set keep to a folder, too")
    if config.watch is not None:
        return _watch(config, config.watch, stack)
    words = [word.strip() for word in config.model.split(",") if word.strip()]
    if not words:
        raise SettingsError("model: name one or more, such as mine@latest, expert or random; or a run to watch")
    if len(words) * len(config.envs) > 1 or words[0].endswith("@all"):
        suite = None if config.keep is None else Suite(config.keep)
        names = _expanded(config, words, suite)
        agents = _Agents(config, names, stack)
        failed = _play_suite(config, suite, agents)
        if suite is not None and not failed:
            suite.finish()
        return int(failed)
    keep = None if config.overwrite else config.keep
    (name,) = words if words[0] in _BASELINES else pinned_in(keep, words[0], partial(config.names_of, words[0]))
    outcome = _play(config, config.envs[0], name, _Agents(config, [name], stack), config.keep)
    _show(outcome)
    _warn(outcome)
    if config.page is not None and config.keep is not None:
        write_report([config.keep], config.page, overwrite=config.overwrite)
    _refuse_failures(outcome)
    return 0


def _play_suite(config: EvalConfig, suite: Suite | None, agents: _Agents) -> bool:
    """Plays every agent in every env and prints the table; whether anything failed."""
    outcomes: list[_Outcome] = []
    failures: list[str] = []
    for env in config.envs:
        first: _Outcome | None = None
        for name in agents.names:
            try:
                outcome = _play(config, env, name, agents, suite.folder(env.id, name) if suite is not None else None)
                _refuse_failures(outcome)
            except (OverworldError, OSError) as error:  # the others are played nevertheless
                failures.append(f"{name} in {env.id}: {error}")
                print(f"overworld eval: {failures[-1]}", file=sys.stderr)
                continue
            if first is None:
                first = outcome
            else:
                outcome.comparison = compare(first.episodes, outcome.episodes)
                outcome.episodes = []  # only the first one's are needed again
            outcomes.append(outcome)
            _warn(outcome)
    if outcomes:
        Console().print(_table(outcomes, config.samples))
    if outcomes and config.page is not None and suite is not None:
        folders = [suite.folder(outcome.env, outcome.agent) for outcome in outcomes]
        write_report(folders, config.page, overwrite=config.overwrite)
    return bool(failures)


def _watch(config: EvalConfig, run: Path, stack: ExitStack) -> int:
    """Evaluates the checkpoints of a run, the old ones first, until it has made its last update."""
    if config.model or config.keep is not None or config.page is not None:
        raise SettingsError("watch: leave out model, keep and page: the run's checkpoints are kept in the run's folder")
    with needs_extra("watch"):
        from overworld.evaluation.run_log import RunLog
    log = stack.enter_context(closing(RunLog(run)))
    suite = Suite(log.folder)
    logged = log.logged()
    while True:
        for name in _checkpoints(config, run.name):
            with config.open_model(name) as model:
                update, env_steps = model.progress()
            if update not in logged:
                with ExitStack() as each:
                    agents = _Agents(config, [name], each)
                    outcomes = [_play(config, env, name, agents, suite.folder(env.id, name)) for env in config.envs]
                log.write(update, env_steps, [outcome.report for outcome in outcomes])
                logged.add(update)
                Console().print(_table(outcomes, config.samples))
        if logged and max(logged) >= (log.last() or math.inf):
            return 0
        sleep(_POLL_SECONDS)


def _checkpoints(config: EvalConfig, run: str) -> list[str]:
    """Those that a run has by now, by their updates."""
    try:
        return config.names_of(f"{run}@all")
    except NoCheckpointError:
        return []


class _Agents:
    """The models, connected once, and the baselines."""

    def __init__(self, config: EvalConfig, names: Sequence[str], stack: ExitStack) -> None:
        self.names = names
        self._models = {name: stack.enter_context(config.open_model(name)) for name in names if name not in _BASELINES}
        if self._models and config.samples > 1 and config.temperature == 0:
            raise SettingsError(
                f"samples: at temperature 0 the {config.samples} plays of a task would be the same: set temperature"
            )

    def options(self, env: str) -> dict[str, Any]:
        """Those of the models' training in an env. Raises SettingsError if they are not the same."""
        known = {name: options for name, model in self._models.items() if (options := model.options(env))}
        different = {repr(sorted(options.items())): name for name, options in known.items()}
        if len(different) > 1:
            raise SettingsError(
                f"options: {' and '.join(sorted(different.values()))} were trained with different options of {env}: "
                "name those to play with"
            )
        return next(iter(known.values()), {})

    def recipe(self, name: str) -> Recipe:
        """A model's own, or the default one."""
        return (self._models[name].recipe() if name in self._models else None) or Recipe()

    def agent(self, name: str, spec: EnvSpec) -> Agent:
        """The agent of that name."""
        match name:
            case "expert":
                return ExpertAgent(spec)
            case "random":
                return RandomAgent(spec)
            case "person":
                return PersonAgent(asking(spec, Console()))
            case _:
                return self._models[name]


def _play(config: EvalConfig, env: EvalEnv, name: str, agents: _Agents, keep: Path | None) -> _Outcome:
    """One evaluation."""
    split, seeds = config.split if env.split is None else env.split, env.seeds or config.seeds
    if env.seeds is not None and env.split is None:
        split = ""
    numbers = [] if split else seed_numbers(seeds)
    options = config.options if env.options is None else env.options
    usages: dict[Any, Usage] = {}
    with (
        Fleet(
            open_registry(env.servers or config.servers, config.credentials),
            env.id,
            1 if name == "person" else config.slots,
            credentials=config.credentials,
            compress=config.compress,
            options=options or agents.options(env.id),
            fallback_reward=config.fallback_reward,
            expert=name == "expert",
            retry_budget=config.timeout,
        ) as fleet,
        _progress(f"{name} in {env.id}", quiet=name == "person") as bar,
    ):
        tasks = tasks_of_split(fleet.spec.splits, split) if split else [Reset(seed=seed) for seed in numbers]

        def note(episode: Episode, usage: Usage) -> None:
            usages[episode.key] = usage
            bar(len(usages), len(tasks) * config.samples)
            if name == "person":
                won = "success" if episode.success else "no success"
                print(f"{episode.end or episode.error}: {won}, return {episode.total_reward:g}\n", file=sys.stderr)

        report, episodes = evaluate(
            agents.agent(name, fleet.spec),
            fleet,
            tasks,
            recipe=config.recipe or agents.recipe(name),
            samples=range(config.noise, config.noise + config.samples),
            blank_frames=config.blank_frames,
            keep=keep,
            overwrite=config.overwrite,
            on_episode=note,
        )
    return _Outcome(env.id, name, report, episodes, [usages[episode.key] for episode in episodes])


def _expanded(config: EvalConfig, words: Sequence[str], suite: Suite | None) -> list[str]:
    """The agents that the words name, each once."""
    names: list[str] = []
    for word in words:
        resolve = partial(config.names_of, word)
        if word in _BASELINES:
            names.append(word)
        elif suite is None or config.overwrite:
            names += resolve()
        else:
            names += suite.pinned(word, resolve)
    return list(dict.fromkeys(names))


@contextmanager
def _progress(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar to be told how many episodes of how many are finished."""
    if quiet:  # a bar would write over what a person is shown
        yield lambda done, total: None
        return
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task(escape(title), total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _show(outcome: _Outcome) -> None:
    report, success = outcome.report, outcome.report.success
    table = Table(show_header=False, title=escape(f"{report.model} in {report.env}, {report.episodes} episodes"))
    table.add_row("success", f"{success.value:.3f}  (95 %: {success.low:.3f} to {success.high:.3f})")
    for k, share in report.pass_at.items():
        if k != "1":
            table.add_row(f"pass@{k}", f"{share:.3f}, of {report.tasks} tasks with {report.samples} samples")
    table.add_row("return", f"{report.mean_return:.3f}, above 0 in {report.positive_return:.1%} of the episodes")
    table.add_row("length", f"{report.mean_length:.1f} turns")
    table.add_row("invalid replies", f"{report.invalid_replies:.1%}")
    table.add_row("cut replies", f"{report.cut_replies:.1%}")
    table.add_row("ends", ", ".join(f"{name} {count}" for name, count in report.ends.items()))
    if errors := _errors(outcome):
        table.add_row("failed", escape(f"{len(errors)}, the first of {errors[0]}"))
    table.add_row("per episode", _took(outcome.usages))
    table.add_row("weights", escape(report.fingerprint or "not told"))
    Console().print(table)


def _table(outcomes: Sequence[_Outcome], samples: int) -> Table:
    """All evaluations, those in one env below each other."""
    columns = ["env", "agent", "success", "95 %", "less the first (95 %)", "return", "length", "invalid", "per episode"]
    if samples > 1:
        columns.insert(4, f"pass@{samples}")
    table = Table(*columns)
    shown = ""
    for outcome in outcomes:
        report = outcome.report
        if shown and shown != outcome.env:
            table.add_section()
        row = [
            "" if shown == outcome.env else escape(outcome.env),
            escape(outcome.agent),
            f"{report.success.value:.3f}",
            f"{report.success.low:.3f} to {report.success.high:.3f}",
            _difference(outcome.comparison),
            f"{report.mean_return:.3f}",
            f"{report.mean_length:.1f}",
            f"{report.invalid_replies:.1%}",
            _took(outcome.usages),
        ]
        if samples > 1:
            row.insert(4, f"{report.pass_at[str(samples)]:.3f}")
        table.add_row(*row)
        shown = outcome.env
    return table


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    success = comparison.success
    return f"{success.value:+.3f} ({success.low:+.3f} to {success.high:+.3f})"


def _took(usages: Sequence[Usage]) -> str:
    """The means of time and tokens."""
    seconds = [one.seconds for one in usages if one.seconds is not None]
    tokens = [one.completion_tokens for one in usages if one.completion_tokens is not None]
    parts = [f"{sum(seconds) / len(seconds):.2f} s"] if seconds else []
    parts += [f"{sum(tokens) / len(tokens):.0f} tokens"] if tokens else []
    return ", ".join(parts) or "not known"


def _warn(outcome: _Outcome) -> None:
    report = outcome.report
    if report.invalid_replies > _MANY_INVALID:
        print(
            f"overworld eval: {report.invalid_replies:.0%} of the replies of {outcome.agent} in {outcome.env} held no "
            "action that the env admits, so these figures say more of the form of its replies than of what it can do: "
            "read some (keep=FOLDER, overworld report FOLDER), and see recipe and max_tokens",
            file=sys.stderr,
        )


def _errors(outcome: _Outcome) -> list[str]:
    return [f"seed {episode.seed}: {episode.error}" for episode in outcome.episodes if episode.error]


def _refuse_failures(outcome: _Outcome) -> None:
    errors = _errors(outcome)
    if len(errors) == len(outcome.episodes):
        raise EvaluationError(
            f"all {len(errors)} episodes failed, so these figures say nothing about {outcome.agent}; the first, of "
            f"{errors[0]}. See the env server's log"
        )


def seed_numbers(text: str) -> list[int]:
    """Numbers like "0-99,500,501". Raises SettingsError."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdigit() or (dash and not last.strip().isdigit()):
            raise SettingsError(f"{text!r}: seeds are numbers and ranges, like 0-99,500")
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers
