"""The expert wins from anywhere, on the shortest way."""

import pytest
from overworld_envs.alfworld.expert import advise
from overworld_envs.alfworld.games.planner import plan
from overworld_envs.alfworld.games.tasks import TASK_TYPES
from overworld_envs.alfworld.progress import Progress

from tests.support.optional import present
from tests.unit.envs.alfworld.conftest import LoadStock, MakeGame, Play


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_the_expert_wins_from_wherever_play_has_led(task_type: str, game_file: MakeGame, play: Play) -> None:
    file = game_file(task_type)
    for seed in range(6):
        engine = play(file, 30, seed)
        if engine.won:
            continue
        left = len(present(plan(file.task, engine.facts)))
        progress = Progress(file.task, engine.facts)
        for remaining in range(left, 0, -1):
            assert len(present(plan(file.task, engine.facts))) == remaining
            assert not engine.won
            assert progress.rate(engine.facts) < 1
            advice = advise(file.task, engine)
            assert advice.action in engine.commands
            assert advice.thoughts.endswith(".")
            engine.step(advice.action)
        assert engine.won
        assert plan(file.task, engine.facts) == []
        assert progress.rate(engine.facts) == 1


@pytest.mark.parametrize(
    "task_type", ["pick_and_place_simple", "look_at_obj_in_light", "pick_clean_then_place_in_recep"]
)
def test_plans_are_as_short_as_fast_downwards(
    task_type: str, game_file: MakeGame, play: Play, stock: LoadStock
) -> None:
    file = game_file(task_type)
    theirs = stock(file.path)
    ours = play(file)
    theirs.reset()
    state = theirs.unwrapped._pddl_state
    for command in (None, "look", *(advise(file.task, ours).action,)):
        if command is not None:
            ours.step(command)
            theirs.step(command)
        optimal = state.replan(theirs.unwrapped._entity_infos)
        assert len(present(plan(file.task, ours.facts))) == len(optimal)


def test_thoughts_do_not_tell_what_closed_receptacles_hold(game_file: MakeGame, play: Play) -> None:
    file = game_file("pick_cool_then_place_in_recep")
    for seed in range(5):
        engine = play(file, 10, seed)
        while not engine.won:
            advice = advise(file.task, engine)
            closed = engine.facts.of("openable") - engine.facts.of("opened")
            hidden = {thing for thing, place in engine.facts.of("inreceptacle") if (place,) in closed}
            for thing in hidden:
                assert f"{engine.game.entities[thing].name} " not in f"{advice.thoughts} "
            engine.step(advice.action)
