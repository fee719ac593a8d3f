"""The page of a study: what became of each claim, tables with intervals, curves of all seeds, settings and costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import yaml

from overworld_trainer.study.plan import Experiment, RunKey, StudyConfig
from overworld_trainer.study.results import Result, read_cost, read_result
from overworld_trainer.study.statistics import Estimate, estimate
from overworld_trainer.study.verdicts import Finding, Verdict, judge

_READING = """
Every run is measured on held-out episodes after some of its updates. The primary metric, fixed in the study's file, is
the area under that curve up to {budget:,} env steps of training, divided by them: the mean {label} over the budget.
Between evaluations the curve is straight; after the last it is level, also where the guard stopped a run. The steps of
warm-ups count, those of evaluations do not. With one seed, all arms begin at the same clone, whose evaluation is the
curve's first point, and are evaluated on the same episodes.

Intervals are of 90 %, with 5 % on either side. They hold the values that an exact permutation test does not reject: if
two arms do not differ, a coin chooses the signs of the paired differences (Hartigan, JASA 64, 1969). Only symmetry is
assumed. "Seen" means that the interval of the difference lies above 0, which is the same as p <= .05, one-sided. Fewer
than five pairs of seeds say nothing at that level. If no claim were true, {chance:.1f} of the {tests} tests would be
expected to say "seen"; the column "Holm" has p-values adjusted for their number.
""".strip()


def write_page(study: StudyConfig) -> Path:
    """Writes `<name>.md` and its pictures into the study's folder for pages. Returns the page's path."""
    from overworld_trainer.study.figures import draw_curves  # which needs an extra that single runs do without

    folder = study.page or study.folder / "page"
    folder.mkdir(parents=True, exist_ok=True)
    results = {key: result for key in study.every_run if (result := read_result(study, key)) is not None}
    for name, experiment in study.experiments.items():
        for env in experiment.envs:
            arms = {arm: _of(results, env, arm, experiment.seeds) for arm in experiment.arms}
            draw_curves(folder / _picture(study, name, env), arms, study.budget, study.primary)
    path = folder / f"{study.name}.md"
    path.write_text("\n".join(_lines(study, results)) + "\n")
    return path


def _lines(study: StudyConfig, results: Mapping[RunKey, Result]) -> Iterator[str]:
    findings = judge(study, results)
    yield f"# {study.name}"
    yield ""
    yield "<!-- Made by `overworld study`. Changes by hand are lost. -->"
    yield ""
    yield study.about.strip()
    yield ""
    keys = study.every_run
    missing = "" if len(results) == len(keys) else " **The study is not finished**; what follows is of these runs."
    yield f"{len(results)} of {len(keys)} runs are finished.{missing}"
    yield ""
    yield "## Claims"
    yield ""
    yield from _claims(study, findings)
    yield ""
    tests = sum(one.chance is not None for one in findings)
    yield _READING.format(budget=study.budget, label=study.primary, tests=tests, chance=0.05 * tests)
    for name, experiment in study.experiments.items():
        yield ""
        yield f"## {name}"
        yield ""
        yield experiment.about.strip()
        for env in experiment.envs:
            yield ""
            yield f"### {name}: {env}"
            yield ""
            yield f"![{study.primary} over env steps, a panel per arm]({_picture(study, name, env)})"
            yield ""
            yield from _table(study, experiment, env, results)
    yield ""
    yield from _settings(study)
    yield ""
    yield from _costs(study, results)


def _claims(study: StudyConfig, findings: Sequence[Finding]) -> Iterator[str]:
    registered = _registered(study)
    yield "| claim | source | where | difference [90 %] | pairs | p | Holm | |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for one in findings:
        claim = one.claim
        late = (
            "" if registered is None or claim.model_dump(mode="json") in registered else " (added after the first run)"
        )
        if one.verdict is Verdict.UNSEEN:
            cells = [claim.unseen, "", "", "", ""]
        else:
            pairs = f"{one.seeds} of {one.planned}" if one.seeds < one.planned else str(one.seeds)
            cells = [
                one.where,
                _interval(one.difference, signed=True),
                pairs,
                _chance(one.chance),
                _chance(one.adjusted),
            ]
        yield _row([claim.says + late, claim.source, *cells, f"**{one.verdict}**"])


def _table(study: StudyConfig, experiment: Experiment, env: str, results: Mapping[RunKey, Result]) -> Iterator[str]:
    label = study.primary
    yield f"| arm | runs | mean {label} [90 %] | each seed | at the end | invalid replies | stopped | CPU-s | tokens |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for arm in experiment.arms:
        own = _of(results, env, arm, experiment.seeds)
        if not own:
            yield _row([arm, f"0 of {experiment.seeds}", *[""] * 7])
            continue
        seconds = [one.cost.cpu_seconds for one in own if one.cost.cpu_seconds is not None]
        yield _row(
            [
                arm,
                f"{len(own)} of {experiment.seeds}" if len(own) < experiment.seeds else str(len(own)),
                _interval(estimate([one.area for one in own])),
                " ".join(_number(one.area) for one in own),
                _number(statistics.fmean(one.curve[-1][1] for one in own)),
                f"{statistics.fmean(one.invalid for one in own):.1%}",
                str(sum(bool(one.stopped) for one in own)),
                f"{statistics.fmean(seconds):.0f}" if seconds else "not known",
                f"{statistics.fmean(one.cost.reply_tokens for one in own):,.0f}",
            ]
        )


def _settings(study: StudyConfig) -> Iterator[str]:
    yield "## Settings"
    yield ""
    yield "All runs share these; nothing is set env by env but the env's own options."
    yield ""
    yield "```yaml"
    yield yaml.safe_dump(study.base, sort_keys=False).rstrip()
    yield "```"
    yield ""
    yield "| env | | slots | options |"
    yield "| --- | --- | --- | --- |"
    for name, env in study.envs.items():
        yield _row([name, env.id, str(env.slots), f"`{env.options}`"])
    yield ""
    yield "| arm | differs in |"
    yield "| --- | --- |"
    for name, arm in study.arms.items():
        differs = arm.settings | ({} if arm.slots is None else {"slots": arm.slots})
        yield _row([name, f"`{differs}`" if differs else ""])


def _costs(study: StudyConfig, results: Mapping[RunKey, Result]) -> Iterator[str]:
    starts = {(key.env, key.seed) for key in results}
    clones = [read_cost(study.start_folder(env, seed)).cpu_seconds for env, seed in sorted(starts)]
    runs = [one.cost.cpu_seconds for one in results.values()]
    hours = [sum(cost for cost in costs if cost is not None) / 3600 for costs in (runs, clones)]
    unknown = sum(cost is None for cost in [*runs, *clones])
    steps = sum(one.cost.env_steps for one in results.values())
    tokens = sum(one.cost.reply_tokens for one in results.values())
    yield "## Costs"
    yield ""
    yield (
        f"{hours[0]:.2f} CPU-hours for {len(results)} runs and {hours[1]:.2f} for {len(starts)} clones, env servers "
        f"not counted; {steps:,} env steps and {tokens:,} tokens of replies in training."
        + (f" The cost of {unknown} of them is not known, since they were killed on the way." if unknown else "")
    )
    yield ""
    yield f"Overworld {version('overworld-trainer')}, torch {version('torch').partition('+')[0]}."
    stopped = [f"- {key}: {one.stopped}" for key, one in results.items() if one.stopped]
    if stopped:
        yield ""
        yield "Stopped by their guard:"
        yield ""
        yield from stopped


def _registered(study: StudyConfig) -> list[object] | None:
    """The claims that stood in the file before the first run; None if there was no run."""
    path = study.folder / "registered.yaml"
    if not path.exists():
        return None
    registered = yaml.safe_load(path.read_text())
    fixed = registered["primary"], registered["budget"]
    return registered["claims"] if fixed == (study.primary, study.budget) else []


def _of(results: Mapping[RunKey, Result], env: str, arm: str, seeds: int) -> list[Result]:
    keys = (RunKey(env, arm, seed) for seed in range(seeds))
    return [results[key] for key in keys if key in results]


def _picture(study: StudyConfig, experiment: str, env: str) -> str:
    return f"{study.name}-{experiment}-{env}.svg"


def _row(cells: Sequence[str]) -> str:
    shown = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(shown)} |"


def _interval(one: Estimate | None, *, signed: bool = False) -> str:
    if one is None:
        return ""
    sign = "+" if signed else ""
    bounds = "" if math.isinf(one.low) else f" [{one.low:{sign}.3f}, {one.high:{sign}.3f}]"
    return f"{one.value:{sign}.3f}{bounds}"


def _chance(chance: float | None) -> str:
    return "" if chance is None else f"{chance:.3f}"


def _number(value: float) -> str:
    return f"{value:.2f}"
