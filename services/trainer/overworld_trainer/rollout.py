"""Collecting experience: slots of env servers on one side, the model on the other.

Two groups of slots alternate: while the simulators of one step, the model writes the replies of the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from overworld import Act, End, Fallback, Fleet, Outcome, Reset, Result, open_registry
from overworld.errors import OverworldError
from overworld.evaluation.conversation import Conversation, Message
from overworld_vlm.batch import Prompt, encode
from overworld_vlm.engine import Engine, Request
from overworld_vlm.load import VLM
from overworld_vlm.score import prefill_features
from torch import Tensor

from overworld_trainer.config import EnvConfig, TrainerConfig
from overworld_trainer.seeds import episode_seed

_MAX_RESETS = 3
_PENALTY = -1.0

ValueFunction = Callable[[Tensor], Tensor]
"""Features fp32 [B, features] -> values fp32 [B]."""


class EnvError(OverworldError):
    """An env server gave what training cannot go on with."""


@dataclass(eq=False, slots=True)
class Step:
    """One decision: a prompt, the reply of T tokens, and what came of it.

    reply     int64 [T], EOS included unless it was cut
    logps     fp32 [T], of the sampler
    features  fp32 [features], of the prompt
    thinking  tokens before the one in which the action's key begins; all T if there is none
    final     the prompt after a time limit, with the true final observation
    """

    env: int
    turn: int
    prompt: Prompt
    reply: Tensor
    logps: Tensor
    features: Tensor
    thinking: int
    cut: bool
    reward: float = 0.0
    end: End | None = None
    outcome: Outcome | None = None
    failed: bool = False
    final: Prompt | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode. `reward` is the undiscounted return."""

    env: int
    reward: float
    length: int
    success: bool
    end: End


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """N slots times T steps. The tensors are [N, T]; see `advantages.gae` for their meaning.

    `valid` is False where a step failed inside a server: it has no outcome and is not learnt from.
    """

    steps: list[list[Step]]
    valid: Tensor
    rewards: Tensor
    values: Tensor
    next_values: Tensor
    bootstraps: Tensor
    continues: Tensor
    episodes: list[Episode]
    seconds_waiting: float
    seconds_writing: float


@dataclass(eq=False, slots=True)
class _Slot:
    """A slot of an env server and the episode that it plays."""

    env: int
    index: int  # within its fleet
    fleet: Fleet
    conversation: Conversation
    prompt: Prompt
    episode: int = 0
    turn: int = 0
    actions: list[str | None] = field(default_factory=list)
    reward: float = 0.0
    step: Step | None = None  # waits for its result


@dataclass(eq=False, slots=True)
class _Group:
    """Slots whose replies are written together."""

    slots: list[_Slot]
    playing: list[tuple[Fleet, Future[tuple[dict[int, Result], dict[int, Result]]]]] = field(default_factory=list)


def open_fleet(config: TrainerConfig, env: EnvConfig, *, expert: bool = False) -> Fleet:
    """Slots for one of the run's envs."""
    return Fleet(
        open_registry(config.servers),
        env.id,
        env.slots,
        token=config.token,
        options=env.options,
        fallback=Fallback.SKIP,
        fallback_reward=env.fallback_reward,
        expert=expert,
        retry_budget=config.retry_budget,
    )


