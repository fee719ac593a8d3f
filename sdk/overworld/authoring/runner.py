"""Plays one `Env` under the host's rules: admissibility, fallback, limit of turns, choice of task.

`overworld.make` hands out a Runner for use in process; the host has one for each slot.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from overworld.authoring.concurrency import Concurrency, concurrency, drive, resolved, wait_for
from overworld.authoring.env import Action, End, Env, Expert, Observation, Outcome
from overworld.errors import ContractError, Reason


class Fallback(enum.IntEnum):
    """What happens to an action that cannot be executed; numbers as in the contract."""

    SKIP = 1
    RANDOM = 2


@dataclass(frozen=True, slots=True)
class SlotError:
    """Why a slot failed."""

    reason: str
    message: str
    reset_helps: bool = True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, repr=False)
class Result:
    """What a reset or an action gave: the contract's SlotResult. In process `micros` is 0.

    All fields are keywords.
    """

    slot: int
    episode: int
    turn: int
    observation: Observation = field(default_factory=Observation)
    reward: float = 0.0
    end: End | None = None
    success: bool | None = None
    outcome: Outcome | None = None
    executed: Action | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    expert: Expert | None = None
    micros: int = 0
    error: SlotError | None = None
    pending: bool = False

    def __repr__(self) -> str:
        shown = [f"slot={self.slot}", f"episode={self.episode}", f"turn={self.turn}"]
        if self.pending:
            shown.append("pending")
        elif self.error is not None:
            shown.append(f"error={self.error.reason}")
        else:
            shown += [f"reward={self.reward:g}", f"observation={self.observation!r}"]
            if self.executed is not None:
                shown.append(f"executed={self.executed!r}")
            if self.end is not None:
                shown += [f"end={self.end.name}", f"success={self.success}"]
        return f"Result({', '.join(shown)})"

    @property
    def terminated(self) -> bool:
        """Gymnasium's flag: the episode ended in a state of the task."""
        return self.end is End.TASK

    @property
    def truncated(self) -> bool:
        """Gymnasium's flag: the episode was cut off."""
        return self.end is End.RULE or self.end is End.TIME_LIMIT


