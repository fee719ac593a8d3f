"""A model on an OpenAI-compatible server: ours, vLLM's or anybody's."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from overworld.errors import ModelServerError, NoCheckpointError
from overworld.evaluation.conversation import Message, Recipe, to_openai
from overworld.evaluation.model import Answer, Prompt
from overworld.service.extras import needs_extra

with needs_extra("eval"):
    import httpx

_logger = logging.getLogger(__name__)

_REQUEST_SECONDS = 600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_RETRIED = (408, 429, 500, 502, 503, 504)


class OpenAIModel:
    """The model `name` at `url` ("http://host:port/v1").

    temperature 0 is greedy. Up to `concurrency` requests run at a time; a request that fails for the moment is repeated
    for `retry_budget` seconds.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        api_key: str = "",
        temperature: float = 0.0,
        max_tokens: int = 256,
        concurrency: int = 16,
        retry_budget: float = 60.0,
    ) -> None:
        self.name = name
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.url = url.rstrip("/")
        self._budget = retry_budget
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=concurrency)
        self._http = httpx.Client(headers=headers, timeout=_REQUEST_SECONDS, limits=limits)
        self._executor = ThreadPoolExecutor(concurrency, "model")

    def __enter__(self) -> OpenAIModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._http.close()

    def names(self) -> list[str]:
        """What the name means now: run@latest and run@best are a checkpoint's name, run@all those of all checkpoints.

        Other names, and those of servers that say nothing of runs, stand for themselves. Raises ModelServerError.
        """
        run, _, which = self.name.partition("@")
        if which not in ("latest", "best", "all"):
            return [self.name]
        entries = self._entries()
        checkpoints = {
            f"{run}@{update}": update
            for entry in entries.values()
            if isinstance(described := entry.get("overworld"), dict) and described.get("run") == run
            if isinstance(update := described.get("update"), int)
        }
        if which == "all":
            found = sorted(checkpoints, key=lambda name: checkpoints[name])
        else:
            described = self._described() or {}
            found = [f"{run}@{described['update']}"] if isinstance(described.get("update"), int) else [self.name]
        if not found:
            raise NoCheckpointError(f"{self.url} has no checkpoint of {run!r}; it has {list(entries)}")
        return found

    def progress(self) -> tuple[int, int]:
        """(updates, env steps) that were made before this checkpoint. Raises ModelServerError."""
        described = self._described() or {}
        try:
            return int(described["update"]), int(described["env_steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelServerError(f"{self.url} does not say when {self.name!r} was made: {error!r}") from None

    def recipe(self) -> Recipe | None:
        """The recipe that the model was trained with, if its server says so (ours does). Raises ModelServerError."""
        described = self._described()
        try:
            return None if not described else Recipe.model_validate(described["recipe"])
        except (ValidationError, KeyError, TypeError) as error:
            raise ModelServerError(f"{self.url} describes {self.name!r} with an invalid recipe: {error}") from None

    def options(self, env_id: str) -> dict[str, Any]:
        """The options of the env in which the model was trained, if its server says so; else none.

        Raises ModelServerError.
        """
        described = self._described() or {}
        try:
            return next((dict(env["options"]) for env in described.get("envs", ()) if env["id"] == env_id), {})
        except (KeyError, TypeError, ValueError) as error:
            raise ModelServerError(f"{self.url} describes {self.name!r} with invalid envs: {error!r}") from None

    def answer_all(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Replies to (messages, seed), in order. Raises ModelServerError."""
        return list(self._executor.map(lambda prompt: self.answer(*prompt), prompts))

    def submit(self, prompt: Prompt) -> Future[Answer]:
        """Begins to reply; the future raises ModelServerError."""
        return self._executor.submit(self.answer, *prompt)

    def answer(self, messages: list[Message], seed: int) -> Answer:
        """The reply to one prompt; `seed` names the noise of sampling. Raises ModelServerError."""
        body = {
            "model": self.name,
            "messages": to_openai(messages),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": seed,
        }
        response = self._send("POST", "/chat/completions", body)
        try:
            choice = response["choices"][0]
            text = choice["message"]["content"]
            if not isinstance(text, str):
                raise TypeError(f"the content is {type(text).__name__}")
            text = text.encode(errors="replace").decode()  # JSON can hold half a surrogate pair
            return Answer(
                text,
                choice.get("finish_reason") == "length",
                str(response.get("system_fingerprint") or ""),
                *_tokens(response.get("usage")),
            )
        except (KeyError, IndexError, TypeError) as error:
            raise ModelServerError(f"{self.url} gave an answer without choices[0].message.content: {error!r}") from None

    def _described(self) -> Any:
        """What the server says of the model beyond OpenAI's fields."""
        entries = self._entries()
        if self.name not in entries:
            raise ModelServerError(f"{self.url} has no model {self.name!r}; it has {list(entries)}")
        return entries[self.name].get("overworld")

    def _entries(self) -> dict[str, dict[str, Any]]:
        """What the server says of its models, by their names."""
        listed = self._send("GET", "/models", None).get("data", [])
        return {str(entry.get("id")): entry for entry in listed if isinstance(entry, dict)}

    def _send(self, method: str, path: str, body: Any) -> dict[str, Any]:
        deadline = time.monotonic() + self._budget
        pause = _FIRST_PAUSE
        while True:
            try:
                response = self._http.request(method, self.url + path, json=body)
                if response.status_code not in _RETRIED:
                    break
                problem = f"status {response.status_code}: {response.text[:500]}"
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise ModelServerError(f"{self.url!r} is not an address like http://host:port/v1: {error}") from None
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            if time.monotonic() + pause > deadline:
                raise ModelServerError(
                    f"{self.url} did not answer within {self._budget:g} s ({problem}); is it running?"
                )
            if pause == _FIRST_PAUSE:
                _logger.warning("%s%s: %s; trying again for %g s", self.url, path, problem, self._budget)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        try:
            content = response.json()
        except ValueError:
            content = None
        if response.is_error or not isinstance(content, dict):
            raise ModelServerError(f"{self.url}{path}: status {response.status_code}: {response.text[:500]}")
        return content


def _tokens(usage: Any) -> tuple[int | None, int | None]:
    """The tokens of prompt and reply, where the server counts them."""
    counts = usage if isinstance(usage, dict) else {}
    prompt, completion = (counts.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return _count(prompt), _count(completion)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
