"""`overworld branch FOLDER episode=7 turn=12 model=NAME,...`: how it goes on from any turn of a kept episode."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from overworld.commands.model_settings import ModelSettings
from overworld.errors import EvaluationError, SettingsError
from overworld.evaluation.baselines import ExpertAgent, RandomAgent
from overworld.evaluation.branching import Branching, Outlook, Point
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.episodes import Episode
from overworld.evaluation.folder import EpisodeFolder
from overworld.evaluation.model import Agent
from overworld.evaluation.suite import Suite
from overworld.registry import open_registry
from overworld.service.extras import needs_extra

with needs_extra("eval"):
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress
    from rich.table import Table

_EXPERT, _RANDOM = "expert", "random"


def _words(value: Any) -> Any:
    """Names, with commas or as a list."""
    words = value if isinstance(value, list) else [value]
    return [name for word in words for name in str(word).split(",") if name]


class BranchConfig(ModelSettings):
    """Takes up a kept episode where one of its turns is to be decided, and has agents play on from there.

    What led there is replayed and compared with the record first. The model server's key is taken from OPENAI_API_KEY.
    """

    positional: ClassVar[tuple[str, ...]] = ("folder",)

    folder: Path = Field(description="folder of episodes: of an evaluation, or of a training run's tables")
    episode: int = Field(ge=0, description="its line in episodes.jsonl, from 0")
    turn: int = Field(ge=0, description="its turn, from 0: what was decided there is decided again")
    model: Annotated[list[str], BeforeValidator(_words)] = Field(
        min_length=1, description="names of models at their server, with commas; expert and random are baselines"
    )
    times: int = Field(default=32, ge=1, description="how often each plays on; the expert does so once")
    temperature: float = Field(default=1.0, ge=0, description="of sampling; 0 is greedy, and then times is 1")
    slots: int = Field(default=32, ge=1, description="episodes played at once")
    keep: Path | None = Field(default=None, description="folder to keep the new episodes in")
    overwrite: bool = Field(default=False, description="delete what the folder holds of the same agents, if any")
    json_file: Path | None = Field(default=None, alias="json", description="file to write the figures to")


def main(arguments: Sequence[str]) -> int:
    """Branches and prints how often each agent succeeds."""
    config = BranchConfig.load(arguments, "overworld branch")
    if config.temperature == 0 and config.times > 1:
        raise SettingsError(f"times: at temperature 0 all {config.times} would be the same: set times=1 or temperature")
    try:
        with ExitStack() as stack:
            figures = _branch(config, stack)
    except OSError as error:
        raise EvaluationError(f"the episodes cannot be read, or the new ones not be kept: {error}") from None
    _print(figures)
    if config.json_file is not None:
        try:
            config.json_file.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise SettingsError(f"json: {config.json_file} cannot be written: {error}") from None
    return 0


def _branch(config: BranchConfig, stack: ExitStack) -> dict[str, Any]:
    """The figures of all agents, as JSON."""
    folder = EpisodeFolder(config.folder)
    branching = stack.enter_context(
        Branching(
            folder,
            open_registry(config.servers, config.credentials),
            min(config.slots, max(_times(config, name) for name in config.model)),
            expert=_EXPERT in config.model,
            credentials=config.credentials,
            compress=config.compress,
            timeout=config.timeout,
        )
    )
    point = branching.point(config.episode, config.turn)
    suite = None if config.keep is None else Suite(config.keep)
    figures: dict[str, dict[str, Any]] = {}
    for name, agent, recipe in _agents(config, folder, stack):
        times = _times(config, name)
        with _progress(f"{name} from {point}", times) as on_progress:
            (outlook,) = branching.play(
                agent,
                [point],
                times=times,
                recipe=recipe,
                keep=None if suite is None else suite.folder(folder.spec.id, name),
                overwrite=config.overwrite,
                on_progress=on_progress,
            )
        figures[name] = _figures(outlook)
    return {
        "folder": str(config.folder),
        "env": folder.spec.id,
        "episode": point.number,
        "turn": point.turn,
        "seed": point.episode.seed,
        "frames_compared": branching.frames_comparable,
        "temperature": config.temperature,
        "recorded": _figures(Outlook([_rest(point)])),
        "agents": figures,
    }


def _times(config: BranchConfig, name: str) -> int:
    """How often an agent plays on: the expert would do the same each time."""
    return 1 if name == _EXPERT else config.times


def _agents(config: BranchConfig, folder: EpisodeFolder, stack: ExitStack) -> Iterator[tuple[str, Agent, Recipe]]:
    """Each agent once, with the recipe of its prompts."""
    known = set()
    for word in config.model:
        for name in [word] if word in (_EXPERT, _RANDOM) else config.names_of(word):
            if name in known:
                continue
            known.add(name)
            if name == _EXPERT:
                yield name, ExpertAgent(folder.spec), folder.header.recipe
            elif name == _RANDOM:
                yield name, RandomAgent(folder.spec), folder.header.recipe
            else:
                model = stack.enter_context(config.open_model(name))
                yield name, model, config.recipe or model.recipe() or folder.header.recipe


def _rest(point: Point) -> Episode:
    """What was recorded from the point on."""
    return point.episode.model_copy(update={"turns": point.episode.turns[point.turn :]})


def _figures(outlook: Outlook) -> dict[str, Any]:
    episodes = outlook.episodes
    turns = [turn for episode in episodes for turn in episode.turns]
    return {
        "times": len(episodes),
        "success": asdict(outlook.success),
        "return": asdict(outlook.value()),
        "length": len(turns) / len(episodes),
        "invalid_replies": sum(turn.outcome in ("no_action", "not_admissible") for turn in turns) / max(len(turns), 1),
        "ends": dict(Counter(episode.end or "ERROR" for episode in episodes)),
        "fingerprints": sorted({turn.fingerprint for turn in turns if turn.fingerprint}),
    }


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(escape(title), total=total)
        yield lambda done: progress.update(bar, completed=done)


def _print(figures: dict[str, Any]) -> None:
    frames = "" if figures["frames_compared"] else ", but for frames, which this server's renderer may draw otherwise"
    title = f"from turn {figures['turn']} of episode {figures['episode']} (seed {figures['seed']}) of {figures['env']}"
    table = Table("agent", "times", "success", "95 %", "return from there (95 %)", "length", "invalid", title=title)
    for name, one in {"as recorded": figures["recorded"], **figures["agents"]}.items():
        success, value, several = one["success"], one["return"], one["times"] > 1
        table.add_row(
            escape(name),
            str(one["times"]),
            f"{success['value']:.3f}",
            f"{success['low']:.3f} to {success['high']:.3f}" if several else "",
            f"{value['value']:.3f}" + (f" ({value['low']:.3f} to {value['high']:.3f})" if several else ""),
            f"{one['length']:.1f}",
            f"{one['invalid_replies']:.1%}",
        )
    console = Console()
    console.print(table)
    console.print(f"what led there was replayed and is as recorded{frames}", markup=False, highlight=False)
