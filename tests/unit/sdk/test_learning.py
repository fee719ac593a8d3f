"""The audit's small learner: its pieces by hand, and whole comparisons on envs whose answer is known."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from overworld import ActionSpec, End, Env, EnvSpec, Image, Observation, Reset, Transition
from overworld.audit.learning.arena import Arena, Game, Job, play, unseen
from overworld.audit.learning.eyes import SIDE, Eyes
from overworld.audit.learning.figures import tables
from overworld.audit.learning.learn import LearnSettings, learn
from overworld.audit.learning.network import ActorCritic
from overworld.audit.learning.plateau import Plateau
from overworld.audit.learning.policy import Policy
from overworld.audit.learning.ppo import PpoSettings, entropy, ppo_loss, train
from overworld.audit.learning.rollout import Rollout, Turn, advantages
from overworld.audit.learning.seeds import Part, has_held_out_tasks, seeds
from overworld.audit.learning.sequences import SearchSettings, search
from overworld.audit.learning.verdict import Gain, Verdict, gain, verdict
from overworld.audit.stage import ClassPlace, Stage
from overworld.commands.audit import main
from overworld.errors import EvaluationError
from overworld.evaluation.statistics import Interval

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Lamp(Env):
    """One of two lamps is lit; the picture shows which, or nothing. Three turns, a point for each right answer."""

    spec = EnvSpec(
        id="lab/Lamp",
        task="Name the lamp.",
        success="Three right answers.",
        action=ActionSpec(("left", "right")),
        max_turns=300,
    )
    shown = True
    changes = True

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._chance, self._turn, self._right = np.random.default_rng(seed), 0, 0
        return self._look()

    def step(self, action: str) -> Transition:
        right = action == ("left", "right")[self._lit]
        self._turn += 1
        self._right += right
        if self._turn == 3:
            return Transition(self._look(), float(right), End.TASK, self._right == 3)
        return Transition(self._look(), float(right))

    def _look(self) -> Observation:
        self._lit = int(self._chance.integers(2)) if self.changes else self._turn % 2
        canvas = self.canvas("view", SIDE, SIDE)
        canvas[...] = 0
        if self.shown:
            canvas[:, self._lit * SIDE // 2 :][:, : SIDE // 2] = 255
        return Observation((Image("view", canvas.copy()),))


class Dark(Lamp):
    """The same without a picture of the lamp."""

    shown = False


class Alternating(Lamp):
    """Left, right, left: no need to look."""

    shown = changes = False


def local(env: type[Env], count: int = 16, **options: Any) -> Stage:
    """Slots in this process."""
    return ClassPlace(env.spec.id, env, options=options, timeout=20.0).open(count)


def turn(**changes: Any) -> Turn:
    blank = {"view": torch.zeros(1), "admissible": torch.ones(2, dtype=torch.bool), "action": 0, "log_prob": 0.0}
    return Turn(**{**blank, "value": 0.0, **changes})


def test_advantages_are_those_of_a_calculation_by_hand() -> None:
    first = turn(value=0.5, reward=1.0, next_value=2.0)
    last = turn(value=2.0, reward=4.0, next_value=0.0, over=True)
    after = turn(value=1.0, reward=0.0, next_value=3.0)
    error = 2.0 * 4 - 2.0
    expected = [2.0 * 1 + 0.9 * 2.0 - 0.5 + 0.9 * 0.5 * error, error, 0.9 * 3.0 - 1.0]
    assert advantages([first, last, after], scale=2.0, gamma=0.9, lam=0.5) == pytest.approx(expected)


def test_loss_is_that_of_a_calculation_by_hand() -> None:
    settings = PpoSettings(clip=0.2, value=0.5, entropy=0.1)
    ratios = torch.tensor([1.5, 0.5])  # clipped to 1.2 and 0.8; of the latter, -0.8 is worse than the -0.5 of 0.5
    loss = ppo_loss(
        ratios.log(), torch.zeros(2), torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]),
        torch.tensor([0.2, 0.4]), settings,
    )  # fmt: skip
    assert loss.item() == pytest.approx(-(1.2 - 0.8) / 2 + 0.5 * 0.5 * (1 + 4) / 2 - 0.1 * 0.3, abs=1e-6)


def test_entropy_bears_words_that_are_not_admissible() -> None:
    log_probs = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log().requires_grad_()
    value = entropy(log_probs)
    assert value.tolist() == pytest.approx([math.log(2), 0.0])


def test_policy_never_chooses_what_is_not_listed() -> None:
    torch.manual_seed(0)
    policy = Policy(ActorCritic(6, 3), ("a", "b", "c"), seed=0)
    view = torch.zeros(6, SIDE, SIDE, dtype=torch.uint8)
    games = [Game(0, Job(0), Observation(("",), admissible=("b", "c")), view)] * 200
    assert set(policy(games)) == {1, 2}


def test_only_the_limit_of_turns_is_bootstrapped() -> None:
    torch.manual_seed(0)
    network = ActorCritic(6, 2)
    for limit, bootstrapped in ((2, True), (300, False)):
        stage = local(Lamp, 1, max_turns=limit)
        eyes = Eyes(stage.step({0: Reset(0)})[0].observation)
        arena = Arena(stage, [Job(0), Job(1)], eyes)
        fragments, episodes = Rollout(arena, Policy(network, stage.spec.action.vocabulary, 0)).collect(limit % 297)
        turns = fragments[0]
        assert [one.over for one in turns] == [False] * (len(turns) - 1) + [True]
        assert (turns[-1].next_value != 0) is bootstrapped
        assert [one.next_value for one in turns[:-1]] == pytest.approx([one.value for one in turns[1:]], abs=1e-6)
        assert [episode.turns for episode in episodes] == [len(turns)]


def test_view_is_this_turn_and_the_one_before() -> None:
    black, grey = (Observation((Image("view", np.full((96, 96, 1), shade, np.uint8)),)) for shade in (0, 100))
    eyes = Eyes(black)
    first = eyes(black, None)
    second = eyes(grey, first)
    assert second.shape == (eyes.channels, SIDE, SIDE)
    assert second[:3].unique().tolist() == [0]
    assert second[3:].unique().tolist() == [100]
    third = eyes(black, second)
    assert third[:3].unique().tolist() == [100]
    assert third[3:].unique().tolist() == [0]
    blank = Eyes(black, blank=True)
    assert torch.equal(blank(black, None), blank(grey, blank(black, None)))


def test_no_task_is_in_two_parts() -> None:
    assert len(Part) == 3  # two with one value would be one
    for size in (0, 7):
        spec = EnvSpec("a/B", "", "", ActionSpec(("a",)), splits={"all": size}, default_split="all")
        drawn = [list(itertools.islice(seeds(spec, part, 1), 300)) for part in Part]
        tasks = [{seed % size if size else seed for seed in part} for part in drawn]
        assert has_held_out_tasks(spec)
        assert not any(one & other for one, other in itertools.combinations(tasks, 2))
        assert drawn[0] != list(itertools.islice(seeds(spec, Part.TRAINING, 2), 300))
    assert not has_held_out_tasks(EnvSpec("a/B", "", "", ActionSpec(("a",)), splits={"all": 4}, default_split="all"))


def test_arena_plays_every_job_once() -> None:
    arena = Arena(local(Lamp, 4), [Job(seed, seed) for seed in range(10)], unseen)
    episodes = list(play(arena, lambda games: [0] * len(games)))
    assert sorted(episode.job.number for episode in episodes) == list(range(10))
    assert {episode.turns for episode in episodes} == {3}


def test_search_finds_the_sequence() -> None:
    stage = local(Alternating)
    found = search(
        stage, seeds(stage.spec, Part.TRAINING, 0), seeds(stage.spec, Part.CHOICE, 0), 0, SearchSettings(length=3)
    )
    assert found.actions == (0, 1, 0)


def test_plateau_counts_from_the_last_gain_beyond_chance() -> None:
    plateau = Plateau()
    ages = [plateau.age([mean - 1, mean + 1] * 50, now) for now, mean in enumerate((0.0, 0.1, 0.15, 0.3, 0.3))]
    assert ages == [0, 1, 2, 0, 1]


def test_gain_needs_an_interval_above_zero_and_six_episodes_that_differ() -> None:
    assert gain([0.0] * 100, [1.0] * 6 + [0.0] * 94).proven
    assert not gain([0.0] * 100, [1.0] * 5 + [0.0] * 95).proven
    assert not gain([0.0, 1.0] * 50, [1.0, 0.0] * 50).proven
    assert not gain([1.0] * 100, [0.0] * 100).proven


@pytest.mark.parametrize(
    ("frames", "blind", "picture", "expected"),
    [
        (1, 0, 1, Verdict.FROM_PICTURE),
        (1, 1, 1, Verdict.FROM_PICTURE),
        (1, 1, 0, Verdict.BLIND_SUFFICES),
        (0, 1, 0, Verdict.BLIND_SUFFICES),
        (1, 0, 0, Verdict.UNCLEAR),
        (0, 0, 0, Verdict.NO_SIGNAL),
        (0, 0, 1, Verdict.NO_SIGNAL),  # better than a blind player who is worse than chance
    ],
)
def test_verdict_follows_from_what_is_proven(frames: int, blind: int, picture: int, expected: Verdict) -> None:
    gains = [Gain(Interval(0.5, 0.1 if proven else -0.1, 0.9), 50) for proven in (frames, blind, picture)]
    assert verdict(*gains) is expected


QUICK = LearnSettings(
    ppo=PpoSettings(steps=2500, batch=256, minibatch=128, window=50, patience=800),
    search=SearchSettings(length=3, candidates=24, final_trials=20, steps=3000),
    choice=40,
    judged=100,
)


@pytest.mark.parametrize(
    ("env", "expected"),
    [(Lamp, Verdict.FROM_PICTURE), (Alternating, Verdict.BLIND_SUFFICES), (Dark, Verdict.NO_SIGNAL)],
)
def test_envs_whose_answer_is_known_are_told_apart(env: type[Env], expected: Verdict) -> None:
    told: list[str] = []
    learned = learn(local(env), settings=QUICK, on_progress=told.append)
    assert learned.verdict is expected
    assert told == [arm.name for arm in learned.arms] == ["random", "frames", "blank", "sequence"]
    assert learned.held_out_tasks
    players, gains, sequence = tables(learned)
    assert players.title == f"Learning: {expected}"
    assert [row[0] for row in players.rows] == [
        "random actions", "learner with frames", "learner with blank frames", "best fixed sequence",
    ]  # fmt: skip
    assert {float(row[1]) for row in players.rows} == {round(arm.mean, 3) for arm in learned.arms}
    assert [float(row[1]) for row in gains.rows] == [
        round(gain.interval.value, 3)
        for gain in (learned.frames_over_random, learned.blind_over_random, learned.frames_over_blind)
    ]
    assert sequence.rows[0][0].startswith(learned.sequence[0])
    assert json.loads(json.dumps(learned.as_dict()))["verdict"] == str(expected)


def test_same_seed_trains_the_same_policy() -> None:
    def curve(seed: int) -> Sequence[Any]:
        stage = local(Lamp)
        eyes = Eyes(stage.step({0: Reset(0)})[0].observation)
        settings = PpoSettings(steps=600, batch=256)
        return train(stage, eyes, seeds(stage.spec, Part.TRAINING, seed), seed, settings).curve

    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    assert curve(1) == curve(1) != curve(2)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("action", "named"),
    [(ActionSpec(max_text_bytes=100), "free text"), (ActionSpec(low=np.zeros(2), high=np.ones(2)), "tensors")],
)
def test_actions_without_a_vocabulary_are_refused(action: ActionSpec, named: str) -> None:
    class Odd(Lamp):
        spec = EnvSpec(id="lab/Odd", task="", success="", action=action)

    with pytest.raises(EvaluationError, match=f"lab/Odd: its actions are {named}.*vocabulary"):
        learn(local(Odd, 1))


def test_env_without_a_picture_is_refused() -> None:
    class Told(Lamp):
        def _look(self) -> Observation:
            self._lit = 0
            return Observation(("left is lit",))

    with pytest.raises(EvaluationError, match="no picture"):
        learn(local(Told, 1))


def test_env_that_fails_is_named_with_its_error() -> None:
    class Failing(Lamp):
        def _look(self) -> Observation:
            raise KeyError("lamp")

    with pytest.raises(EvaluationError, match="lab/Lamp: an episode failed at turn 0: ENV_ERROR, KeyError: 'lamp'"):
        learn(local(Failing, 1))


def test_settings_that_differ_have_digests_that_differ() -> None:
    assert QUICK.digest != LearnSettings().digest == LearnSettings().digest


def test_benchmark_resumes_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("audit_learn")
    coin = importlib.import_module("graded_envs").Coin
    settings = LearnSettings(PpoSettings(steps=128, batch=128), SearchSettings(steps=1), choice=5, judged=10)
    first = benchmark.run(coin, 0, tmp_path, settings)
    assert json.loads((tmp_path / "Coin-0.json").read_text()) == json.loads(json.dumps(first))
    monkeypatch.setattr(benchmark, "learn", lambda *_, **__: pytest.fail("it is run again"))
    assert benchmark.run(coin, 0, tmp_path, settings) == json.loads(json.dumps(first))
    for other in (dataclasses.replace(settings, judged=11), settings):
        seed = 0 if other != settings else 1
        with pytest.raises(pytest.fail.Exception, match="run again"):
            benchmark.run(coin, seed, tmp_path, other)


def test_command_says_what_cannot_be_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "told.py").write_text(
        "from overworld import ActionSpec, End, Env, EnvSpec, Observation, Transition\n"
        "class Told(Env):\n"
        "    spec = EnvSpec('lab/Told', 'Say it.', 'Said.', ActionSpec(max_text_bytes=99))\n"
        "    def reset(self, seed, split, task): return Observation(('Say it.',))\n"
        "    def step(self, action): return Transition(Observation(('Said.',)), 1.0, End.TASK, True)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    main(["told:Told", "--learn", "--seconds", "0.01"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Learning: not possible" in shown and "its actions are free text" in shown
