"""`python -m overworld_policy.template_process`: renders one chat template, as often as it is asked to.

Templates are programs that come with a model's folder. They cannot leave Jinja's sandbox, but they can loop for long
and take memory without bounds, in C code, too: hence a process, which the kernel ends or refuses memory.

Reads lines of JSON from stdin, the first {"template", "special_tokens"}, then {"messages", "max_characters"} for each
prompt. Writes a line for each of those: {"text"}, or {"characters"} if the prompt is longer than that, or {"error"}.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

MEMORY_MB = 512
CPU_SECONDS = 1
OUT_OF_MEMORY = 3
"""Exit status."""

_MAX_ERROR = 500


def main() -> None:
    """Until stdin ends, or a bound is exceeded."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MB << 20, MEMORY_MB << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    settings = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process
        answer = _render(settings, asked["messages"], asked["max_characters"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


def _render(settings: dict[str, Any], messages: list[dict[str, Any]], max_characters: int) -> dict[str, Any]:
    try:
        rendered, _ = render_jinja_template(
            [messages],
            chat_template=settings["template"],
            add_generation_prompt=True,
            **settings["special_tokens"],
        )
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # templates raise what they like
        return {"error": str(error)[:_MAX_ERROR] or type(error).__name__}
    text = rendered[0]
    return {"text": text} if len(text) <= max_characters else {"characters": len(text)}


if __name__ == "__main__":
    main()
