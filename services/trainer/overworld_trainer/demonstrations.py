"""What is cloned: the experts of a run's envs as they play, or episodes on disk (docs/episodes.md)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from overworld import Act, EnvSpec, Result
from overworld.errors import SettingsError
from overworld.evaluation.conversation import Message, write_reply
from overworld.evaluation.episodes import Episode, Turn
from overworld.evaluation.folder import EpisodeFolder

from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import EnvError, Episodes, Player
from overworld_trainer.seeds import derive

_TEXT_BATCHES = 8
_BUFFER_BATCHES = 8
_LARGEST = 1e6
"""Of random numbers where there is no bound."""
"""Decisions on disk are shuffled within so many batches, and their episodes within all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """What the model saw and what it should have replied."""

    messages: list[Message]
    reply: str


class Demonstrations(AbstractContextManager["Demonstrations"], Protocol):
    """Endless demonstrations."""

    used_expert: bool
    """Whether an env's expert chose any of the actions."""

    @property
    def provenance(self) -> dict[str, dict[str, str]]:
        """Env id -> its provenance."""

    def batch(self) -> list[Demonstration]:
        """As many as the run has slots. Raises EnvError or EvaluationError."""


def open_demonstrations(config: TrainerConfig) -> Demonstrations:
    """Those that the settings name. Raises what `Episodes.open` raises, SettingsError and EvaluationError."""
    return RecordedDemonstrations.open(config) if config.clone.episodes else ExpertDemonstrations.open(config)


def texts(demonstrations: Demonstrations) -> list[str]:
    """Prompts and replies to train a tokenizer on."""
    batches = (demonstrations.batch() for _ in range(_TEXT_BATCHES))
    shown = [(*_texts(one.messages), one.reply) for batch in batches for one in batch]
    return list(itertools.chain.from_iterable(shown))


class ExpertDemonstrations(Demonstrations):
    """Demonstrations by the experts of a run's envs.

    The thoughts are the expert's; a share of its actions is replaced by random ones, so that the model learns the form
    and not the task. Where nothing of the expert's is used, since all actions are replaced and the recipe has no
    thoughts, envs need none.
    """

    def __init__(self, config: TrainerConfig, episodes: Episodes) -> None:
        self._config = config
        self._episodes = episodes
        self.used_expert = _asks_experts(config)

    @classmethod
    def open(cls, config: TrainerConfig) -> ExpertDemonstrations:
        """Takes slots on the env servers, for expert advice if it is used. Raises what `Episodes.open` raises."""

        def seed(env: int, slot: int, episode: int) -> int:
            return derive(config.seed, "clone", env, slot, episode)

        return cls(config, Episodes.open(config, seed, expert=_asks_experts(config)))

    def __exit__(self, *_: object) -> None:
        self._episodes.close()

    @property
    def provenance(self) -> dict[str, dict[str, str]]:
        """Env id -> its provenance."""
        return self._episodes.provenance

    def batch(self) -> list[Demonstration]:
        """One decision of every player. Raises EnvError."""
        demonstrations = []
        acts = {}
        for player in self._episodes.players:
            action, thoughts = self._advice(player)
            reply = write_reply(self._config.recipe, action, thoughts)
            demonstrations.append(Demonstration(messages=player.messages(), reply=reply))
            acts[player] = Act(player.fleet.spec.action.read(action), reply)
        self._episodes.send(acts)
        for played in self._episodes.receive_all().values():
            _require_ok(played.result)
        return demonstrations

    def _advice(self, player: Player) -> tuple[str, str]:
        """Action and thoughts for a player."""
        spec, result = player.fleet.spec, player.result
        if self.used_expert and result.expert is None:
            raise EnvError(f"{spec.id} gave no expert advice")
        names = "clone", player.env, player.slot, player.episode, player.turn
        rng = random.Random(derive(self._config.seed, *names))
        replaced = rng.random() < self._config.clone.random_actions
        if result.expert and not replaced:
            return result.expert.action, result.expert.thoughts
        return _drawn(spec, result, rng), result.expert.thoughts if result.expert else ""


