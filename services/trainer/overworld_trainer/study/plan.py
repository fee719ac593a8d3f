"""What a study is: its file, and the runs that the file asks for.

An arm is an algorithm with its settings, an env a simulator with its options. An experiment plays each of its arms in
each of its envs with the same seeds. All arms begin, seed by seed, at the same clone, so that differences between them
are paired.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from overworld.client.settings import ClientSettings
from overworld.errors import SettingsError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from overworld_trainer.config import EnvConfig, TrainerConfig

_OF_ALL_ARMS = {"clone", "envs", "max_env_steps", "model", "recipe", "run", "seed", "servers", "updates"}
_OF_THE_STUDY = {"envs", "max_env_steps", "run", "seed", "servers", "updates"}
_ALWAYS: dict[str, Any] = {"keep_weights": 2, "table": {"every": 0}, "checkpoint_every": 1_000_000}

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Of a study, an arm, an env or an experiment: it also names folders."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(_Section):
    """Something that is compared."""

    slots: int | None = Field(default=None, ge=2, description="episodes played at once; null: as many as the env's")
    settings: dict[str, Any] = Field(default={}, description="settings of `overworld train` in which the arm differs")


class Experiment(_Section):
    """Arms that are played in envs."""

    about: str = Field(description="what is asked, for the page")
    envs: tuple[Name, ...] = Field(min_length=1)
    arms: tuple[Name, ...] = Field(min_length=1)
    seeds: int = Field(ge=1, le=20, description="runs of each arm in each env, with the seeds from 0 on")


class Claim(_Section):
    """An ordering that is expected: a sum of arms' primary metrics is above 0, e.g. {vl_dac: 1, loop: -1}.

    With `envs` it is tested in each of them; without, the arms are written env/arm. A claim that this study cannot
    test has a reason instead.
    """

    says: str = Field(description="the claim in words")
    source: str = Field(default="", description="who claims it")
    contrast: dict[str, float] = Field(default={}, description="arm -> its weight in the sum")
    envs: tuple[Name, ...] = ()
    unseen: str = Field(default="", description="why it cannot be seen here")

    @model_validator(mode="after")
    def _check(self) -> Claim:
        if bool(self.contrast) == bool(self.unseen):
            raise ValueError(f"claim {self.says!r}: give a contrast to test, or in unseen why none can be")
        return self


class RunKey(NamedTuple):
    """Names a run."""

    env: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.env}/{self.arm}/seed-{self.seed}"


class StudyConfig(ClientSettings):
    """Runs a study: configurations times seeds, then a page with intervals, curves and what became of each claim.

    The same command resumes it, and runs that are finished are not run again.
    """

    name: Name = Field(description="names the folder of its runs and its page")
    about: str = Field(description="what the study is for")
    primary: Literal["success", "return"] = Field(
        default="success", description="of what the area under the curve is compared: success rate or mean return"
    )
    budget: int = Field(ge=1, description="env steps of training that each run may take, warm-up included")
    base: dict[str, Any] = Field(description="settings of `overworld train` that all arms share")
    envs: dict[Name, EnvConfig] = Field(min_length=1)
    arms: dict[Name, Arm] = Field(min_length=1)
    experiments: dict[Name, Experiment] = Field(min_length=1)
    claims: tuple[Claim, ...] = ()
    runs: Path = Field(default=Path("runs/studies"), description="folder of the runs of all studies")
    page: Path | None = Field(default=None, description="folder to write the page to; null: the study's own")
    servers: str = Field(
        default="", description="env servers: addresses, or rediss://host:port/0; empty: they are started here"
    )
    jobs: int = Field(default=1, ge=1, le=64, description="runs at a time")
    index: int | None = Field(default=None, ge=0, description="do this run only, as one pod of an Indexed Job does")
    dry_run: bool = Field(default=False, description="list the runs and what those that are left will cost")
    page_only: bool = Field(default=False, description="run nothing: write the page of what is there")

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        for name, experiment in self.experiments.items():
            _require(self.envs, experiment.envs, f"experiments.{name}.envs")
            _require(self.arms, experiment.arms, f"experiments.{name}.arms")
        for name, arm in self.arms.items():
            if shared := sorted(_OF_ALL_ARMS & arm.settings.keys()):
                raise ValueError(f"arms.{name}.settings has {shared}, which all arms share: set them in base or envs")
            if arm.settings.get("evaluation", {}).keys() - {"every"}:
                raise ValueError(f"arms.{name}.settings.evaluation: all arms are evaluated alike, but for `every`")
        if own := sorted(_OF_THE_STUDY & self.base.keys()):
            raise ValueError(f"base has {own}, which the study sets itself")
        if not self.base.get("evaluation", {}).get("every"):
            raise ValueError("base.evaluation.every must be set: curves are made of held-out evaluations")
        played = {(key.env, key.arm) for key in self.every_run}
        for claim in self.claims:
            for env, terms in contrasts(claim):
                if missing := sorted(f"{of}/{arm}" for of, arm in terms if (of, arm) not in played):
                    raise ValueError(f"claim {claim.says!r}, {env}: no experiment plays {missing}")
        return self

    @property
    def folder(self) -> Path:
        """Where the study's runs are."""
        return self.runs / self.name

    @functools.cached_property
    def every_run(self) -> list[RunKey]:
        """All runs, each once, seed by seed: whenever the study is interrupted, the arms are about equally far."""
        seeds = max(experiment.seeds for experiment in self.experiments.values())
        keys = [
            RunKey(env, arm, seed)
            for seed in range(seeds)
            for experiment in self.experiments.values()
            if seed < experiment.seeds
            for env in experiment.envs
            for arm in experiment.arms
        ]
        return list(dict.fromkeys(keys))

    def seeds(self, env: str, arm: str) -> int:
        """With how many seeds an arm is played in an env."""
        return max(one.seeds for one in self.experiments.values() if env in one.envs and arm in one.arms)

    def start_folder(self, env: str, seed: int) -> Path:
        """The run that clones the policy that all arms begin at, and evaluates it."""
        return self.folder / "starts" / env / f"seed-{seed}"

    def run_folder(self, key: RunKey) -> Path:
        """A run's folder."""
        return self.folder / "runs" / key.env / key.arm / f"seed-{key.seed}"

    def start_settings(self, env: str, seed: int) -> dict[str, Any]:
        """Settings of that run: its only update is a warm-up, which leaves the policy as it was cloned."""
        changes = {"updates": 1, "rollout_steps": 1, "critic": {"warmup_updates": 1}, "evaluation": {"every": 1}}
        own = {"envs": [self.envs[env].model_dump()], "seed": seed, "run": str(self.start_folder(env, seed))}
        return merged(self.base, _ALWAYS, {"algorithm": "vl_dac"}, changes, own)

    def run_settings(self, key: RunKey) -> dict[str, Any]:
        """Settings of a run. Each update takes a step at least, so that the budget ends it."""
        arm, env = self.arms[key.arm], self.envs[key.env].model_dump()
        own: dict[str, Any] = {
            "envs": [env | ({} if arm.slots is None else {"slots": arm.slots})],
            "seed": key.seed,
            "run": str(self.run_folder(key)),
            "updates": self.budget,
            "max_env_steps": self.budget,
        }
        settings = merged(self.base, _ALWAYS, arm.settings, own)
        if settings.pop("clone", {}).get("updates"):
            start = self.start_folder(key.env, key.seed)
            settings = merged(settings, {"model": {"path": str(start / "checkpoints" / "000000" / "weights")}})
        return settings

    def check_settings(self) -> None:
        """Sees whether `overworld train` accepts the settings of all runs. Raises SettingsError."""
        arms = dict.fromkeys((key.env, key.arm) for key in self.every_run)
        ways = {f"{env}/{arm}": self.run_settings(RunKey(env, arm, 0)) for env, arm in arms}
        ways |= {f"the start in {env}": self.start_settings(env, 0) for env in self.envs}
        for name, settings in ways.items():
            try:
                TrainerConfig(**settings)
            except ValidationError as error:
                told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
                raise SettingsError(f"{name}: {told}") from None


Term = tuple[str, str]
"""(env, arm)."""


def contrasts(claim: Claim) -> Iterator[tuple[str, Mapping[Term, float]]]:
    """Where a claim is tested, and the weights of the terms there."""
    if claim.envs:
        for env in claim.envs:
            yield env, {(env, arm): weight for arm, weight in claim.contrast.items()}
    elif claim.contrast:
        terms = {(env, arm): weight for name, weight in claim.contrast.items() for env, _, arm in [name.partition("/")]}
        yield ", ".join(dict.fromkeys(env for env, _ in terms)), terms


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, each layer above the one before."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            below = result.get(name)
            result[name] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _require(known: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    if missing := sorted(set(names) - known.keys()):
        raise ValueError(f"{where}: there is no {missing}; there are {sorted(known)}")
