"""The env: ALFWorld's text games with a picture of what the agent sees."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

import PIL
from overworld.authoring.env import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Options, Transition
from PIL import features

from overworld_envs.alfworld.engine.engine import NOTHING_HAPPENS, Engine, Game
from overworld_envs.alfworld.engine.upstream import VERSIONS
from overworld_envs.alfworld.expert import advise
from overworld_envs.alfworld.games.library import GameError, GameFile, Library, library, open_game
from overworld_envs.alfworld.games.tasks import TASK_TYPES
from overworld_envs.alfworld.options import HouseholdOptions
from overworld_envs.alfworld.pictures.schematic import RENDERER, Schematic
from overworld_envs.alfworld.pictures.thor import Thor
from overworld_envs.alfworld.pictures.view import in_words, view
from overworld_envs.alfworld.progress import Progress
from overworld_envs.alfworld.reward import REWARDS, Turn

_GOAL = "Your task is to: "


class Household(Env):
    """Plays ALFWorld's games: their standard text, the admissible commands, and a picture called "view"."""

    options_model: ClassVar[type[Options]] = HouseholdOptions
    options: HouseholdOptions
    lists_admissible = True
    draws_on_demand = True
    games: ClassVar[Mapping[str, Sequence[GameFile]]]

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        reward = REWARDS[self.options.reward]
        self.spec = replace(
            type(self).spec,
            reward_min=reward.smallest,
            reward_max=reward.largest,
            provenance={**type(self).spec.provenance, "renderer": _RENDERERS[self.options.renderer]},
        )
        self._reward = reward.of
        self._engine = Engine()
        self._schematic = Schematic(self.options.size)
        self._thor = Thor() if self.options.renderer == "thor" else None
        self._goal = ""
        self._rate = 0.0
        self._file: GameFile
        self._progress: Progress
        self._images: tuple[Image, ...] = ()

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Starts game number `task` of the split. Raises GameError, which names the file, if the game is broken."""
        assert task is not None  # no split is endless
        file = self.games[split][task]
        text = self._engine.reset(_shared_game(file))
        self._file = file
        self._goal = _GOAL + text.rpartition(_GOAL)[2] if _GOAL in text else ""
        self._progress = Progress(file.task, self._engine.facts)
        self._rate = self._progress.rate(self._engine.facts)
        self._images = ()
        if self._thor is not None:
            self._thor.reset(file.path)
        return self._observe(text, changed=True, goal=False)

    def step(self, action: str) -> Transition:
        """Executes an admissible command."""
        before = self._rate
        text = self._engine.step(action)
        self._rate = self._progress.rate(self._engine.facts)
        if self._thor is not None:
            self._thor.step(self._engine.last_action)
        won = self._engine.won
        turn = Turn(won, self._rate, before, legal=True)
        observation = self._observe(text, changed=True)
        end = End.TASK if won else None
        return Transition(observation, self._reward(turn), end, True if won else None, self._metrics(legal=True))

    def skip(self, observation: Observation, metrics: Mapping[str, float]) -> Transition:
        """Answers an inadmissible command as upstream does: "Nothing happens.", and nothing does."""
        turn = Turn(False, self._rate, self._rate, legal=False)
        told = self._observe(NOTHING_HAPPENS, changed=False)
        return Transition(told, self._reward(turn), metrics=self._metrics(legal=False))

    def expert(self) -> Expert:
        """The first step of the shortest plan from here."""
        try:
            return advise(self._file.task, self._engine)
        except LookupError as error:
            raise GameError(f"{self._file.path}: {error}") from error

    def caption(self) -> str:
        """The view; of AI2-THOR's pictures, too, which show the same scene in more detail."""
        return in_words(view(self._engine.facts, self._engine.game.entities)) if self._images else ""

    def won(self) -> bool:
        """Whether the goal is met."""
        return self._engine.won

    def close(self) -> None:
        """Stops AI2-THOR if it is running."""
        if self._thor is not None:
            self._thor.close()

    def _metrics(self, *, legal: bool) -> dict[str, float]:
        return {"success": float(self._engine.won), "goal_condition_rate": self._rate, "legal": float(legal)}

    def _observe(self, text: str, *, changed: bool, goal: bool = True) -> Observation:
        """The picture, the engine's text, and the goal, which the engine states only at the start."""
        if changed:
            self._images = self._draw()
        texts = (text, self._goal) if goal and self._goal else (text,)
        return Observation((*self._images, *texts), self._engine.commands)

    def _draw(self) -> tuple[Image, ...]:
        if self._thor is not None:
            return (Image("view", self._thor.frame()),)
        if self.options.renderer == "none":
            return ()
        image = self._images[0] if self._images else None
        if image is None:
            image = Image("view", self.canvas("view", self.options.size, self.options.size))
        if self.pictures_wanted:
            self._schematic.draw(image.pixels, view(self._engine.facts, self._engine.game.entities))
        return (image,)


_RENDERERS = {"schematic": RENDERER, "thor": "AI2-THOR (experimental)", "none": "none"}

_open_games: WeakValueDictionary[Path, Game] = WeakValueDictionary()


def _shared_game(file: GameFile) -> Game:
    """The game, shared by all envs in this process that are playing it."""
    game = _open_games.get(file.path)
    if game is None:
        game = _open_games[file.path] = open_game(file)
    return game


def env_classes(library: Library) -> list[type[Household]]:
    """`alfworld/all` and one env per task type that has games."""
    provenance = {
        "games": f"{library.source}, {library.digest}",
        "rules": ", ".join(f"{name} {version}" for name, version in VERSIONS.items()),
        "pillow": f"{PIL.__version__}, FreeType {features.version('freetype2')}",
    }
    classes = []
    for name, types in (("all", TASK_TYPES), *((each, (each,)) for each in TASK_TYPES)):
        games = library.splits(types)
        if games:
            members = {"spec": _spec(name, games, provenance, library.source), "games": games, "__module__": __name__}
            classes.append(type(f"Household_{name}", (Household,), members))
    return classes


def _spec(name: str, games: Mapping[str, Sequence[GameFile]], provenance: Mapping[str, str], source: str) -> EnvSpec:
    return EnvSpec(
        id=f"alfworld/{name}",
        task=(
            "You are in a household and act by commands. The picture shows where you stand, what you see there and "
            "what you hold. To find a thing, go to where it may be and open what is closed; you can hold one thing. "
            "Things are cleaned at a sinkbasin, heated with a microwave and cooled with a fridge, and a lamp is turned "
            'on with "use".'
        ),
        success=f"The game's goal is met, as TextWorld's engine judges it. The games are {source} ones.",
        action=ActionSpec(max_text_bytes=128),
        reward_min=REWARDS["success"].smallest,
        reward_max=REWARDS["success"].largest,
        max_turns=HouseholdOptions().max_turns,
        splits={split: len(files) for split, files in games.items()},
        default_split=next(iter(games)),
        has_expert=True,
        provenance={**provenance, "renderer": RENDERER},
    )


@functools.cache
def all_envs() -> list[type[Household]]:
    """The envs for the games that this process is configured to play. Raises GameError if there are none."""
    return env_classes(library())
