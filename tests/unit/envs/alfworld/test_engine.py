"""The engine's texts, commands and scores are stock ALFWorld's to the byte; and it guards what it relies on."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from overworld_envs.alfworld.engine import engine as engine_module
from overworld_envs.alfworld.engine import upstream
from overworld_envs.alfworld.engine.engine import Engine
from overworld_envs.alfworld.engine.facts import Facts, Vocabulary
from overworld_envs.alfworld.engine.grammar import Context, GrammarError, grammar_of
from overworld_envs.alfworld.engine.upstream import GRAMMAR, UpstreamError
from overworld_envs.alfworld.expert import advise
from overworld_envs.alfworld.games.library import GameError, open_game
from overworld_envs.alfworld.games.tasks import TASK_TYPES
from textworld import GameState

from tests.unit.envs.alfworld.conftest import LoadStock, MakeGame

RARE = ("slice", "heat", "cool", "clean", "use", "take", "move", "open")


def assert_same(engine: Engine, text: str, state: GameState) -> None:
    assert text.encode() == state.feedback.encode()
    assert list(engine.commands) == state.admissible_commands
    assert engine.won == state.won


def play_both(
    engine: Engine, stock: AlfredDemangler, state: GameState, choose: Callable[[Engine], str], steps: int
) -> None:
    """Commands chosen by `choose(engine)`; both engines must agree after each."""
    for _ in range(steps):
        command = choose(engine)
        text = engine.step(command)
        state, score, done = stock.step(command)
        assert_same(engine, text, state)
        assert score == int(engine.won)
        if done:
            return


def at_random(seed: int | str) -> Callable[[Engine], str]:
    chance = random.Random(seed)

    def choose(engine: Engine) -> str:
        if chance.random() < 0.1:
            return chance.choice(["go to nowhere", "dance", "", "look ", "open", "go to drawer"]).strip()
        rare = [command for command in engine.commands if command.startswith(RARE)]
        return chance.choice(rare) if rare and chance.random() < 0.6 else chance.choice(engine.commands)

    return choose


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_random_and_expert_play_are_those_of_stock_alfworld(
    task_type: str, game_file: MakeGame, stock: LoadStock
) -> None:
    file = game_file(task_type)
    theirs, ours, game = stock(file.path), Engine(), open_game(file)
    assert_same(ours, ours.reset(game), state := theirs.reset())
    play_both(ours, theirs, state, at_random(task_type), 20)
    assert_same(ours, ours.reset(game), state := theirs.reset())  # again, from the first state
    play_both(ours, theirs, state, lambda engine: advise(file.task, engine).action, 10)
    assert ours.won


def test_a_large_kitchen_is_that_of_stock_alfworld(game_file: MakeGame, stock: LoadStock) -> None:
    file = game_file("pick_two_obj_and_place", plan=24)
    theirs, ours = stock(file.path), Engine()
    assert_same(ours, ours.reset(open_game(file)), state := theirs.reset())
    play_both(ours, theirs, state, at_random(1), 8)


def test_slicing_is_that_of_stock_alfworld(game_file: MakeGame, stock: LoadStock) -> None:
    file = game_file("pick_heat_then_place_in_recep")
    theirs, ours = stock(file.path), Engine()
    ours.reset(open_game(file))
    state = theirs.reset()
    kinds = {entity.id: entity.name for entity in ours.game.entities.values()}
    where = {fact[0]: fact[1] for fact in ours.facts.of("inreceptacle")}
    knife = next(thing for thing in sorted(where) if thing.startswith(("knife", "butterknife")))
    food = next(thing for thing in sorted(where) if (thing,) in ours.facts.of("sliceable"))
    source, target = kinds[where[knife]], kinds[where[food]]
    commands = [f"go to {source}", f"open {source}", f"take {kinds[knife]} from {source}", f"go to {target}",
                f"open {target}", f"slice {kinds[food]} with {kinds[knife]}", f"examine {kinds[food]}"]  # fmt: skip
    play = iter(commands)
    play_both(ours, theirs, state, lambda _: next(play), len(commands))
    assert ours.facts.holds("issliced", food)


def test_episodes_of_several_engines_interleave(game_file: MakeGame) -> None:
    files = [game_file("pick_and_place_simple"), game_file("look_at_obj_in_light")]
    games = [open_game(file) for file in files]

    def texts(engines: list[Engine], choosers: Sequence[Callable[[Engine], str]]) -> list[list[str]]:
        record = [[engine.reset(game)] for engine, game in zip(engines, games, strict=True)]
        for _ in range(15):
            for at, engine in enumerate(engines):
                record[at].append(engine.step(choosers[at](engine)))
        return record

    together = texts([Engine(), Engine()], [at_random(0), at_random(1)])
    one = Engine()
    alone = []
    for at in range(2):
        choose = at_random(at)
        alone.append([one.reset(games[at])] + [one.step(choose(one)) for _ in range(15)])
    assert together == alone


def test_the_state_machine_is_loaded_anew_before_it_has_stored_too_much(
    game_file: MakeGame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_MAX_STATES", 5)
    engine, game = Engine(), open_game(game_file("pick_and_place_simple"))
    loads = []
    load = engine._library.load_sas
    engine._library.load_sas = lambda sas: loads.append(load(sas))
    episodes = []
    for _ in range(4):
        choose = at_random(3)
        episodes.append([engine.reset(game)] + [engine.step(choose(engine)) for _ in range(10)])
    assert all(episode == episodes[0] for episode in episodes)
    assert len(loads) == 4


def test_alfworlds_own_env_plays_generated_games(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overworld_envs.alfworld.games.generator import GameSet

    GameSet(3, 5).write(tmp_path / "data")
    code = f"""