class Runner:
    """Runs one env, one episode after another.

    With `fallback` SKIP an action that cannot be executed leaves the simulator as it is and earns `fallback_reward`;
    with RANDOM an admissible one is drawn from the episode's seed and the turn; where none is listed, it is skipped.

    `areset` and `astep` are for callers with an event loop. Where methods of the env are coroutine functions, `reset`
    and `step` run them on an event loop in the background.
    """

    def __init__(
        self,
        env: Env,
        *,
        fallback: Fallback = Fallback.SKIP,
        fallback_reward: float = 0.0,
        expert: bool = False,
        slot: int = 0,
    ) -> None:
        self.env = env
        self.spec = env.spec
        if fallback is Fallback.RANDOM and not (self.spec.action.vocabulary or env.lists_admissible):
            raise ContractError(
                Reason.FEATURE_MISSING, f"{self.spec.id} does not list its actions: a random one cannot be drawn"
            )
        self._fallback = fallback
        self._fallback_reward = fallback_reward
        self._expert = expert
        self._slot = slot
        self._seed = 0
        self._episode = -1
        self._last: Result | None = None
        self._complete = wait_for if concurrency(type(env)) is Concurrency.ASYNC else drive

    def reset(
        self,
        seed: int = 0,
        *,
        split: str = "",
        task: int | None = None,
        prefix: Sequence[Action | None] = (),
        episode: int | None = None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> Result:
        """Starts an episode and replays `prefix`; the result is that of its last action.

        `on_turn` is called before each action of the prefix. Raises ContractError: SPLIT_UNKNOWN, TASK_UNKNOWN,
        PREFIX_TOO_LONG.
        """
        return self._complete(
            self.areset(seed, split=split, task=task, prefix=prefix, episode=episode, on_turn=on_turn)
        )

    def step(self, action: Action | None) -> Result:
        """Acts; None means that no action could be read from the agent's reply.

        Raises ContractError: NOT_RESET, EPISODE_ENDED.
        """
        return self._complete(self.astep(action))

    def close(self) -> None:
        """Closes the env."""
        self._complete(resolved(self.env.close()))

    async def areset(
        self,
        seed: int = 0,
        *,
        split: str = "",
        task: int | None = None,
        prefix: Sequence[Action | None] = (),
        episode: int | None = None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> Result:
        """As `reset`."""
        split, task = choose_task(self.spec.splits, split or self.spec.default_split, task, seed)
        self._seed = seed
        self._episode = self._episode + 1 if episode is None else episode
        try:
            result, drawn = await self._replay(split, task, prefix, len(prefix), on_turn)
            if drawn < len(prefix) and self.env.draws_on_demand:
                # The last turns were skipped, so what they show is the picture of a turn that was not drawn.
                result, _ = await self._replay(split, task, prefix, drawn, on_turn)
        finally:
            self.env.pictures_wanted = True
        return result

    async def astep(self, action: Action | None) -> Result:
        """As `step`."""
        last = self._last
        if last is None:
            raise ContractError(Reason.NOT_RESET, "no episode has been started: call reset first")
        if last.end is not None:
            raise ContractError(Reason.EPISODE_ENDED, f"the episode ended at turn {last.turn}: call reset")
        turn = last.turn + 1
        outcome, executed = self._executable(action, last.observation, turn)
        if executed is None:
            skipped = self.env.skip(last.observation, last.metrics)
            transition = replace(skipped, reward=skipped.reward + self._fallback_reward)
        else:
            transition = await resolved(self.env.step(executed))
        end, success = transition.end, transition.success
        if end is None and turn >= self.env.options.max_turns:
            end, success = End.TIME_LIMIT, await resolved(self.env.won())
        self._last = Result(
            slot=self._slot,
            episode=self._episode,
            turn=turn,
            observation=transition.observation,
            reward=transition.reward,
            end=end,
            success=success,
            outcome=outcome,
            executed=executed,
            metrics=transition.metrics,
            expert=await self._advice() if end is None else None,
        )
        return self._last

    async def _replay(
        self,
        split: str,
        task: int | None,
        prefix: Sequence[Action | None],
        shown: int,
        on_turn: Callable[[], None],
    ) -> tuple[Result, int]:
        """Resets the env and executes `prefix`, with pictures from turn `shown` on.

        Gives the last result, and the last turn that was not skipped.
        """
        self._last = None
        self.env.pictures_wanted = shown == 0
        observation = await resolved(self.env.reset(self._seed, split, task))
        result = self._last = Result(
            slot=self._slot, episode=self._episode, turn=0, observation=observation, expert=await self._advice()
        )
        executed = 0
        for turn, action in enumerate(prefix, 1):
            if result.end is not None:
                message = f"the episode ended at turn {turn - 1}, the prefix has {len(prefix)} actions"
                raise ContractError(Reason.PREFIX_TOO_LONG, message)
            on_turn()
            self.env.pictures_wanted = turn >= shown
            result = await self.astep(action)
            if result.executed is not None:
                executed = turn
        return result, executed

    def _executable(self, action: Action | None, observation: Observation, turn: int) -> tuple[Outcome, Action | None]:
        executed = None if action is None else self.env.resolve(action, observation)
        if executed is not None:
            return Outcome.EXECUTED, executed
        if self._fallback is Fallback.RANDOM:
            choices = sorted(observation.admissible or self.spec.action.vocabulary)
            executed = random.Random(f"{self._seed} {turn}").choice(choices) if choices else None
        return (Outcome.NO_ACTION if action is None else Outcome.NOT_ADMISSIBLE), executed

    async def _advice(self) -> Expert | None:
        if not self._expert:
            return None
        advice = await resolved(self.env.expert())
        return replace(advice, caption=await resolved(self.env.caption()))


def choose_task(splits: Mapping[str, int], split: str, task: int | None, seed: int) -> tuple[str, int | None]:
    """The split and the number of the task that a reset means; the number is None where the split is endless."""
    if split not in splits:
        raise ContractError(Reason.SPLIT_UNKNOWN, f"there is no split {split[:100]!r}; there are {sorted(splits)}")
    size = splits[split]
    if size == 0:
        if task is not None:
            raise ContractError(Reason.TASK_UNKNOWN, f"split {split!r} is endless: its tasks are made from the seed")
        return split, None
    if task is None:
        return split, seed % size
    if not 0 <= task < size:
        raise ContractError(Reason.TASK_UNKNOWN, f"split {split!r} has the tasks 0 to {size - 1}, not {task}")
    return split, task
