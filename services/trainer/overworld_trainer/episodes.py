"""Who plays: the slots of a run's env servers and the episodes in them. Nothing here knows of a model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from overworld import Act, End, EnvSpec, Fallback, Fleet, Reset, Result, open_registry
from overworld.authoring.env import Action
from overworld.client.counts import ByServer, Counts, together
from overworld.errors import OverworldError
from overworld.evaluation.blank import without_pictures
from overworld.evaluation.conversation import Conversation, Message

from overworld_trainer.config import EnvConfig, TrainerConfig
from overworld_trainer.ranks import Ranks

_MAX_RESETS = 3
_MAX_CALLS = 8
"""Calls to a fleet at a time, as many as it makes to a server."""

EpisodeSeed = Callable[[int, int, int], int]
"""(env, slot, number of the episode) -> the episode's seed."""

EpisodeReset = Callable[[int, int, int], Reset]
"""(env, slot, number of the episode) -> the move that begins it."""


JsonAction = str | list[Any] | float | None
"""A model's action as JSON: a text, a tensor's elements, or None."""


class EnvError(OverworldError):
    """An env server gave something that cannot be learnt from."""


class PlayerState(TypedDict):
    """Where a player is, as JSON: its episode's number, the actions in it (None: none was read), the reward so far."""

    episode: int
    actions: list[JsonAction]
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeStatistics:
    """A finished episode. `reward` is the undiscounted return."""

    env: int
    reward: float
    length: int
    success: bool
    end: End


@dataclass(eq=False, slots=True, kw_only=True)
class Player:
    """A slot of an env server and the episode that is played in it.

    env      number of the env in the settings
    slot     number among all of the env's slots, on whichever rank; with `env` and `episode` it names seeds and noise
    place    number within the fleet
    turn     moves made in this episode
    reward   sum of this episode's rewards
    result   the latest
    blank    whether white pictures are shown
    """

    env: int
    slot: int
    place: int
    fleet: Fleet
    conversation: Conversation
    result: Result
    episode: int = 0
    turn: int = 0
    actions: list[JsonAction] = field(default_factory=list)
    reward: float = 0.0
    blank: bool = False

    def messages(self) -> list[Message]:
        """The prompt for the next move."""
        return self.conversation.messages()

    def observe(self, result: Result) -> None:
        """Takes in a result."""
        self.conversation.observe(_shown(result, self.blank))
        self.result = result

    def __repr__(self) -> str:
        place = f"{self.fleet.spec.id}, slot {self.slot}"
        return f"Player({place}: episode {self.episode}, turn {self.turn}, reward {self.reward:g})"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Played:
    """What came of a move.

    turn        the move's number within its episode
    final       after a time limit: the prompt with the true final observation
    statistics  of the episode, if the move ended it
    """

    turn: int
    result: Result
    final: list[Message] | None = None
    statistics: EpisodeStatistics | None = None


_Arrived = dict[Player, tuple[Result, Result | None]]
"""Each player's result and, where its episode is over, the next episode's first."""


class _Outbox:
    """The moves that wait for a call to a fleet."""

    def __init__(self) -> None:
        self._acts: dict[Player, Act] = {}
        self._lock = threading.Lock()

    def put(self, acts: Mapping[Player, Act]) -> None:
        """Adds moves."""
        with self._lock:
            self._acts |= acts

    def take(self) -> dict[Player, Act]:
        """All moves that wait."""
        with self._lock:
            acts, self._acts = self._acts, {}
            return acts