class Collector:
    """Plays all of a run's envs with the model. `state` and `restore` take open episodes across a restart."""

    def __init__(self, config: TrainerConfig, vlm: VLM) -> None:
        self._config = config
        self._vlm = vlm
        self._engine = Engine(vlm, max_batch=config.max_batch, value_input=config.critic.input)
        self._fleets = [open_fleet(config, env) for env in config.envs]
        self._calls = ThreadPoolExecutor(2 * len(self._fleets), "play")
        self._slots: list[_Slot] = []
        self._episodes: list[Episode] = []
        self._seconds_waiting = 0.0

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.shutdown()
        for fleet in self._fleets:
            fleet.close()

    @property
    def provenance(self) -> dict[str, dict[str, str]]:
        """Env id -> its provenance."""
        return {fleet.spec.id: dict(fleet.spec.provenance) for fleet in self._fleets}

    @property
    def reward_scales(self) -> list[float]:
        """Size of the rewards of each env, as its spec states them; 1 if it does not."""
        return [max(abs(fleet.spec.reward_min), abs(fleet.spec.reward_max)) or 1.0 for fleet in self._fleets]

    def state(self) -> list[dict[str, Any]]:
        """Where each slot is, as JSON: the number of its episode, the actions in it, the reward so far."""
        return [{"episode": slot.episode, "actions": slot.actions, "reward": slot.reward} for slot in self._slots]

    def restore(self, state: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Brings every slot to where it was; without a state, to the start of its first episode.

        The actions are replayed one by one, not as a prefix, since the prompt may show several turns. Raises EnvError.
        """
        places = [(env, index) for env, fleet in enumerate(self._fleets) for index in range(len(fleet))]
        state = state or [{"episode": 0, "actions": [], "reward": 0.0}] * len(places)
        if len(state) != len(places):
            raise EnvError(f"the checkpoint knows {len(state)} slots, the settings ask for {len(places)}")
        moves = [
            [Reset(self._seed(env, index, entry["episode"]), self._config.envs[env].split), *entry["actions"]]
            for (env, index), entry in zip(places, state, strict=True)
        ]
        conversations = [Conversation(self._fleets[env].spec, self._config.recipe) for env, _ in places]
        for turn in range(max(map(len, moves))):
            for env, fleet in enumerate(self._fleets):
                here = {place[1]: n for n, place in enumerate(places) if place[0] == env and turn < len(moves[n])}
                for result in fleet.step({index: moves[n][turn] for index, n in here.items()}) if here else ():
                    if result.error or result.end:
                        raise EnvError(
                            f"{fleet.spec.id}: an episode could not be replayed: {result.error or result.end}"
                        )
                    conversations[here[result.slot]].observe(result)
        self._slots = [
            _Slot(
                env,
                index,
                self._fleets[env],
                conversation,
                self._encode(conversation),
                entry["episode"],
                len(entry["actions"]),
                list(entry["actions"]),
                entry["reward"],
            )
            for (env, index), conversation, entry in zip(places, conversations, state, strict=True)
        ]
        # Neighbouring slots are on different workers, so each half of a fleet keeps all of them busy.
        halves = [
            [slot for slot in self._slots if (slot.index < len(slot.fleet) // 2) is first] for first in (True, False)
        ]
        self._groups = [_Group(half) for half in halves]

    def collect(self, steps: int, value: ValueFunction) -> Rollout:
        """Plays `steps` steps in every slot. Episodes go on across the border to the next rollout."""
        started = time.perf_counter()
        self._episodes, self._seconds_waiting = [], 0.0
        rows: dict[_Slot, list[Step]] = {slot: [] for slot in self._slots}
        for _ in range(steps):
            for group in self._groups:
                self._receive(group)
                self._act(group)
                for slot in group.slots:
                    assert slot.step is not None
                    rows[slot].append(slot.step)
        for group in self._groups:
            self._receive(group)
        if all(step.failed for row in rows.values() for step in row):
            raise EnvError("every step of the rollout failed inside the env servers; their logs say why")
        rollout = self._evaluate(rows, value)
        writing = time.perf_counter() - started - self._seconds_waiting
        return Rollout(*rollout, self._episodes, self._seconds_waiting, writing)

    def _act(self, group: _Group) -> None:
        """Writes the replies of a group and sends its moves."""
        requests = [
            Request(
                slot.prompt,
                self._config.max_new_tokens,
                key=(self._config.seed, slot.env, slot.index, slot.episode, slot.turn),
                temperature=self._config.temperature,
            )
            for slot in group.slots
        ]
        self._engine.run(requests)
        moves: dict[Fleet, dict[int, Act]] = {}
        for slot, request in zip(group.slots, requests, strict=True):
            text = self._vlm.tokenizer.decode(request.tokens, skip_special_tokens=True)
            action = slot.conversation.read(text).action
            moves.setdefault(slot.fleet, {})[slot.index] = Act(action, reply=text)
            slot.actions.append(action)
            assert request.features is not None
            slot.step = Step(
                slot.env,
                slot.turn,
                slot.prompt,
                torch.tensor(request.tokens),
                torch.tensor(request.logps),
                request.features,
                self._thinking(request.tokens),
                request.finish == "length",
            )
        for fleet, acts in moves.items():
            resets = {
                slot.index: Reset(self._seed(slot.env, slot.index, slot.episode + 1), self._config.envs[slot.env].split)
                for slot in group.slots
                if slot.fleet is fleet
            }
            group.playing.append((fleet, self._calls.submit(_play, fleet, acts, resets)))

    def _receive(self, group: _Group) -> None:
        """Waits for the results of a group's moves."""
        started = time.perf_counter()
        results = {}
        for fleet, future in group.playing:
            played, fresh = future.result()
            results.update({(fleet, index): (result, fresh.get(index)) for index, result in played.items()})
        group.playing.clear()
        self._seconds_waiting += time.perf_counter() - started
        for slot in group.slots if results else ():
            self._finish_step(slot, *results[slot.fleet, slot.index])

    def _finish_step(self, slot: _Slot, result: Result, fresh: Result | None) -> None:
        step = slot.step
        assert step is not None
        step.reward, step.end, step.outcome, step.failed = result.reward, result.end, result.outcome, bool(result.error)
        slot.reward += result.reward
        slot.turn += 1
        if result.end is not None:
            if result.end is End.TIME_LIMIT:
                slot.conversation.observe(result)
                step.final = self._encode(slot.conversation)
            self._episodes.append(Episode(slot.env, slot.reward, slot.turn, bool(result.success), result.end))
        if fresh is not None:
            result = self._started(slot, fresh)
        slot.conversation.observe(result)
        slot.prompt = self._encode(slot.conversation)

    def _started(self, slot: _Slot, fresh: Result) -> Result:
        """The slot's next episode has begun; if its reset failed, the one after is tried."""
        for attempt in range(_MAX_RESETS):
            if attempt:
                seed = self._seed(slot.env, slot.index, slot.episode + 1)
                (fresh,) = slot.fleet.step({slot.index: Reset(seed, self._config.envs[slot.env].split)})
            slot.episode, slot.turn, slot.actions, slot.reward = slot.episode + 1, 0, [], 0.0
            if fresh.error is None:
                return fresh
        raise EnvError(f"{slot.fleet.spec.id}: {_MAX_RESETS} episodes in a row could not be started: {fresh.error}")

    def _evaluate(
        self, rows: Mapping[_Slot, list[Step]], value: ValueFunction
    ) -> tuple[list[list[Step]], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Values of all states, and what the advantages need besides. The rows go on from `slot.prompt`."""
        steps = list(rows.values())
        valid = torch.tensor([[not step.failed for step in row] for row in steps])
        ends = [[step.end for step in row] for row in steps]
        over = torch.tensor([[end is not None for end in row] for row in ends])
        limit = torch.tensor([[end is End.TIME_LIMIT for end in row] for row in ends])
        rewards = torch.tensor([[step.reward for step in row] for row in steps], dtype=torch.float64)
        bootstraps = ~over | limit
        if self._config.time_limit == "penalty":
            bootstraps = ~over
            rewards = rewards + _PENALTY * limit
        after = [[step.final for step in row] for row in steps]
        for row, slot in zip(after, rows, strict=True):
            row[-1] = row[-1] or slot.prompt
        prompts = [prompt for row in after for prompt in row if prompt is not None]
        features = prefill_features(self._vlm, prompts, self._config.critic.input, self._config.policy.microbatch)
        with torch.no_grad():
            values = value(torch.stack([step.features for row in steps for step in row])).reshape(valid.shape).double()
            prompt_values = iter(value(features).tolist())
        next_values = values.roll(-1, 1)
        for n, row in enumerate(after):
            for t, prompt in enumerate(row):
                if prompt is not None:
                    next_values[n, t] = next(prompt_values)
        # After a failed step a new episode has begun, and before it there is no advantage to take over.
        continues = ~over & valid & valid.roll(-1, 1)
        continues[:, -1] = False
        return steps, valid, rewards, values, next_values, bootstraps, continues

    def _encode(self, conversation: Conversation) -> Prompt:
        return encode(self._vlm, as_arrays(conversation.messages()))

    def _seed(self, env: int, slot: int, episode: int) -> int:
        return episode_seed(self._config.seed, env, slot, episode)

    def _thinking(self, tokens: Sequence[int]) -> int:
        """Tokens before the one in which "action" begins, counted in the tokenizer's byte-level pieces."""
        pieces = self._vlm.tokenizer.convert_ids_to_tokens(tokens)
        at = "".join(pieces).rfind('"action"')
        if at < 0:
            return len(tokens)
        length = 0
        for index, piece in enumerate(pieces):
            length += len(piece)
            if length > at:
                return index
        return len(tokens)


def as_arrays(messages: Sequence[Message]) -> list[Message]:
    """The messages with plain pixel arrays, as the model takes them."""
    return [
        {
            **message,
            "content": [
                {"type": "image", "image": part["image"].pixels} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def _play(
    fleet: Fleet, acts: Mapping[int, Act], resets: Mapping[int, Reset]
) -> tuple[dict[int, Result], dict[int, Result]]:
    """Moves slots, and resets those whose episode is over: both results by slot."""
    played = {result.slot: result for result in fleet.step(acts)}
    over = {slot: resets[slot] for slot, result in played.items() if result.end or result.error}
    fresh = {result.slot: result for result in fleet.step(over)} if over else {}
    return played, fresh
