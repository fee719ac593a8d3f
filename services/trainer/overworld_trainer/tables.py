"""Tables of episodes to look at: some of those that ended in an update's rollout, in the format of docs/episodes.md.

    <run>/episodes/update-000010/  after every `table.every` updates; one folder per env where there are several

Episodes are recorded as they are played, since one may take several rollouts. Those that were under way when a run was
resumed are not recorded: a checkpoint knows their actions, not the replies. Of several ranks the first one writes
tables, of episodes in its own slots.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from overworld import Reset
from overworld.authoring.env import Image
from overworld.errors import EvaluationError
from overworld.evaluation.episodes import ImageRecord, ModelRecord
from overworld.evaluation.folder import EpisodeWriter
from overworld.evaluation.recording import Recording, header_of

from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import Episodes, Played, Player
from overworld_trainer.folders import env_folders, update_folder
from overworld_trainer.ranks import Ranks
from overworld_trainer.seeds import derive

_logger = logging.getLogger(__name__)

_FOLDER = "episodes"
_MAX_BYTES = 256 << 20
"""Pictures of episodes under way that are kept in memory, at the end of a rollout."""


class _Watched:
    """An episode that is being recorded, and its pictures by their hash.

    place  (slot, number of the episode)
    """

    def __init__(self, player: Player, task: Reset) -> None:
        self.place = player.slot, player.episode
        self.recording = Recording(task, self._keep)
        self.images: dict[str, tuple[Image, ImageRecord]] = {}

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(record.size for _, record in self.images.values())

    def _keep(self, images: Sequence[Image], records: Sequence[ImageRecord]) -> None:
        for image, record in zip(images, records, strict=True):
            if record.xxh64 not in self.images:  # a copy: the pixels may be part of those of a whole fleet's step
                self.images[record.xxh64] = Image(image.name, image.pixels.copy(), image.xxh64), record


class Tables:
    """Records a run's episodes and writes some of them to its folder."""

    def __init__(self, config: TrainerConfig, episodes: Episodes, update: int, ranks: Ranks | None = None) -> None:
        self._config = config
        self._every = config.table.every if (ranks or Ranks()).first else 0
        self._episodes = episodes
        self._update = update
        self._watched: dict[Player, _Watched | None] = {}
        self._ended: dict[int, list[_Watched]] = {}
        self._warned = False
        for player in episodes.players if self._every else ():
            self._watched[player] = None
            if player.turn == 0:
                self._begin(player)

    def __repr__(self) -> str:
        return f"Tables({len(self._watched)} slots are watched, {self._update} updates)"

    def take(self, player: Player, reply: str, cut: bool, played: Played) -> None:
        """A player's reply and what came of it; the player has taken that in already."""
        watched = self._watched.get(player)
        if watched is not None:
            self._watched[player] = None
            with self._recording():
                watched.recording.decide(reply, player.conversation.read(reply), cut=cut, fingerprint=self._policy)
                watched.recording.advance(played.result)
                self._watched[player] = watched
            if watched.recording.episode is not None:
                self._end(player, watched)
        if player in self._watched and player.turn == 0:
            self._begin(player)

    def write(self) -> None:
        """A rollout has ended: writes its table, if it is due."""
        if self._due:
            env_ids = [env.id for env in self._config.envs]
            parent = update_folder(self._config.run / _FOLDER, self._update + 1)
            for env, folder in enumerate(env_folders(parent, env_ids)):
                with self._recording():
                    self._write(folder, env)
        self._ended.clear()
        self._make_room()
        self._update += 1

    @property
    def _due(self) -> bool:
        return self._every > 0 and (self._update + 1) % self._every == 0

    @property
    def _policy(self) -> str:
        """The weights that are playing. They have no digest unless they become a checkpoint."""
        return f"{self._config.run.name}@{self._update}"

    def _begin(self, player: Player) -> None:
        with self._recording():
            watched = _Watched(player, self._episodes.task(player))
            watched.recording.begin(player.result)
            self._watched[player] = watched

    def _end(self, player: Player, watched: _Watched) -> None:
        """Keeps an episode if its lot is among the least, which does not depend on the order in which they end."""
        self._watched[player] = None
        if self._due:
            ended = self._ended.setdefault(player.env, [])
            ended.append(watched)
            ended.sort(key=lambda one: derive(self._config.seed, "table", player.env, *one.place))
            del ended[self._config.table.episodes :]

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """What the format cannot hold is missing in the tables, with a warning; it is no reason to stop training."""
        try:
            yield
        except EvaluationError as error:
            if not self._warned:
                _logger.warning("tables of episodes lack what their format cannot hold: %s", error)
            self._warned = True

    def _write(self, folder: Path, env: int) -> None:
        fleet = next(player.fleet for player in self._episodes.players if player.env == env)
        model = ModelRecord(
            name=self._policy, temperature=self._config.temperature, max_tokens=self._config.max_new_tokens
        )
        with EpisodeWriter(folder, header_of(fleet, self._config.recipe, model), overwrite=True) as writer:
            for one in sorted(self._ended.get(env, ()), key=lambda one: one.place):
                for image, record in one.images.values():
                    writer.keep([image], [record])
                assert one.recording.episode is not None
                with self._recording():
                    writer.append(one.recording.episode)

    def _make_room(self) -> None:
        """Watches fewer slots if the pictures take too much memory. Not fewer of the long episodes: those that remain
        are as long as any.
        """
        sizes = {player: watched.size for player, watched in self._watched.items() if watched is not None}
        before, total = len(self._watched), sum(sizes.values())
        for player in sorted(sizes, key=lambda one: (one.slot, one.env), reverse=True):
            if total <= _MAX_BYTES:
                break
            total -= sizes[player]
            del self._watched[player]
        if len(self._watched) < before:
            _logger.warning(
                "the pictures of open episodes take more than %d MiB: only %d slots are watched for tables of episodes",
                _MAX_BYTES >> 20,
                len(self._watched),
            )
