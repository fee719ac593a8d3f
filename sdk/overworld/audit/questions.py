"""The questions that an audit asks about an env. An id with a dot before `rfc` is one of OpenEnv's RFC 008."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question, by its number and its id."""

    number: str
    """As in "A12"; numbers do not change."""
    id: str
    """As in "semantic.floor_gap"."""
    asks: str
    """The question, so that "yes" is good."""
    remedy: str
    """What to do where the answer is no."""
    rfc: bool = False
    """Whether the id is one of OpenEnv's RFC 008, and asks what it asks there."""

    @property
    def section(self) -> str:
        """What it is about: a key of SECTIONS."""
        return next(name for name, numbers in SECTIONS.items() if self.number in numbers)


SECTIONS: dict[str, list[str]] = {}
"""Title -> numbers of its questions."""

QUESTIONS: dict[str, Question] = {}
"""Id -> question, in the order in which they are reported. Other modules may add theirs: `add`."""


def add(section: str, *questions: Question) -> None:
    """Adds questions to those that audits ask. Raises ValueError for a number or an id that there is already."""
    numbers = {number for known in SECTIONS.values() for number in known}
    for question in questions:
        if question.id in QUESTIONS or question.number in numbers:
            raise ValueError(f"there is a question {question.number} or {question.id} already")
        SECTIONS.setdefault(section, []).append(question.number)
        QUESTIONS[question.id] = question


add(
    "Reproducible",
    Question(
        "A1", "runtime.episode_determinism", "Does the same seed give the same episode?",
        "Draw all chance from a generator that `reset` makes from its seed.", rfc=True,
    ),
    Question(
        "A2", "runtime.seed_control", "Do different seeds give different episodes?",
        "Let `reset` seed the env's generator, with all 64 bits; where there is only one episode, say so.", rfc=True,
    ),
    Question(
        "A3", "runtime.episode_isolation", "Is an episode independent of those before it?",
        "Set everything that `step` changes in `reset`: counters, pictures, metrics.", rfc=True,
    ),
    Question(
        "A4", "runtime.slot_isolation", "Are slots independent of each other?",
        "Keep the state on the instance, never on the class or in the module.",
    ),
    Question(
        "A5", "runtime.process_determinism", "Does another process give the same episode, to the pixel?",
        "Sort what comes out of sets; draw nothing from the clock, the process or global generators.",
    ),
    Question(
        "A6", "runtime.task_declaration_accuracy", "Are tasks and splits what the spec says?",
        "Let `reset` use split and task; keep the tasks of a held-out split out of the others.", rfc=True,
    ),
)  # fmt: skip
add(
    "Reward and success",
    Question(
        "A7", "runtime.reward_well_formed", "Are rewards within the bounds of the spec, and 0 at a reset?",
        "Correct reward_min and reward_max, or the reward.", rfc=True,
    ),
    Question(
        "A8", "semantic.oracle_max", "Does the expert reach success and the best reward?",
        "Repair the expert or the verdict; give enough turns.", rfc=True,
    ),
    Question(
        "A9", "semantic.floor_gap", "Do agents that make no effort stay clearly below the expert?",
        "Look for a vacuous verdict; make what one repeated action earns worse than solving the task.", rfc=True,
    ),
    Question(
        "A10", "semantic.canary_floor", "Do malformed and hostile texts earn nothing?",
        "Compare answers as a whole; take no word of the agent's for a verdict, parse numbers strictly.", rfc=True,
    ),
    Question(
        "A11", "semantic.silence_floor", "Does a reply without an action earn nothing?",
        "`Env.skip` must return a reward of 0 or below, and never success.",
    ),
    Question(
        "A12", "semantic.honest_end", "Is running out of turns not called success, nor an end of the task?",
        "`won` and `success` must look at the state; a limit of turns of your own is End.RULE, without success.",
    ),
    Question(
        "A13", "semantic.farming", "Does going round in circles earn nothing?",
        "Pay for progress once, or take back when it is undone (potential-based shaping).",
    ),
    Question(
        "A14", "semantic.reward_success_agreement", "Do episodes that succeed earn more than those that fail?",
        "Check the sign of the reward, and that success and reward come from the same verdict.",
    ),
    Question(
        "A15", "semantic.success_reachable", "Can success be reached?",
        "Play it by hand (`overworld play`); add an expert, which shows that it can be done.",
    ),
)  # fmt: skip
add(
    "Leaks",
    Question(
        "A16", "semantic.no_solution_leakage", "Is the answer kept out of texts, lists, tensors and metrics?",
        "Remove what the finding names from the observation and the metrics.", rfc=True,
    ),
    Question(
        "A17", "semantic.blind_solution", "Does no fixed sequence of actions win whatever the episode?",
        "Draw starts and goals, so that an agent has to look.",
    ),
    Question(
        "A18", "semantic.metric_foresight", "Do metrics keep the outcome to themselves until it is decided?",
        "Report in a turn what is true in that turn, not what the episode will come to.",
    ),
    Question(
        "A19", "picture.text_silence", "Do texts leave to the picture what only the picture should tell?",
        "Take it out of the text, or say that the env is one for text.",
    ),
)  # fmt: skip
add(
    "Pictures",
    Question(
        "A20", "picture.shows_episode", "Do pictures differ between episodes that differ?",
        "Draw the state of this episode; check that the renderer gets it.",
    ),
    Question(
        "A21", "picture.shows_change", "Does the picture change as the agent acts?",
        "Draw after each step.",
    ),
    Question(
        "A22", "picture.freshness", "Is the picture that of this turn?",
        "Draw after the state has changed, at ends and resets, too.",
    ),
)  # fmt: skip
add(
    "Actions",
    Question(
        "A23", "runtime.tool_declaration_accuracy", "Are exactly the listed actions taken, and as they are listed?",
        "Let `resolve` compare texts as a whole; list in an observation what its state allows.", rfc=True,
    ),
    Question(
        "A24", "semantic.actions_matter", "Does it matter what the agent does?",
        "Check that `step` uses its action.",
    ),
)  # fmt: skip
add(
    "Running",
    Question(
        "A25", "runtime.episode_end", "Do episodes end, and within max_turns?",
        "End the episode when the task is over, and set max_turns.",
    ),
    Question(
        "A26", "runtime.robustness", "Does the env bear whatever an agent says?",
        "Handle every action within the bounds of the spec; do not evaluate texts.",
    ),
    Question(
        "A27", "runtime.resource_bounds", "Are time and memory bounded?",
        "Free at a reset what an episode took: lists, threads, files.", rfc=True,
    ),
)  # fmt: skip
