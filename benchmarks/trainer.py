"""What the trainer's work costs on a CPU: a turn's prompt, log-probs, bf16 weights, and whole runs.

`--part NAME` (several times) runs some parts only:

turn        a prompt of eight frames of 480 px of which seven were seen before, memory of a step, passes of a frame
            through the vision tower in a rollout and its update; peer: Hugging Face's Processor on the whole history
logprobs    peak memory of scoring replies with gradients; peer: log_softmax of all logits at once
bf16        weights that do not move in 20 steps of full fine-tuning in bfloat16; peer: plain Adam on bfloat16
end_to_end  env steps per second over whole updates, and where the time goes; peers: the trainer of commit
            f8116b0, if the clone has it, and `transformers` with batched generation and scoring
mixed       two envs of which one takes 200 ms a step, against the same commit
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trainer_numbers
import trainer_runs
import trainer_turn
from overworld_vlm.load import quieten_transformers
from report import Row, finish, parser

PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "turn": trainer_turn.rows,
    "logprobs": trainer_numbers.logprobs,
    "bf16": trainer_numbers.bf16,
    "end_to_end": trainer_runs.end_to_end,
    "mixed": trainer_runs.mixed,
}


def main() -> None:
    """Runs the parts and reports."""
    options = parser(__doc__ or "")
    options.add_argument("--part", action="append", choices=PARTS, help="run this part; default: all")
    arguments = options.parse_args()
    quieten_transformers()
    rows = [row for part in arguments.part or PARTS for row in PARTS[part]()]
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
