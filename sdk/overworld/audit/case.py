"""An env under audit: plays it in many ways, once each, and records what is found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from overworld.audit import players
from overworld.audit.episodes import Episode, Job, Player, play
from overworld.audit.report import EnvReport, Finding, Severity
from overworld.audit.stage import Place, Stage
from overworld.authoring.env import Action, EnvSpec
from overworld.check.findings import SkipCheckError, shortened
from overworld.errors import Reason

MANY = 8
"""Seeds that most ways of playing are tried with."""
ROBUSTNESS = "runtime.robustness"
_SCRIPT_TURNS = 20
_RANDOM_EPISODES = 24
_RANDOM_TURNS = 100
_EXPERT_TURNS = 400
_EXPERT_STEPS = 1_500
_FEW = 4
_LEAST = 3
_FIXED_TURNS = 40
_FIXED_ACTIONS = 12
_DEPTH = 5
_SEARCH_EPISODES = 400
_SEARCH_TURNS = 200
_SEARCH_STEPS = 4_000


@dataclass(frozen=True, slots=True)
class Branch:
    """A state from which different actions were tried; `tries[n]` begins with `actions[n]` and continues as the others.

    `tries[n].turns[0]` is the state itself.
    """

    seed: int
    depth: int
    actions: list[Action]
    tries: list[Episode]


@dataclass(slots=True)
class Case:
    """One env and all that was seen of it. What takes playing is played when it is first asked for."""

    place: Place
    seed: int
    deadline: float
    report: EnvReport
    slots: int
    elsewhere: Place | None = None
    """The same env in a process of its own."""
    thin: int = 1
    """By what the numbers of episodes and turns are divided, for envs whose turns take long."""
    question: str = ""
    """Id of the question that is being asked."""
    known: dict[str, Any] = field(default_factory=dict)
    """What was played, by what it is."""

    @property
    def spec(self) -> EnvSpec:
        """Of the env with its options."""
        return self.report.spec

    @property
    def pixels(self) -> bool:
        """Whether the same state always gives the same pixels."""
        return self.spec.pixels_reproducible != "never"

    @property
    def late(self) -> bool:
        """Whether the audit's time is over."""
        return time.monotonic() > self.deadline

    @property
    def seeds(self) -> list[int]:
        """Seeds of the episodes that are compared with each other."""
        return [1_000 * self.seed + number for number in range(MANY)]

    def some(self, number: int) -> int:
        """So many episodes or turns, or fewer where they take long."""
        return max(_LEAST, number // self.thin)

    # What was found

    def find(self, severity: Severity, sent: str, came: str, expected: str, *, question: str = "") -> None:
        """Records a finding, once."""
        finding = Finding(
            question=question or self.question,
            severity=severity,
            env=self.spec.id,
            sent=shortened(sent),
            came=shortened(came),
            expected=shortened(expected),
        )
        if finding not in self.report.findings:
            self.report.findings.append(finding)

    def skip(self, why: str) -> SkipCheckError:
        """To be raised where a question cannot be answered."""
        return SkipCheckError(why)

    def need_repeatable(self) -> None:
        """For questions that replay episodes. Raises SkipCheckError where that gives others."""
        broken = {"runtime.episode_determinism", "runtime.episode_isolation", "runtime.slot_isolation"}
        if found := next((each for each in self.report.findings if each.question in broken), None):
            raise self.skip(f"episodes cannot be repeated: {found.number}")

    # Playing

    def open(self, slots: int = 0, **arguments: Any) -> closing[Stage]:
        """New slots, as many as may be unless `slots` says how many."""
        return closing(self.place.open(min(slots or self.slots, self.slots), **arguments))

    def play(self, stage: Stage, jobs: Iterable[Job]) -> list[Episode]:
        """Plays, until the time is over."""
        episodes = play(stage, jobs, until=lambda: self.late)
        for episode in episodes:
            if episode.error:
                self._failed(episode)
        self.report.episodes += len(episodes)
        self.report.turns += sum(len(episode.turns) for episode in episodes)
        return episodes

    def _failed(self, episode: Episode) -> None:
        """Records that a slot failed, whatever the question is; an env that hangs has no more time."""
        reason = episode.error.partition(":")[0]
        if reason == Reason.STEP_TIMEOUT.name:
            self.deadline = time.monotonic()
        if any(
            finding.question == ROBUSTNESS and finding.came[:60] == episode.error[:60]
            for finding in self.report.findings
        ):
            return
        did = f"{shortened(repr(episode.moves[-1]), 80)} ({episode.player})" if episode.moves else "a reset"
        sent = f"seed {episode.seed}, turn {len(episode.prefix) + len(episode.moves)}: {did}"
        self.find("error", sent, episode.error, "a result", question=ROBUSTNESS)

    def job(self, name: str, player: Player, seed: int, turns: int, *, chance: str = "", **arguments: Any) -> Job:
        """An episode; its player's chance depends on the audit's seed, the name, and `chance` or the episode's seed."""
        chance = f"{self.seed} {name} {chance or seed}"
        return Job(name=name, player=player, seed=seed, turns=turns, chance=chance, **arguments)

    def script(self, seed: int, turns: int = _SCRIPT_TURNS, number: int = 0, **arguments: Any) -> Job:
        """An episode whose actions were drawn beforehand: the same in every episode, where the same can be done."""
        return self.job("script", players.drawn, seed, turns, chance=f"script {number}", **arguments)

    def once(self, name: str, made: Callable[[], Any]) -> Any:
        """What `made` gives, made at most once."""
        if name not in self.known:
            self.known[name] = made()
        return self.known[name]

    # What most questions look at

    @property
    def scripts(self) -> list[Episode]:
        """The same actions under different seeds, in slots that play at the same time."""

        def made() -> list[Episode]:
            with self.open() as stage:
                return self.play(stage, [self.script(seed, keep=seed == self.seeds[0]) for seed in self.seeds])

        found: list[Episode] = self.once("scripts", made)
        return found

    @property
    def random(self) -> list[Episode]:
        """Random actions."""

        def made() -> list[Episode]:
            with self.open() as stage:
                return self.play(
                    stage,
                    [
                        self.job("random", players.drawn, self.seeds[0] + number, _RANDOM_TURNS)
                        for number in range(self.some(_RANDOM_EPISODES))
                    ],
                )

        found: list[Episode] = self.once("random", made)
        return found

    @property
    def fixed(self) -> dict[str, list[Episode]]:
        """Action in words -> episodes of an agent that repeats it."""

        def made() -> dict[str, list[Episode]]:
            starts = [episode.turns[0] for episode in self.scripts]
            actions = players.fixed_actions(self.spec, starts, _FIXED_ACTIONS)
            listed = not self.spec.action.vocabulary and self.spec.action.low is None
            if not actions and self.place.expert:
                advised = Counter(move for episode in self.expert for move in episode.moves if move is not None)
                actions = [action for action, _ in advised.most_common(4)]
            seeds = self.seeds[:4] if len(actions) > 4 else self.seeds
            turns = 3 if listed else self.some(_FIXED_TURNS)
            with self.open() as stage:
                played = self.play(
                    stage,
                    [
                        self.job(_words(action), players.repeating(action), seed, turns)
                        for action in actions
                        for seed in seeds
                    ],
                )
            return _by_player(played)

        found: dict[str, list[Episode]] = self.once("fixed", made)
        return found

    @property
    def silent(self) -> list[Episode]:
        """An agent that never acts, and one that halts now and then."""

        def made() -> list[Episode]:
            with self.open() as stage:
                return self.play(
                    stage,
                    [
                        *(self.job("silence", players.silent, seed, 40) for seed in self.seeds[:4]),
                        *(self.job("halting", players.halting(players.drawn), seed, 24) for seed in self.seeds[:4]),
                    ],
                )

        found: list[Episode] = self.once("silent", made)
        return found

    @property
    def hostile(self) -> dict[str, list[Episode]]:
        """Kind of hostile text -> episodes; sent as actions where texts are free, else as replies without an action."""

        def made() -> dict[str, list[Episode]]:
            texts = players.hostile_texts(self.spec, [episode.turns[0] for episode in self.scripts])
            free = self.spec.action.max_text_bytes > 0
            with self.open() as stage:
                played = self.play(
                    stage,
                    [
                        self.job(kind, players.repeating(text) if free else players.saying(text), seed, 3)
                        for kind, text in texts.items()
                        for seed in (self.seeds[:3] if free else self.seeds[:1])
                    ],
                )
            return _by_player(played)

        found: dict[str, list[Episode]] = self.once("hostile", made)
        return found

    @property
    def expert(self) -> list[Episode]:
        """The expert's episodes. Raises SkipCheckError where there is none."""
        if not self.place.expert:
            raise self.skip(
                "the server gives no advice (--allow-expert)" if self.spec.has_expert else "the env has no expert"
            )

        def made() -> list[Episode]:
            seeds = [*self.seeds, *(self.seeds[-1] + 1 + number for number in range(MANY))]
            jobs = [
                self.job("expert", players.expert, seed, _EXPERT_TURNS, keep=seed == self.seeds[1]) for seed in seeds
            ]
            with self.open(expert=True) as stage:
                few = _FEW if self.thin == 1 else _FEW // 2
                first = self.play(stage, jobs[:few])
                turns = max(1, sum(len(episode.moves) for episode in first))
                more = jobs[few : few + self.some(_EXPERT_STEPS) * few // turns]
                return [*first, *self.play(stage, more)]

        found: list[Episode] = self.once("expert", made)
        return found

    @property
    def advised(self) -> list[Episode]:
        """Episodes with advice in each turn, the expert's and random ones; none where there is no expert."""
        if not self.place.expert:
            return []

        def made() -> list[Episode]:
            with self.open(expert=True) as stage:
                return self.play(stage, [self.job("advised", players.drawn, seed, 12) for seed in self.seeds])

        found: list[Episode] = self.once("advised", made)
        return [*self.expert, *found]

    @property
    def branches(self) -> list[Branch]:
        """States of some episodes, from each of which several actions were tried."""

        def made() -> list[Branch]:
            with self.open() as stage:
                return [
                    branch
                    for script in self.scripts[: self.some(4)]
                    for depth in range(min(_DEPTH, len(script.turns)))
                    if (branch := self._branch(stage, script, depth))
                ]

        found: list[Branch] = self.once("branches", made)
        return found

    def _branch(self, stage: Stage, script: Episode, depth: int) -> Branch | None:
        turn = script.turns[depth]
        if turn.end is not None or turn.error:
            return None
        actions = players.fixed_actions(self.spec, [turn], 4)
        if turn.admissible:
            actions = [action for action in actions if action in turn.admissible]
        if len(actions) < 2:
            return None
        prefix = script.moves[:depth]
        jobs = [
            self.job(
                "branch", _then(action), script.seed, 3, chance=f"{script.seed} {depth}", prefix=prefix
            )
            for action in actions
        ]  # fmt: skip
        tries = self.play(stage, jobs)
        return Branch(script.seed, depth, actions, tries) if len(tries) == len(jobs) else None

    @property
    def everything(self) -> list[Episode]:
        """All full episodes that were played for other questions so far and began at a reset."""
        found: list[Episode] = []
        for name in ("scripts", "random", "expert", "advised", "silent", "search"):
            found += self.known.get(name, [])
        for name in ("fixed", "hostile"):
            found += [episode for episodes in self.known.get(name, {}).values() for episode in episodes]
        return found

    @property
    def effortless(self) -> dict[str, list[Episode]]:
        """Agents that make no effort -> episodes: those that repeat an action, and silence."""
        silence = [episode for episode in self.silent if episode.player == "silence"]
        return {**self.fixed, "silence": silence}

    @property
    def search(self) -> list[Episode]:
        """More random episodes, played only where nobody has succeeded yet."""

        def made() -> list[Episode]:
            length = max(1.0, sum(len(each.moves) for each in self.random) / max(len(self.random), 1))
            count = min(_SEARCH_EPISODES, int(self.some(_SEARCH_STEPS) / length))
            first = self.seeds[0] + _RANDOM_EPISODES
            with self.open() as stage:
                return self.play(
                    stage,
                    [self.job("search", players.drawn, first + number, _SEARCH_TURNS) for number in range(count)],
                )

        found: list[Episode] = self.once("search", made)
        return found


def _then(action: Action) -> Player:
    """An action, and then what is drawn."""
    return lambda spec, episode, chance: players.drawn(spec, episode, chance) if episode.moves else action


def _words(action: Action) -> str:
    return f"always {action!r}" if isinstance(action, str) else f"always {shortened(str(action), 40)}"


def _by_player(episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
    grouped: dict[str, list[Episode]] = {}
    for episode in episodes:
        grouped.setdefault(episode.player, []).append(episode)
    return grouped