class Episodes:
    """This rank's players of all of a run's envs. `state` and `open` take open episodes across a restart."""

    def __init__(
        self, fleets: Sequence[Fleet], players: Sequence[Player], reset: EpisodeReset, ranks: Ranks | None = None
    ) -> None:
        self.players = list(players)
        self._ranks = ranks or Ranks()
        self._fleets = list(fleets)
        self._reset = reset
        self._outboxes = [_Outbox() for _ in self._fleets]
        self._calls = [ThreadPoolExecutor(_MAX_CALLS, "play") for _ in self._fleets]
        self._arrived: queue.SimpleQueue[_Arrived | BaseException] = queue.SimpleQueue()
        self._moving = 0

    @classmethod
    def open(
        cls,
        config: TrainerConfig,
        seed: EpisodeSeed,
        state: Sequence[PlayerState] | None = None,
        *,
        expert: bool = False,
        ranks: Ranks | None = None,
    ) -> Episodes:
        """Takes slots on the env servers and brings every player to where `state` says; without it, to a first episode.

        `expert` asks the envs for their experts' advice. With several `ranks`, this one takes its share of the slots;
        `state` is that of all. Raises EnvError and what `Fleet` raises.
        """
        ranks = ranks or Ranks()
        shares = [ranks.share(env.slots) for env in config.envs]

        def reset(env: int, slot: int, episode: int) -> Reset:
            return Reset(seed(env, slot, episode), config.envs[env].split)

        with contextlib.ExitStack() as opened:
            fleets = [
                opened.enter_context(_open_fleet(config, env, len(share), expert))
                for env, share in zip(config.envs, shares, strict=True)
            ]
            players = _restore(fleets, shares, config, reset, state)
            opened.pop_all()
        return cls(fleets, players, reset, ranks)

    def __enter__(self) -> Episodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        slots = Counter(player.fleet.spec.id for player in self.players)
        return f"Episodes({', '.join(f'{count} of {env}' for env, count in slots.items())})"

    def close(self) -> None:
        """Gives the slots back."""
        for calls in self._calls:
            calls.shutdown()
        for fleet in self._fleets:
            fleet.close()

    @property
    def provenance(self) -> dict[str, dict[str, str]]:
        """Env id -> its provenance."""
        return {fleet.spec.id: dict(fleet.spec.provenance) for fleet in self._fleets}

    @property
    def reward_scales(self) -> list[float]:
        """Size of the rewards of each env; see `EnvSpec.reward_scale`."""
        return [fleet.spec.reward_scale for fleet in self._fleets]

    def state(self) -> list[PlayerState]:
        """What `open` needs to bring every player, of all ranks, back to where it is. All of them must ask for it."""
        own = [
            (one.env, one.slot, {"episode": one.episode, "actions": one.actions, "reward": one.reward})
            for one in self.players
        ]
        gathered = [entry for part in self._ranks.gather(json.dumps(own).encode()) for entry in json.loads(part)]
        return [state for _, _, state in sorted(gathered, key=lambda entry: entry[:2])]

    def counts(self) -> ByServer:
        """What became of all commands, on all ranks. All of them must ask for it."""
        own = {
            address: counts.to_json() for address, counts in together(fleet.counts for fleet in self._fleets).items()
        }
        parts = [json.loads(part) for part in self._ranks.gather(json.dumps(own).encode())]
        return together({address: Counts(**counts) for address, counts in part.items()} for part in parts)

    def task(self, player: Player) -> Reset:
        """The move that began a player's episode."""
        return self._reset(player.env, player.slot, player.episode)

    def send(self, acts: Mapping[Player, Act]) -> None:
        """Sends moves and returns at once. Where a move ends an episode, the next one is begun.

        While a fleet has as many calls under way as it may, moves wait, and go together with the next call.
        """
        for fleet, outbox, calls in zip(self._fleets, self._outboxes, self._calls, strict=True):
            share = {player: act for player, act in acts.items() if player.fleet is fleet}
            for player, act in share.items():
                player.actions.append(_as_json(act.action))
            if share:
                self._moving += len(share)
                outbox.put(share)
                calls.submit(self._call, fleet, outbox)

    def receive(self, *, wait: bool, timeout: float | None = None) -> dict[Player, Played]:
        """The results that have arrived; with `wait`, at least one, unless none arrives within `timeout` seconds.

        Raises EnvError if no new episode can be begun, and what `Fleet` raises.
        """
        played: dict[Player, Played] = {}
        while self._moving and (not self._arrived.empty() or (wait and not played)):
            try:
                arrived = self._arrived.get(timeout=timeout)
            except queue.Empty:
                break
            if isinstance(arrived, BaseException):
                raise arrived
            self._moving -= len(arrived)
            played |= {player: self._advance(player, *results) for player, results in arrived.items()}
        return played

    def receive_all(self) -> dict[Player, Played]:
        """The results of all moves under way; raises what `receive` raises."""
        played: dict[Player, Played] = {}
        while self._moving:
            played |= self.receive(wait=True)
        return played

    def _call(self, fleet: Fleet, outbox: _Outbox) -> None:
        """On a thread of the fleet's: plays the moves that wait, unless an earlier call has taken them along."""
        acts = outbox.take()
        try:
            if acts:
                self._arrived.put(self._play(fleet, acts))
        except BaseException as error:  # it is raised where the results are waited for
            self._arrived.put(error)

    def _play(self, fleet: Fleet, acts: Mapping[Player, Act]) -> _Arrived:
        """Moves the players and begins the next episode of those whose episode is over."""
        played = {result.slot: result for result in fleet.step({player.place: act for player, act in acts.items()})}
        over = {
            player.place: self._reset(player.env, player.slot, player.episode + 1)
            for player in acts
            if played[player.place].end or played[player.place].error
        }
        fresh = {result.slot: result for result in fleet.step(over)} if over else {}
        return {player: (played[player.place], fresh.get(player.place)) for player in acts}

    def _advance(self, player: Player, result: Result, fresh: Result | None) -> Played:
        turn, final, statistics = player.turn, None, None
        player.reward += result.reward
        player.turn += 1
        if result.end is not None:
            if result.end is End.TIME_LIMIT:
                player.observe(result)
                final = player.messages()
            statistics = EpisodeStatistics(
                env=player.env,
                reward=player.reward,
                length=player.turn,
                success=bool(result.success),
                end=result.end,
            )
        player.observe(result if fresh is None else self._begin(player, fresh))
        return Played(turn=turn, result=result, final=final, statistics=statistics)

    def _begin(self, player: Player, fresh: Result) -> Result:
        """The player's next episode has begun; if its reset failed, the one after is tried."""
        for attempt in range(_MAX_RESETS):
            if attempt:
                reset = self._reset(player.env, player.slot, player.episode + 1)
                (fresh,) = player.fleet.step({player.place: reset})
            player.episode, player.turn, player.actions, player.reward = player.episode + 1, 0, [], 0.0
            if fresh.error is None:
                return fresh
        raise EnvError(f"{player.fleet.spec.id}: {_MAX_RESETS} episodes in a row could not be started: {fresh.error}")


