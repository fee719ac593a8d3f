"""What a rollout is, and how it is collected: `episodes` plays, `writer` writes the replies.

Each player's reply is begun as soon as the result of its last move is there, and its move is sent as soon as the reply
is finished: nobody waits for anybody else before the rollout's end.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from overworld import Act, End, Observation, Outcome
from overworld.contract.frames import pixels_hash
from overworld_vlm.batch import Prompt
from overworld_vlm.load import VLM
from overworld_vlm.stopwatch import Stopwatch
from overworld_vlm.writer import Request, Writer
from pydantic import BaseModel
from torch import Tensor

from overworld_trainer.codec import as_arrays, count_thinking, decode_reply, encode_messages
from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import EnvError, Episodes, EpisodeStatistics, Played, Player
from overworld_trainer.ranks import Ranks
from overworld_trainer.stop import POLL_SECONDS, Stop


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Step:
    """One decision: a prompt, the reply of T tokens, and what came of it.

    reply     int64 [T], EOS included unless it was cut
    logps     fp32 [T], of the sampler
    features  fp32 [features], of the prompt; None if the writer gives none
    thinking  tokens before the one in which the action's key begins; all T if there is none; 0 of a bare action
    failed    the step failed inside a server: it has no outcome and is not learnt from
    final     the prompt after a time limit, with the true final observation
    task      seed of the episode
    state     names what the env showed before the step: equal for equal texts and frames
    """

    env: int
    turn: int
    prompt: Prompt
    reply: Tensor
    logps: Tensor
    features: Tensor | None
    thinking: int
    cut: bool
    reward: float = 0.0
    end: End | None = None
    outcome: Outcome | None = None
    failed: bool = False
    final: Prompt | None = None
    task: int = 0
    state: int = 0

    @property
    def record(self) -> StepRecord:
        """What the other ranks are to know of it."""
        return StepRecord(
            env=self.env,
            turn=self.turn,
            prompt_tokens=len(self.prompt),
            reply_tokens=len(self.reply),
            cut=self.cut,
            reward=self.reward,
            end=self.end,
            outcome=self.outcome,
            failed=self.failed,
            task=self.task,
            state=self.state,
        )

    def __repr__(self) -> str:
        came = "failed" if self.failed else f"{self.outcome and self.outcome.name}, reward {self.reward:g}"
        ended = f", end {self.end.name}" if self.end else ""
        return f"Step(env {self.env}, turn {self.turn}: {self.prompt!r}, {len(self.reply)} tokens, {came}{ended})"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What all ranks know of a step; see `Step`."""

    env: int
    turn: int
    prompt_tokens: int
    reply_tokens: int
    cut: bool
    reward: float
    end: End | None
    outcome: Outcome | None
    failed: bool
    task: int
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """N slots with T steps each, or with those of one whole episode each, of which this rank has played n.

    steps          those played here, a row per slot
    next_prompts   what each of these slots shows after its last step
    rows           for each rank, which of the N slots it has played; slots that play are counted env by env
    rank           which of these is this one
    records        of all steps of all slots
    episodes       those that ended, in any slot
    reward_scales  of each env, see `Episodes.reward_scales`
    """

    steps: list[list[Step]]
    next_prompts: list[Prompt]
    rows: list[list[int]]
    rank: int
    records: list[list[StepRecord]]
    episodes: list[EpisodeStatistics]
    reward_scales: list[float]

    @property
    def flat(self) -> list[Step]:
        """The steps played here, slot by slot."""
        return [step for row in self.steps for step in row]

    @property
    def all_records(self) -> list[StepRecord]:
        """The records of all steps, slot by slot."""
        return [record for row in self.records for record in row]

    def __len__(self) -> int:
        return sum(map(len, self.records))

    def __repr__(self) -> str:
        size = f"{len(self)} steps in {len(self.records)} slots"
        failed = sum(record.failed for record in self.all_records)
        return f"Rollout({size}, {len(self.episodes)} episodes ended, {failed} failed)"


class _Share(BaseModel):
    """What a rank tells the others of its part of a rollout."""

    rows: list[int]
    records: list[list[StepRecord]]
    episodes: list[list[EpisodeStatistics]]


OnStep = Callable[[Player, str, bool, Played], None]
"""Called after each step with the player, its reply, whether that was cut, and what came of it."""