class RecordedDemonstrations(Demonstrations):
    """Demonstrations from folders of episodes, each prompt as it was given, each reply as it was given.

    Left out are turns whose action was not executed and replies that were cut: they are no examples. Where a turn has
    an action and no reply (a person's, say), the reply is written as the recipe wants it.

    Which episodes are read, and where they stand, is found out once; they are read again as they are needed, one at a
    time, in another order each time around.
    """

    def __init__(
        self, config: TrainerConfig, places: Sequence[tuple[EpisodeFolder, int]], *, used_expert: bool
    ) -> None:
        self.used_expert = used_expert
        self._config = config
        self._places = places
        self._size = sum(env.slots for env in config.envs)
        self._random = random.Random(derive(config.seed, "clone", "batches"))
        self._stream = self._decisions()
        self._buffer: list[Demonstration] = []

    @classmethod
    def open(cls, config: TrainerConfig) -> RecordedDemonstrations:
        """Reads all episodes once. Raises SettingsError if there is nothing to learn from, and EvaluationError."""
        places, total, used_expert = [], 0, False
        for path in config.clone.episodes:
            folder = EpisodeFolder(path)
            if folder.header.recipe != config.recipe:
                raise SettingsError(
                    f"clone.episodes: the episodes in {path} were played with the recipe "
                    f"{folder.header.recipe.model_dump()}, the run's is {config.recipe.model_dump()}: set recipe to "
                    "theirs, since the model is to reply as they do"
                )
            for place, episode in folder.places():
                total += 1
                turns = [turn for turn in episode.turns if _teaches(turn)]
                if turns and _wanted(episode, config):
                    places.append((folder, place))
                    used_expert |= any(turn.actor == "expert" for turn in turns)
        if not places:
            raise SettingsError(
                f"clone.episodes: of {total} episodes, none is as clone.successful and clone.min_return want it and "
                "has a turn whose action was executed: name other folders, or lower these bounds"
            )
        return cls(config, places, used_expert=used_expert)

    def __exit__(self, *_: object) -> None:
        """Nothing is left open between two readings."""

    def __repr__(self) -> str:
        return f"RecordedDemonstrations({len(self._places)} episodes)"

    @property
    def provenance(self) -> dict[str, dict[str, str]]:
        """Env id -> its provenance; where folders differ in one, all values."""
        values: dict[str, dict[str, dict[str, None]]] = {}
        for folder in dict.fromkeys(folder for folder, _ in self._places):
            names = values.setdefault(folder.spec.id, {})
            for name, value in folder.spec.provenance.items():
                names.setdefault(name, {})[value] = None
        return {env: {name: ", ".join(given) for name, given in these.items()} for env, these in values.items()}

    def batch(self) -> list[Demonstration]:
        """Decisions drawn from those that were read last. Raises EvaluationError."""
        while len(self._buffer) < self._size * _BUFFER_BATCHES:
            self._buffer.append(next(self._stream))
        chosen = set(self._random.sample(range(len(self._buffer)), self._size))
        batch = [self._buffer[n] for n in sorted(chosen)]
        self._buffer = [one for n, one in enumerate(self._buffer) if n not in chosen]
        return batch

    def _decisions(self) -> Iterator[Demonstration]:
        """All decisions, again and again."""
        for epoch in itertools.count():
            order = list(self._places)
            random.Random(derive(self._config.seed, "clone", "epoch", epoch)).shuffle(order)
            for folder, place in order:
                for decision in folder.decisions(folder.at(place)):
                    if _teaches(decision.turn):
                        reply = _reply(decision.turn, self._config)
                        yield Demonstration(messages=decision.messages, reply=reply)


def _asks_experts(config: TrainerConfig) -> bool:
    return config.clone.random_actions < 1 or config.recipe.reply == "thoughts+action"


def _texts(messages: Sequence[Message]) -> list[str]:
    return [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]


def _drawn(spec: EnvSpec, result: Result, rng: random.Random) -> str:
    """A random action: one that is listed, or numbers within the bounds. Raises EnvError."""
    if spec.action.low is not None and spec.action.high is not None:
        bounds = zip(spec.action.low.flatten().tolist(), spec.action.high.flatten().tolist(), strict=True)
        return " ".join(_drawn_number(low, high, rng) for low, high in bounds)
    choices = result.observation.admissible or spec.action.vocabulary
    if not choices:
        raise EnvError(f"{spec.id} lists no actions to draw from: set clone.random_actions = 0")
    return rng.choice(choices)


def _drawn_number(low: float, high: float, rng: random.Random) -> str:
    """A number within bounds: a whole one where they are whole numbers, else with two decimals, as agents write."""
    if isinstance(low, int) and isinstance(high, int):
        return str(rng.randint(low, high))
    low, high = max(low, -_LARGEST), min(high, _LARGEST)
    return str(min(max(round(rng.uniform(low, high), 2), low), high))


def _wanted(episode: Episode, config: TrainerConfig) -> bool:
    clone = config.clone
    enough = clone.min_return is None or episode.total_reward >= clone.min_return
    return enough and (episode.success or not clone.successful)


def _teaches(turn: Turn) -> bool:
    """Whether a turn is an example to follow."""
    return turn.outcome == "executed" and not turn.cut and (bool(turn.reply) or isinstance(turn.action, str))


def _reply(turn: Turn, config: TrainerConfig) -> str:
    if turn.reply:
        return turn.reply
    assert isinstance(turn.action, str)
    return write_reply(config.recipe, turn.action, turn.thoughts)


def _require_ok(result: Result) -> None:
    if result.error is not None:
        raise EnvError(
            f"slot {result.slot} failed while the expert played: {result.error.reason}: {result.error.message}"
        )
