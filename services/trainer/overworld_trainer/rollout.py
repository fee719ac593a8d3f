"""What a rollout is, and how it is collected: `episodes` plays, `writer` writes the replies.

Two groups of players alternate: while the simulators of one step, the replies of the other are written.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from overworld import Act, End, Outcome
from overworld_vlm.batch import Prompt
from overworld_vlm.load import VLM
from overworld_vlm.writer import Request, Writer
from torch import Tensor

from overworld_trainer.codec import as_arrays, count_thinking, decode_reply, encode_messages
from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import EnvError, Episodes, EpisodeStatistics, Pending, Played, Player
from overworld_trainer.stop import Stop


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Step:
    """One decision: a prompt, the reply of T tokens, and what came of it.

    reply     int64 [T], EOS included unless it was cut
    logps     fp32 [T], of the sampler
    features  fp32 [features], of the prompt; None if the writer gives none
    thinking  tokens before the one in which the action's key begins; all T if there is none
    failed    the step failed inside a server: it has no outcome and is not learnt from
    final     the prompt after a time limit, with the true final observation
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

    def __repr__(self) -> str:
        came = "failed" if self.failed else f"{self.outcome and self.outcome.name}, reward {self.reward:g}"
        ended = f", end {self.end.name}" if self.end else ""
        return f"Step(env {self.env}, turn {self.turn}: {self.prompt!r}, {len(self.reply)} tokens, {came}{ended})"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Rollout:
    """N slots times T steps.

    steps          by slot
    next_prompts   what each slot shows after its last step
    episodes       those that ended
    reward_scales  of each env, see `Episodes.reward_scales`
    """

    steps: list[list[Step]]
    next_prompts: list[Prompt]
    episodes: list[EpisodeStatistics]
    reward_scales: list[float]
    seconds_waiting: float
    seconds_writing: float

    @property
    def flat(self) -> list[Step]:
        """All N x T steps, slot by slot."""
        return [step for row in self.steps for step in row]

    def __len__(self) -> int:
        return sum(map(len, self.steps))

    def __repr__(self) -> str:
        size = f"{len(self.steps)} slots x {len(self.steps[0])} steps"
        return f"Rollout({size}, {len(self.episodes)} episodes ended, {sum(step.failed for step in self.flat)} failed)"


@dataclass(eq=False, slots=True)
class _Group:
    """Players whose replies are written together, and the moves that they have under way."""

    players: list[Player]
    requests: dict[Player, Request] = field(default_factory=dict)
    pending: Pending = field(default_factory=list)


class Collector:
    """Plays with the model whose replies `writer` writes."""

    def __init__(
        self, config: TrainerConfig, vlm: VLM, writer: Writer, episodes: Episodes, stop: Stop | None = None
    ) -> None:
        self._config = config
        self._stop = stop or Stop()
        self._vlm = vlm
        self._writer = writer
        self._episodes = episodes
        self._prompts = {player: encode_messages(vlm, player.messages()) for player in episodes.players}
        # Neighbouring slots are on different workers, so each half of a fleet keeps all of them busy.
        halves: tuple[list[Player], list[Player]] = [], []
        for player in episodes.players:
            halves[player.slot >= len(player.fleet) // 2].append(player)
        self._groups = [_Group(half) for half in halves]

    def collect(self, steps: int) -> Rollout:
        """Plays `steps` steps in every slot. Episodes continue across the border to the next rollout.

        Raises EnvError if all of them fail, InterruptionError, and what writer and episodes raise.
        """
        started = time.perf_counter()
        waiting = 0.0
        rows: dict[Player, list[Step]] = {player: [] for player in self._episodes.players}
        ended: list[EpisodeStatistics] = []
        for turn in range(steps + 1):
            for group in self._groups:
                asked = time.perf_counter()
                self._stop.wait(group.pending)
                played = self._episodes.receive(group.pending)
                waiting += time.perf_counter() - asked
                for player, what in played.items():
                    rows[player].append(self._finish(player, group.requests[player], what))
                    if what.statistics is not None:
                        ended.append(what.statistics)
                group.pending = self._act(group) if turn < steps else []
        if all(step.failed for row in rows.values() for step in row):
            raise EnvError("every step of the rollout failed inside the env servers; their logs say why")
        return Rollout(
            steps=list(rows.values()),
            next_prompts=[self._prompts[player] for player in rows],
            episodes=ended,
            reward_scales=self._episodes.reward_scales,
            seconds_waiting=waiting,
            seconds_writing=time.perf_counter() - started - waiting,
        )

    def _act(self, group: _Group) -> Pending:
        """Writes the replies of a group and sends its moves."""
        group.requests = {player: self._request(player) for player in group.players}
        for request in group.requests.values():
            self._writer.add(request)
        while any(request.finish is None for request in group.requests.values()):
            self._stop.check()
            self._writer.step()
        acts = {}
        for player, request in group.requests.items():
            text = decode_reply(self._vlm, request.tokens)
            acts[player] = Act(player.conversation.read(text).action, reply=text)
        return self._episodes.send(acts)

    def _request(self, player: Player) -> Request:
        return Request(
            self._prompts[player],
            self._config.max_new_tokens,
            messages=as_arrays(player.messages()),
            key=(self._config.seed, player.env, player.slot, player.episode, player.turn),
            temperature=self._config.temperature,
        )

    def _finish(self, player: Player, request: Request, played: Played) -> Step:
        """The step that a request and its result make; the player's next prompt is encoded."""
        self._prompts[player] = encode_messages(self._vlm, player.messages())
        result = played.result
        return Step(
            env=player.env,
            turn=played.turn,
            prompt=request.prompt,
            reply=torch.tensor(request.tokens),
            logps=torch.tensor(request.logps),
            features=request.features,
            thinking=count_thinking(self._vlm, request.tokens),
            cut=request.finish == "length",
            reward=result.reward,
            end=result.end,
            outcome=result.outcome,
            failed=bool(result.error),
            final=encode_messages(self._vlm, played.final) if played.final is not None else None,
        )