def _shown(result: Result, blank: bool) -> Result:
    """A result as the model is shown it."""
    return dataclasses.replace(result, observation=without_pictures(result.observation)) if blank else result


def _as_json(action: Action | None) -> JsonAction:
    """An action as a model names it: in words, or as a tensor."""
    if isinstance(action, np.ndarray):
        elements: JsonAction = action.tolist()
        return elements
    assert action is None or isinstance(action, str), "a model names no indices"
    return action


def _from_json(action: JsonAction, spec: EnvSpec) -> Action | None:
    if action is None or isinstance(action, str):
        return action
    assert spec.action.low is not None, "tensors are actions of envs that take them"
    return np.array(action, spec.action.low.dtype)


def _open_fleet(config: TrainerConfig, env: EnvConfig, slots: int, expert: bool) -> Fleet:
    """Slots for one of the run's envs."""
    return Fleet(
        open_registry(config.servers, config.credentials),
        env.id,
        slots,
        credentials=config.credentials,
        options=env.options,
        fallback=Fallback.SKIP,
        fallback_reward=env.fallback_reward,
        expert=expert,
        retry_budget=config.retry_budget,
    )


def _restore(
    fleets: Sequence[Fleet],
    shares: Sequence[range],
    config: TrainerConfig,
    reset: EpisodeReset,
    state: Sequence[PlayerState] | None,
) -> list[Player]:
    """Players in the episodes that `state` describes; without a state, at the start of their first ones.

    The actions are replayed one by one, not as a prefix, since the prompt may show several turns. Raises EnvError.
    """
    slots = [(env, slot) for env, settings in enumerate(config.envs) for slot in range(settings.slots)]
    state = state or [{"episode": 0, "actions": [], "reward": 0.0} for _ in slots]
    if len(state) != len(slots):
        raise EnvError(
            f"the checkpoint knows {len(state)} slots, the settings ask for {len(slots)}: give each env as many as it "
            "had, or choose another run folder"
        )
    entries = [(env, slot, entry) for (env, slot), entry in zip(slots, state, strict=True) if slot in shares[env]]
    moves = [
        [reset(env, slot, entry["episode"]), *(_from_json(action, fleets[env].spec) for action in entry["actions"])]
        for env, slot, entry in entries
    ]
    conversations = [Conversation(fleets[env].spec, config.recipe) for env, _, _ in entries]
    latest: dict[int, Result] = {}
    for turn in range(max(map(len, moves))):
        for env, (fleet, share) in enumerate(zip(fleets, shares, strict=True)):
            here = {
                slot - share.start: n for n, (of, slot, _) in enumerate(entries) if of == env and turn < len(moves[n])
            }
            for result in fleet.step({place: moves[n][turn] for place, n in here.items()}) if here else ():
                n = here[result.slot]
                if result.error or result.end:
                    verb = "replayed" if entries[n][2]["actions"] else "started"
                    raise EnvError(f"{fleet.spec.id}: an episode could not be {verb}: {result.error or result.end}")
                conversations[n].observe(_shown(result, config.blank_frames))
                latest[n] = result
    return [
        Player(
            env=env,
            slot=slot,
            place=slot - shares[env].start,
            fleet=fleets[env],
            conversation=conversations[n],
            result=latest[n],
            episode=entry["episode"],
            turn=len(entry["actions"]),
            actions=list(entry["actions"]),
            reward=entry["reward"],
            blank=config.blank_frames,
        )
        for n, (env, slot, entry) in enumerate(entries)
    ]