from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv
data = {str(tmp_path / "data" / "json_2.1.1" / "train")!r}
env = AlfredTWEnv({{
    "env": {{"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6], "domain_randomization": False,
             "expert_type": "handcoded"}},
    "dataset": {{"data_path": data, "num_train_games": -1, "num_eval_games": -1}},
    "general": {{"training_method": "dqn"}}, "rl": {{"training": {{"max_nb_steps_per_episode": 50}}}}}})
assert env.num_games == 1, env.num_games
play = env.init_env(batch_size=1)
texts, infos = play.reset()
assert "Your task is to: " in texts[0] and "look" in infos["admissible_commands"][0]
print("played", texts[0])
"""
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert "played -= Welcome" in done.stdout, done.stderr


def test_another_version_of_upstream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upstream.VERSIONS, "textworld", "1.8.0")
    with pytest.raises(UpstreamError, match=r"textworld 1\.7\.0 \(needed: 1\.8\.0\)"):
        upstream.check_versions()


def test_a_missing_upstream_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upstream.VERSIONS, "textworld-of-another-name", "1.7.0")
    with pytest.raises(UpstreamError, match=r"pip install 'overworld-envs\[alfworld\]'"):
        upstream.check_versions()


def test_importing_upstream_leaves_environment_and_home_alone(tmp_path: Path) -> None:
    code = (
        "import os, overworld_envs.alfworld.engine.upstream as u; "
        "print(os.environ.get('ALFWORLD_DATA'), len(u.DOMAIN) > 0)"
    )
    environment = {**os.environ, "HOME": str(tmp_path / "nowhere")}
    environment.pop("ALFWORLD_DATA", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "None True\n"
    assert not (tmp_path / "nowhere").exists()


def test_other_simulators_do_not_import_it() -> None:
    code = (
        "import sys; from overworld.authoring import catalogue; catalogue.load(['gym_cards']); assert 'alfworld' in "
        "catalogue.simulators(); print([name for name in sys.modules if 'textworld' in name or 'alfworld' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "evil",
    [
        "{__import__('os').system('touch hacked')}",
        "{r.__class__}",
        "{().__class__.__bases__}",
        "{r.name * 1000}",
    ],
)
def test_a_grammar_runs_no_python(evil: str, game_file: MakeGame) -> None:
    file = game_file("pick_and_place_simple")
    content = json.loads(file.path.read_text())
    content["grammar"] = content["grammar"].replace("You arrive at {r.name}.", f"You arrive at {evil}.")
    file.path.write_text(json.dumps(content))
    engine = Engine()
    with pytest.raises((GrammarError, GameError)):
        engine.reset(open_game(file))
        engine.step(next(command for command in engine.commands if command.startswith("go to")))


def test_goals_with_symbols_are_read_by_upstreams_parser() -> None:
    plain = grammar_of(GRAMMAR.replace("UNKNOWN GOAL", "put a mug in it"))
    nested = grammar_of(GRAMMAR.replace("UNKNOWN GOAL", "put #list_empty# in it"))
    empty = Context(Facts(Vocabulary({}, {}), {}), {}, {}, {})
    assert plain.expand("#task#", empty) == "Your task is to: put a mug in it."
    assert nested.expand("#task#", empty) == "Your task is to: put nothing in it."
