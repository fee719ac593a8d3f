"""Does the value loss reach the model? Gradient norms, layer by layer, with the stop-gradient on and off.

Updates of a tiny model in lab/Chain, with targets that are far from the critic's values. In all but one the policy's
loss has nothing to teach, so that each gradient in the model is the value's. Writes docs/results/gradient-isolation.md.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import matplotlib
import torch
from overworld_envs.lab.chain import Chain
from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.learner import Learner
from overworld_trainer.rollout import Step
from overworld_trainer.samples import Decision, Samples
from overworld_vlm.batch import encode
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from overworld_vlm.tiny import make_tiny
from overworld_vlm.writer import Request
from report import CONSOLE, Row, finish, parser
from rich.table import Table

STEPS = 32
TARGETS = 10.0
NAME = "gradient-isolation"
CASES = {
    "policy": (True, 1, False),
    "value, stop-gradient on": (True, 1, True),
    "value in the warm-up, on": (True, 0, True),
    "value, off": (False, 1, True),
}
"""Column -> whether the gradient is stopped, which update it is, and whether the value's loss is all there is."""

PAGE = """
# The value's gradient stays out of the model

<!-- Made by `make bench-isolation`. Changes by hand are lost. -->

![gradient norms by layer, without and with the stop-gradient]({name}.svg)

Norms of the gradients that one update leaves in a tiny vision-language model: {weights:,} weights, {steps} steps of
lab/Chain, value targets about {targets:g}. "Value" is an update whose advantages are 0 and that has no KL, so that only
the value's loss can leave a gradient. With `critic.stop_gradient` on there is none in any layer, to the last bit, in
the warm-up and after it. With it off the same loss reaches every layer.

{table}

`tests/unit/trainer/test_learner.py` holds the trainer to this.
""".strip()


def configured(stop_gradient: bool) -> TrainerConfig:
    """Settings of one optimizer step on all samples."""
    fields: dict[str, Any] = {
        "run": "unused",
        "envs": [{"id": "lab/Chain"}],
        "clone": {"updates": 1},
        "kl": {"kind": "none"},
        "policy": {"epochs": 1, "minibatch": STEPS, "max_grad_norm": 1e9},
        "critic": {
            "layers": [128],
            "epochs": 1,
            "minibatch": STEPS,
            "warmup_updates": 1,
            "warmup_epochs": 1,
            "stop_gradient": stop_gradient,
        },
    }
    return TrainerConfig(**fields)


def tiny() -> VLM:
    """A model that knows the words of the env."""
    return make_tiny([Chain.spec.task, '{"thoughts": "The sign is red.", "action": "left"}'])


def samples(vlm: VLM) -> Samples:
    """Replies to signs of Chain, with advantages and targets that are drawn."""
    prompts = []
    for seed in range(STEPS):
        shown = {"type": "image", "image": Chain().reset(seed, "", None).images[0].pixels}
        prompts.append(encode(vlm, [{"role": "user", "content": [shown, {"type": "text", "text": Chain.spec.task}]}]))
    requests = [Request(prompt, 8, key=(number,), temperature=1.0) for number, prompt in enumerate(prompts)]
    Engine(vlm, value_input="last_prompt_token").run(requests)
    random = torch.Generator().manual_seed(0)
    steps = []
    for request in requests:
        assert request.features is not None
        steps.append(
            Step(
                env=0,
                turn=0,
                prompt=request.prompt,
                reply=torch.tensor(request.tokens),
                logps=torch.tensor(request.logps),
                features=request.features,
                thinking=1,
                cut=False,
            )
        )
    return Samples(
        decisions={number: Decision(step, step.logps, step.logps) for number, step in enumerate(steps)},
        advantages=torch.randn(STEPS, generator=random),
        weights=torch.ones(STEPS),
        features=torch.stack([step.features for step in steps if step.features is not None]),
        targets=TARGETS + torch.randn(STEPS, generator=random),
        old_values=torch.zeros(STEPS),
        slots=torch.arange(STEPS),
        advantage_std=1.0,
    )


def norms(stop_gradient: bool, update: int, only_value: bool) -> dict[str, float]:
    """Layer -> norm of the gradients that an update leaves in it."""
    vlm = tiny()
    config = configured(stop_gradient)
    learner = Learner(config, vlm, Critic(vlm.hidden_size, config.critic.layers))
    batch = samples(vlm)
    if only_value:
        batch = dataclasses.replace(batch, advantages=torch.zeros(STEPS))
    learner.update(batch, update)
    squares: dict[str, float] = {}
    for name, weight in vlm.model.named_parameters():
        square = 0.0 if weight.grad is None else float(weight.grad.square().sum())
        squares[layer(name)] = squares.get(layer(name), 0.0) + square
    return {name: square**0.5 for name, square in squares.items()}


def layer(name: str) -> str:
    """Which layer a weight is in."""
    tower = "vision" if ".visual." in name else "language"
    found = re.search(r"(?:blocks|layers)\.(\d+)\.", name)
    if found:
        return f"{tower} {found[1]}"
    return f"{tower}, {'embedding' if 'embed' in name else 'merger' if 'merger' in name else 'last norm'}"


def draw(path: Path, found: dict[str, dict[str, float]]) -> None:
    """A group of bars per layer, on a logarithmic scale, on which nothing is no bar."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "overworld"}
    layers = list(next(iter(found.values())))
    with pyplot.rc_context(style):
        figure, axis = pyplot.subplots(figsize=(9, 3), layout="constrained")
        for place, (name, own) in enumerate(found.items()):
            heights = [own[one] for one in layers]
            label = name if any(heights) else f"{name}: 0 everywhere"
            axis.bar([number + 0.2 * place - 0.3 for number in range(len(layers))], heights, 0.2, label=label)
        axis.set_yscale("log")
        axis.set_xticks(range(len(layers)), layers, rotation=20, ha="right")
        axis.set_ylabel("gradient norm")
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def main() -> None:
    """Measures, writes the page, and reports."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--page", type=Path, default=Path("docs/results"), help="folder of the page")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    found = {name: norms(*case) for name, case in CASES.items()}
    chosen.page.mkdir(parents=True, exist_ok=True)
    draw(chosen.page / f"{NAME}.svg", found)
    lines = [f"| layer | {' | '.join(found)} |", f"| --- |{' --- |' * len(found)}"]
    shown = Table("layer", *found)
    for one in next(iter(found.values())):
        cells = [f"{own[one]:.3g}" for own in found.values()]
        lines.append(f"| {one} | {' | '.join(cells)} |")
        shown.add_row(one, *cells)
    CONSOLE.print(shown)
    weights = sum(weight.numel() for weight in tiny().model.parameters())
    page = PAGE.format(name=NAME, weights=weights, steps=STEPS, targets=TARGETS, table="\n".join(lines))
    (chosen.page / f"{NAME}.md").write_text(page + "\n")
    stopped = max(max(found[name].values()) for name in found if name.endswith("on"))
    least = min(found["value, off"].values())
    reached = 1.0 if stopped == 0 < least else 0.0
    finish(
        [Row("value's gradient", "largest norm, stopped", stopped, "", "least norm, not stopped", least, reached, 1.0)],
        chosen.json,
    )


if __name__ == "__main__":
    main()