class Collector:
    """Plays with the model whose replies `writer` writes; `on_step` is told of every step.

    Its parts are `encode` and `waiting_for_envs`.
    """

    def __init__(
        self,
        config: TrainerConfig,
        vlm: VLM,
        writer: Writer,
        episodes: Episodes,
        stopwatch: Stopwatch | None = None,
        stop: Stop | None = None,
        on_step: OnStep = lambda player, reply, cut, played: None,
        ranks: Ranks | None = None,
    ) -> None:
        self._config = config
        self._ranks = ranks or Ranks()
        self._stop = stop or Stop()
        self._on_step = on_step
        self._vlm = vlm
        self._writer = writer
        self._episodes = episodes
        self._stopwatch = stopwatch or Stopwatch(vlm.device)
        self._prompts = {player: encode_messages(vlm, player.messages()) for player in episodes.players}
        self._writing: dict[Request, Player] = {}
        self._shown: dict[Player, tuple[int, int]] = {}  # the task, and the state that the reply is to

    def collect(self, steps: int | None, slots: Sequence[int] | None = None) -> Rollout:
        """Plays `steps` steps in every slot; episodes continue across the border to the next rollout. None: plays one
        whole episode in every slot, however long the others take. With `slots`, the first so many of each env play, and
        the others stay where they are.

        Raises EnvError if all of this rank's fail, InterruptionError, RankError, and what writer and episodes raise.
        """
        chosen = [one for one in self._episodes.players if slots is None or one.slot < slots[one.env]]
        rows: dict[Player, list[Step]] = {player: [] for player in chosen}
        ended: dict[Player, list[EpisodeStatistics]] = {player: [] for player in rows}
        requests = {player: self._ask(player) for player in rows}
        missing = set(rows)
        while missing:
            self._stop.check()
            for player, played in self._receive().items():
                rows[player].append(self._finish(player, requests[player], played))
                if played.statistics is not None:
                    ended[player].append(played.statistics)
                if len(rows[player]) == steps or (steps is None and (played.result.end or played.result.error)):
                    missing.remove(player)
                else:
                    requests[player] = self._ask(player)
            if self._writing:
                self._send(self._writer.step())
        if all(step.failed for row in rows.values() for step in row):
            raise EnvError("every step of the rollout failed inside the env servers; their logs say why")
        return self._gather(rows, ended)

    def _gather(self, rows: dict[Player, list[Step]], ended: dict[Player, list[EpisodeStatistics]]) -> Rollout:
        """The rollout of all ranks."""
        first_of_env = list(itertools.accumulate((env.slots for env in self._config.envs), initial=0))
        own = _Share(
            rows=[first_of_env[player.env] + player.slot for player in rows],
            records=[[step.record for step in row] for row in rows.values()],
            episodes=list(ended.values()),
        )
        self._stop.meet()
        shares = [_Share.model_validate_json(part) for part in self._ranks.gather(own.model_dump_json().encode())]
        records: dict[int, list[StepRecord]] = {}
        episodes: dict[int, list[EpisodeStatistics]] = {}
        for share in shares:
            records |= dict(zip(share.rows, share.records, strict=True))
            episodes |= dict(zip(share.rows, share.episodes, strict=True))
        numbers = {row: number for number, row in enumerate(sorted(records))}
        return Rollout(
            steps=list(rows.values()),
            next_prompts=[self._prompts[player] for player in rows],
            rows=[[numbers[row] for row in share.rows] for share in shares],
            rank=self._ranks.number,
            records=[records[row] for row in sorted(records)],
            episodes=[episode for row in sorted(episodes) for episode in episodes[row]],
            reward_scales=self._episodes.reward_scales,
        )

    def _ask(self, player: Player) -> Request:
        """Has the player's next reply written."""
        self._shown[player] = self._episodes.task(player).seed, _name_of(player.conversation.latest)
        request = Request(
            self._prompts[player],
            self._config.max_new_tokens,
            messages=as_arrays(player.messages()),
            key=(self._config.seed, player.env, player.slot, player.episode, player.turn),
            temperature=self._config.temperature,
        )
        self._writing[request] = player
        self._writer.add(request)
        return request

    def _send(self, finished: Sequence[Request]) -> None:
        """Sends the moves that finished replies name."""
        acts = {}
        for request in finished:
            player = self._writing.pop(request)
            text = decode_reply(self._vlm, request.tokens)
            acts[player] = Act(player.conversation.read(text).action, reply=text)
        self._episodes.send(acts)

    def _receive(self) -> dict[Player, Played]:
        """Results; they are waited for when there is nothing to write, though not for long: it may be time to stop."""
        if self._writing:
            return self._episodes.receive(wait=False)
        with self._stopwatch("waiting_for_envs"):
            return self._episodes.receive(wait=True, timeout=POLL_SECONDS)

    def _finish(self, player: Player, request: Request, played: Played) -> Step:
        """The step that a request and its result make; the player's next prompt is encoded."""
        final = None
        task, state = self._shown[player]
        with self._stopwatch("encode"):
            if played.final is not None:
                final = encode_messages(self._vlm, played.final, request.prompt)
            self._prompts[player] = encode_messages(self._vlm, player.messages(), request.prompt)
        result, cut = played.result, request.finish == "length"
        self._on_step(player, decode_reply(self._vlm, request.tokens), cut, played)
        return Step(
            env=player.env,
            turn=played.turn,
            prompt=request.prompt,
            reply=torch.tensor(request.tokens),
            logps=torch.tensor(request.logps),
            features=request.features,
            thinking=0 if self._config.recipe.reply == "bare" else count_thinking(self._vlm, request.tokens),
            cut=cut,
            reward=result.reward,
            end=result.end,
            outcome=result.outcome,
            failed=bool(result.error),
            final=final,
            task=task,
            state=state,
        )


def _name_of(observation: Observation) -> int:
    """A number of 63 bits for what an observation shows: its texts and its frames' hashes."""
    frames = [pixels_hash(image.pixels) if image.xxh64 is None else image.xxh64 for image in observation.images]
    shown = repr((observation.text, observation.admissible, frames))
    return int.from_bytes(hashlib.blake2b(shown.encode(), digest_size=8).digest()) >> 1
