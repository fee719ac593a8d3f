"""Chat templates, each rendered by a process of its own: a template that misbehaves holds up nobody but its users."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from overworld_vlm.batch import Message
from transformers import PreTrainedTokenizerBase

from overworld_policy.template_process import CPU_SECONDS, MEMORY_MB, OUT_OF_MEMORY

_logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 60.0
"""How long a template is not tried again after it has exceeded its bounds."""

_MAX_LINE = 64 << 20


class TemplateError(Exception):
    """A template that does not render these messages; the message says why."""


class RenderedTooLongError(TemplateError):
    """A template that makes a longer text of these messages than is allowed."""

    def __init__(self, characters: int) -> None:
        super().__init__(f"the prompt has {characters} characters")


class TemplateStoppedError(TemplateError):
    """A template that was stopped when it exceeded its bounds."""


class Templates:
    """The chat templates of models. The processes of the `kept` ones that were used last go on running."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._templates: OrderedDict[str, _Template] = OrderedDict()

    def __repr__(self) -> str:
        return f"Templates({list(self._templates.values())!r})"

    async def render(self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_characters: int) -> str:
        """The prompt that messages make, with the opening of the assistant's turn. Raises TemplateError."""
        try:
            settings = json.dumps(
                {"template": tokenizer.get_chat_template(), "special_tokens": tokenizer.special_tokens_map}
            )
        except ValueError as error:
            raise TemplateError(str(error)) from None
        template = self._templates.setdefault(settings, _Template(settings))
        self._templates.move_to_end(settings)
        while len(self._templates) > self._kept:
            self._templates.popitem(last=False)[1].retire()
        asked = json.dumps({"messages": messages, "max_characters": max_characters})
        # A client that hangs up must not leave an answer behind, which the next one would take for its own.
        return await asyncio.shield(asyncio.create_task(template.render(asked)))

    async def close(self) -> None:
        """Ends the processes."""
        for template in self._templates.values():
            await template.close()


class _Template:
    """A template with its process, if that runs."""

    def __init__(self, settings: str) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._problem = ""
        self._not_before = 0.0
        self._retired = False

    def __repr__(self) -> str:
        return f"<_Template of {len(self._settings):,} characters, {self._problem or 'sound'}>"

    async def render(self, asked: str) -> str:
        """The text of one line of JSON, {"messages", "max_characters"}. Raises TemplateError."""
        async with self._lock:
            if time.monotonic() < self._not_before:
                raise TemplateStoppedError(self._problem)
            process = self._process = self._process or await self._start()
            try:
                answer = await self._ask(process, asked)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                answer = None
                await self._explain(process)
            if self._retired:
                self._end()
        match answer:
            case {"text": str(text)}:
                return text
            case {"characters": int(characters)}:
                raise RenderedTooLongError(characters)
            case {"error": str(error)}:
                raise TemplateError(error)
        raise TemplateStoppedError(self._problem)

    def retire(self) -> None:
        """Ends the process, if need be after what it is doing."""
        self._retired = True
        if not self._lock.locked():
            self._end()

    async def close(self) -> None:
        """Ends the process, whatever it does, and waits for its end."""
        process = self._process
        self._retired = True
        self._end()
        if process is not None:
            await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "overworld_policy.template_process",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_MAX_LINE,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # whose threads take address space
            start_new_session=True,  # Ctrl-C is for the server, which finishes what it has begun
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(f"{self._settings}\n".encode())
        return process

    async def _ask(self, process: asyncio.subprocess.Process, asked: str) -> Any:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{asked}\n".encode())
        await process.stdin.drain()
        return json.loads(await process.stdout.readuntil(b"\n"))

    async def _explain(self, process: asyncio.subprocess.Process) -> None:
        """Says what the process has died of, and keeps the template from being tried again for a while."""
        self._end()
        status = await process.wait()
        what = {
            -signal.SIGPROF: f"took more than {CPU_SECONDS} s of CPU time",
            OUT_OF_MEMORY: f"took more than {MEMORY_MB} MB of memory",
        }.get(status, f"made its process end with status {status}")
        self._problem = (
            f"the model's chat template {what}; correct it in the model's folder (it is tried again after "
            f"{_PAUSE_SECONDS:g} s)"
        )
        self._not_before = time.monotonic() + _PAUSE_SECONDS
        _logger.error("%s", self._problem)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)  # asyncio's own `kill` may take the status away from its watcher
