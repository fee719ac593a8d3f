"""Envs with a defect of meaning each, for the audit to name: what is wrong -> question, and the env."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from typing import Any, ClassVar

import numpy as np
from overworld import End, Env, Expert, Image, Observation, Transition

from tests.support.sound_envs import COLOURS, MOVES, SIDE, Colour, Count, Dial, Meadow, MeadowOptions, Passage

DEFECTS: dict[str, tuple[str, type[Env]]] = {}


def plant(question: str, what: str) -> Any:
    """Registers a class as an env with a defect."""

    def register(env: type[Env]) -> type[Env]:
        DEFECTS[what] = (question, env)
        return env

    return register


def changed(transition: Transition, **changes: Any) -> Transition:
    values = {field.name: getattr(transition, field.name) for field in dataclasses.fields(transition)}
    return Transition(**{**values, **changes})


def spec(env: type[Env], **changes: Any) -> Any:
    return dataclasses.replace(env.spec, **changes)


# Seeds, episodes, slots, tasks


@plant("runtime.episode_determinism", "after fifteen moves the clock moves the walker")
class Clock(Meadow):
    def walk(self, action: str) -> None:
        super().walk(action)
        if self.moves > 15:
            self.walker = (time.monotonic_ns() // 1000 % SIDE, self.walker[1])


@plant("runtime.episode_determinism", "the generator goes on where the last episode left it")
class Continued(Meadow):
    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.chance = random.Random(7)

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self.begin()
        return self.look()


@plant("runtime.episode_determinism", "asking the expert draws from the episode's generator")
class CostlyAdvice(Meadow):
    def expert(self) -> Expert:
        self.chance.random()
        return super().expert()

    def walk(self, action: str) -> None:
        super().walk(action if self.chance.random() < 0.8 else "north")


@plant("runtime.seed_control", "the seed is ignored")
class Constant(Meadow):
    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        return super().reset(42, split, task)


@plant("runtime.seed_control", "only the lower half of the seed counts")
class HalfSeed(Meadow):
    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        return super().reset(seed & 0xFFFFFFFF, split, task)


@plant("runtime.episode_isolation", "the first success of an instance earns more than the later ones")
class Welcome(Meadow):
    greeted = False

    def step(self, action: str) -> Transition:
        transition = super().step(action)
        if not transition.success or not self.greeted:
            self.greeted = self.greeted or bool(transition.success)
            return transition
        return changed(transition, reward=0.9)


@plant("runtime.episode_isolation", "the first picture is the last one of the episode before")
class StaleReset(Meadow):
    last: Any = None

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        before = self.last
        look = super().reset(seed, split, task)
        return look if before is None else before

    def look(self) -> Observation:
        self.last = super().look()
        return self.last


@plant("runtime.slot_isolation", "the walker's place is in a list of the class")
class Shared(Meadow):
    places: ClassVar[list[Any]] = [(0, 0)]

    def begin(self) -> None:
        super().begin()
        self.places[0] = self.walker

    def walk(self, action: str) -> None:
        self.walker = self.places[0]
        super().walk(action)
        self.places[0] = self.walker


@plant("runtime.task_declaration_accuracy", "the number of the task is ignored")
class OneTask(Count):
    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        return super().reset(seed, split, 3)


@plant("runtime.task_declaration_accuracy", "the split for tests is the one for training")
class SameSplit(Count):
    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        return super().reset(seed, "train", task)


# Rewards and success


@plant("runtime.reward_well_formed", "success earns more than the spec says")
class Generous(Meadow):
    def step(self, action: str) -> Transition:
        transition = super().step(action)
        return changed(transition, reward=10.0) if transition.success else transition


@plant("semantic.oracle_max", "the expert gives an order that nobody knows")
class ForeignExpert(Meadow):
    def expert(self) -> Expert:
        return Expert("go " + super().expert().action, "I know the way.")


@plant("semantic.floor_gap", "every end is a success")
class Always(Colour):
    def right(self, action: str) -> bool:
        return True


@plant("semantic.floor_gap", "one button wins")
class Button(Colour):
    def right(self, action: str) -> bool:
        return action in ("blue", self.colour)


@plant("semantic.floor_gap", "bumping into the wall counts as arrival")
class Bump(Meadow):
    def walk(self, action: str) -> None:
        before = self.walker
        super().walk(action)
        if self.walker == before:
            self.walker = self.flower


@plant("semantic.canary_floor", "a text that contains the answer is right")
class Contains(Count):
    spec = spec(Count, action=dataclasses.replace(Count.spec.action, max_text_bytes=20_000))

    def right(self, action: str) -> bool:
        return str(self.number % 50) in action


@plant("semantic.canary_floor", "no number is near every number")
class NotANumber(Count):
    def right(self, action: str) -> bool:
        try:
            return not abs(float(action) - self.number) > 0.5
        except ValueError:
            return False


@plant("semantic.canary_floor", "the agent may write the verdict")
class Judge(Count):
    def right(self, action: str) -> bool:
        return super().right(action) or '"success": true' in action


@plant("semantic.canary_floor", "a long answer earns a bonus")
class Verbose(Count):
    def step(self, action: str) -> Transition:
        transition = super().step(action)
        return changed(transition, reward=0.3) if len(action) > 100 and not transition.success else transition


@plant("semantic.silence_floor", "saying nothing earns a little")
class Paid(Meadow):
    def skip(self, observation: Observation, metrics: Any) -> Transition:
        return Transition(observation, 0.1, metrics=metrics)


@plant("semantic.honest_end", "who has no turns left has won")
class Patience(Meadow):
    def won(self) -> bool:
        return True


@plant("semantic.honest_end", "a limit of its own is called success")
class Graduation(Meadow):
    def step(self, action: str) -> Transition:
        transition = super().step(action)
        if self.moves < 12:
            return changed(transition, end=None, success=None)
        return changed(transition, end=End.TASK, success=True)


@plant("semantic.honest_end", "a limit of its own is called an end of the task")
class Deadline(Meadow):
    def step(self, action: str) -> Transition:
        transition = super().step(action)
        over = self.moves == 15 and transition.end is None
        return changed(transition, end=End.TASK, success=False) if over else transition


@plant("semantic.farming", "coming nearer earns, and going away costs nothing")
class Nearer(Meadow):
    spec = spec(Meadow, reward_max=2.0)

    def step(self, action: str) -> Transition:
        before = self._distance()
        transition = super().step(action)
        return changed(transition, reward=float(transition.reward > 0) + 0.2 * (self._distance() < before))

    def _distance(self) -> int:
        return sum(abs(one - other) for one, other in zip(self.walker, self.flower, strict=True))


@plant("semantic.reward_success_agreement", "falling into the pit is called a success")
class Pit(Meadow):
    spec = spec(Meadow, reward_min=-1.0)

    def step(self, action: str) -> Transition:
        transition = super().step(action)
        fell = transition.end is None and self.walker == (0, 0)
        return changed(transition, end=End.TASK, success=True, reward=-1.0) if fell else transition


@plant("semantic.reward_success_agreement", "the reward has the wrong sign")
class Inverted(Meadow):
    spec = spec(Meadow, reward_min=-1.0)

    def step(self, action: str) -> Transition:
        transition = super().step(action)
        return changed(transition, reward=-transition.reward)


@plant("semantic.success_reachable", "arriving is never called success")
class Ungrateful(Meadow):
    def step(self, action: str) -> Transition:
        transition = super().step(action)
        return transition if transition.end is None else changed(transition, success=False)


# Leaks


class Talking(Meadow):
    def look(self) -> Observation:
        return Observation((*super().look().parts, self.say()))

    def say(self) -> str:
        raise NotImplementedError


@plant("semantic.no_solution_leakage", "the text says it backwards")
class Backwards(Talking):
    def say(self) -> str:
        return f"token {self.expert().action[::-1]}"


@plant("semantic.no_solution_leakage", "the right action is listed first")
class First(Passage):
    def admissible(self) -> tuple[str, ...]:
        listed = super().admissible()
        best = self.expert().action
        return (best, *(text for text in listed if text != best))


@plant("semantic.no_solution_leakage", "the first text has the whole way")
class Route(Meadow):
    def look(self) -> Observation:
        parts = super().look().parts
        return Observation(parts if self.moves else (*parts, f"Route: {', '.join(self.route())}."))

    def route(self) -> list[str]:
        start, route = self.walker, []
        while self.walker != self.flower:
            route.append(self.expert().action)
            self.walk(route[-1])
        self.walker = start
        return route


@plant("semantic.no_solution_leakage", "a tensor has the values of all actions")
class Values(Meadow):
    def look(self) -> Observation:
        values = np.zeros(4, np.float32)
        values[tuple(MOVES).index(self.expert().action)] = 1
        return Observation(super().look().parts, tensors={"q": values})


@plant("semantic.no_solution_leakage", "the question names the colour, and there is no expert")
class Caption(Colour):
    def look(self) -> Observation:
        return Observation((*super().look().parts, f"A {self.colour} square."))


@plant("semantic.no_solution_leakage", "the number stands in the text")
class Spoiler(Count):
    spec = spec(Count, task="Count the white squares.")

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        super().reset(seed, split, task)
        self.number += 1000
        return self.look()

    def text(self) -> str:
        return f"({self.number} of them are white.)"


@plant("picture.text_silence", "the text has the numbers that only the picture should show")
class Coordinates(Talking):
    def say(self) -> str:
        return f"you {self.walker[0]} flower {self.flower[0]}"

    def begin(self) -> None:
        super().begin()
        self.flower = (self.flower[0], self.walker[1])
        if self.flower == self.walker:
            self.flower = ((self.flower[0] + 3) % SIDE, self.flower[1])


@plant("picture.text_silence", "a code in the text goes with each colour")
class Code(Colour):
    def look(self) -> Observation:
        return Observation((*super().look().parts, f"item {'qxzw'[tuple(COLOURS).index(self.colour)]}"))


@plant("semantic.blind_solution", "flower and walker are always in the same places, the meadow's colour is not")
class Fixed(Meadow):
    def begin(self) -> None:
        super().begin()
        self.walker, self.flower = (0, 0), (4, 3)
        self.shade = self.chance.randrange(200)

    def draw(self) -> Any:
        pixels = super().draw()
        pixels[-1] = self.shade
        return pixels


@plant("semantic.metric_foresight", "a metric knows from the start how it will end")
class Prophet(Meadow):
    def begin(self) -> None:
        super().begin()
        self.solvable = self.chance.random() < 0.5

    def step(self, action: str) -> Transition:
        transition = super().step(action)
        if self.moves < 4:
            transition = changed(transition, reward=-0.05, end=None, success=None)
        elif self.moves == 4:
            transition = changed(transition, end=End.TASK, success=self.solvable)
        return changed(transition, metrics={"quality": float(self.solvable)})


# Pictures


@plant("picture.shows_episode", "the picture is drawn before the episode is made")
class Early(Colour):
    def look(self) -> Observation:
        return Observation((Image("view", np.full((6, 6, 3), 90, np.uint8)),))


@plant("picture.shows_episode", "the flower is not drawn")
class Flowerless(Meadow):
    def draw(self) -> Any:
        flower, self.flower = self.flower, self.walker
        pixels = super().draw()
        self.flower = flower
        return pixels


@plant("picture.shows_change", "the second of two images is always the same")
class Decoration(Meadow):
    def look(self) -> Observation:
        return Observation((*super().look().parts, Image("map", np.full((4, 4, 3), 9, np.uint8))))


@plant("picture.shows_change", "the picture is that of the reset, in all turns")
class Frozen(Talking):
    def begin(self) -> None:
        super().begin()
        self.frozen = super().draw()

    def draw(self) -> Any:
        return self.frozen

    def say(self) -> str:
        return f"{self.moves} moves"


@plant("picture.shows_change", "the picture is a film that does not know the walker")
class Film(Meadow):
    def draw(self) -> Any:
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[self.moves % 8] = 50 + sum(self.flower)
        return pixels


@plant("picture.freshness", "the picture is drawn before the step")
class Stale(Meadow):
    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self.before: Any = None
        look = super().reset(seed, split, task)
        self.before = super().draw()
        return look

    def draw(self) -> Any:
        now = super().draw()
        shown, self.before = (now if self.before is None else self.before), now
        return shown


@plant("picture.freshness", "the second of two images is one turn late")
class LateInset(Meadow):
    def begin(self) -> None:
        super().begin()
        self.before: Any = None

    def look(self) -> Observation:
        now = self.draw()
        shown, self.before = (now if self.before is None else self.before), now
        return Observation((Image("view", now), Image("inset", shown)))


@plant("picture.freshness", "the last picture is that of the next reset")
class ResetAtEnd(Meadow):
    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self.first = super().reset(seed, split, task)
        return self.first

    def step(self, action: str) -> Transition:
        transition = super().step(action)
        return transition if transition.end is None else changed(transition, observation=self.first)


@plant("picture.freshness", "the picture is drawn in every second turn only")
class Lazy(Meadow):
    def draw(self) -> Any:
        if self.moves % 2 == 0:
            self.drawn = super().draw()
        return self.drawn


@plant("picture.freshness", "the last picture is the one before the end")
class Late(Meadow):
    def step(self, action: str) -> Transition:
        before = self.look()
        transition = super().step(action)
        return transition if transition.end is None else changed(transition, observation=before)


# Actions


@plant("runtime.tool_declaration_accuracy", "a listed action is refused")
class Refusing(Passage):
    def resolve(self, action: Any, observation: Observation) -> Any:
        return None if action == "wait" else super().resolve(action, observation)


@plant("runtime.tool_declaration_accuracy", "an action that is not listed is taken")
class Lenient(Passage):
    def resolve(self, action: Any, observation: Observation) -> Any:
        return action if action in self.spec.action.vocabulary else super().resolve(action, observation)


@plant("runtime.tool_declaration_accuracy", "a text that contains an action is taken for it")
class Substring(Meadow):
    def resolve(self, action: Any, observation: Observation) -> Any:
        return next((move for move in MOVES if isinstance(action, str) and move in action), None)


@plant("runtime.tool_declaration_accuracy", "a listed action gets the answer that it cannot be done")
class Excuse(Passage):
    said = ""

    def step(self, action: str) -> Transition:
        self.said = "Nothing happens." if action == "west" else ""
        return super().step("wait" if action == "west" else action)

    def look(self) -> Observation:
        look = super().look()
        return Observation((*look.parts, self.said), look.admissible) if self.said else look


@plant("runtime.tool_declaration_accuracy", "the list has an action that does nothing, ever")
class Dead(Passage):
    def step(self, action: str) -> Transition:
        return Transition(self.look(), 0.0) if action == "wait" else super().step(action)


@plant("semantic.actions_matter", "west is east")
class Twins(Meadow):
    def walk(self, action: str) -> None:
        super().walk("east" if action == "west" else action)


@plant("semantic.actions_matter", "the walker goes its own way")
class Autopilot(Meadow):
    def walk(self, action: str) -> None:
        super().walk(self.chance.choice(tuple(MOVES)))


# Running


class EndlessOptions(MeadowOptions):
    max_turns: int = 100_000


@plant("runtime.episode_end", "nothing ends")
class Endless(Meadow):
    options_model = EndlessOptions
    spec = spec(Meadow, has_expert=False)

    def step(self, action: str) -> Transition:
        return changed(super().step(action), end=None, success=None)


@plant("runtime.robustness", "an answer that is no number raises")
class Fragile(Count):
    def right(self, action: str) -> bool:
        return int(action) == self.number


@plant("runtime.resource_bounds", "it keeps every picture")
class Hoarder(Meadow):
    kept: ClassVar[list[Any]] = []

    def draw(self) -> Any:
        self.kept.append(np.ones(100_000, np.uint8))
        return super().draw()


@plant("semantic.floor_gap", "the dial counts as turned wherever it is")
class Loose(Dial):
    def step(self, action: Any) -> Transition:
        return changed(super().step(action), end=End.TASK, success=True, reward=1.0)


class ByProcess(Meadow):
    """Its meadow has another colour in each process: audited by its name, it is played in two."""

    spec = spec(Meadow, id="defects/ByProcess")

    def draw(self) -> Any:
        pixels = super().draw()
        pixels[0, 0] = list(os.getpid().to_bytes(3, "big"))
        return pixels


BY_PROCESS = f"{__name__}:ByProcess"
