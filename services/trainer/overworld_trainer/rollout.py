"""What a rollout is, and how it is collected: `episodes` plays, `writer` writes the replies.

Each player's reply is begun as soon as the result of its last move is there, and its move is sent as soon as the reply
is finished: nobody waits for anybody else before the rollout's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from overworld import Act, End, Outcome
from overworld_vlm.batch import Prompt
from overworld_vlm.load import VLM
from overworld_vlm.stopwatch import Stopwatch
from overworld_vlm.writer import Request, Writer
from torch import Tensor

from overworld_trainer.codec import as_arrays, count_thinking, decode_reply, encode_messages
from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import EnvError, Episodes, EpisodeStatistics, Played, Player
from overworld_trainer.stop import POLL_SECONDS, Stop


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

    @property
    def flat(self) -> list[Step]:
        """All N x T steps, slot by slot."""
        return [step for row in self.steps for step in row]

    def __len__(self) -> int:
        return sum(map(len, self.steps))

    def __repr__(self) -> str:
        size = f"{len(self.steps)} slots x {len(self.steps[0])} steps"
        return f"Rollout({size}, {len(self.episodes)} episodes ended, {sum(step.failed for step in self.flat)} failed)"


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
    ) -> None:
        self._config = config
        self._stop = stop or Stop()
        self._on_step = on_step
        self._vlm = vlm
        self._writer = writer
        self._episodes = episodes
        self._stopwatch = stopwatch or Stopwatch(vlm.device)
        self._prompts = {player: encode_messages(vlm, player.messages()) for player in episodes.players}
        self._writing: dict[Request, Player] = {}

    def collect(self, steps: int) -> Rollout:
        """Plays `steps` steps in every slot. Episodes continue across the border to the next rollout.

        Raises EnvError if all of them fail, InterruptionError, and what writer and episodes raise.
        """
        rows: dict[Player, list[Step]] = {player: [] for player in self._episodes.players}
        ended: dict[Player, list[EpisodeStatistics]] = {player: [] for player in rows}
        requests = {player: self._ask(player) for player in rows}
        while any(len(row) < steps for row in rows.values()):
            self._stop.check()
            for player, played in self._receive().items():
                rows[player].append(self._finish(player, requests[player], played))
                if played.statistics is not None:
                    ended[player].append(played.statistics)
                if len(rows[player]) < steps:
                    requests[player] = self._ask(player)
            if self._writing:
                self._send(self._writer.step())
        if all(step.failed for row in rows.values() for step in row):
            raise EnvError("every step of the rollout failed inside the env servers; their logs say why")
        return Rollout(
            steps=list(rows.values()),
            next_prompts=[self._prompts[player] for player in rows],
            episodes=[episode for row in ended.values() for episode in row],
            reward_scales=self._episodes.reward_scales,
        )

    def _ask(self, player: Player) -> Request:
        """Has the player's next reply written."""
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
            thinking=count_thinking(self._vlm, request.tokens),
            cut=cut,
            reward=result.reward,
            end=result.end,
            outcome=result.outcome,
            failed=bool(result.error),
            final=final,
        )
