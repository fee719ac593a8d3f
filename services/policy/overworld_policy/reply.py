"""One reply that is being written: its text as far as it is settled, and its choice in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overworld_vlm.writer import Request
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from overworld_policy.errors import ApiError, bad_request
from overworld_policy.grammar import Grammar
from overworld_policy.messages import ChatRequest


class _Text:
    """The text of tokens that are appended, decoded once each. Unfinished characters are left out."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._restart()

    def read(self, tokens: Sequence[int]) -> str:
        """The text of these tokens, of which it knows those that it has read before."""
        if len(tokens) < self._read:  # the reply is written again from its beginning
            self._restart()
        for token in tokens[self._read :]:
            self._text += self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
            self._read += 1
        return self._text

    def _restart(self) -> None:
        self._stream = DecodeStream(skip_special_tokens=True)
        self._read, self._text = 0, ""


class Reply:
    """Choice number `index` of a chat. `request` is what the engine works on; it must be given before anything else."""

    request: Request

    def __init__(
        self, index: int, asked: ChatRequest, tokenizer: PreTrainedTokenizerBase, grammar: Grammar | None
    ) -> None:
        self._index = index
        self._asked = asked
        self._tokenizer = tokenizer
        self._grammar = grammar
        self._stops = asked.stops
        self._stop_ids = frozenset(asked.stop_token_ids or ())
        self._longest_stop = max(map(len, self._stops), default=0)
        self._watched = _Text(tokenizer)  # on the decoder's thread
        self._streamed = _Text(tokenizer)  # on the event loop
        self._sent_characters = self._sent_tokens = 0

    def __repr__(self) -> str:
        return f"Reply({self._index}, {self.request!r})"

    @property
    def watches(self) -> bool:
        """Whether something that the model's own end token is not may end the reply."""
        return bool(self._stops or self._stop_ids)

    def stop(self, tokens: Sequence[int]) -> bool:
        """Whether the reply is to end with these tokens. Called on the decoder's thread."""
        seen = len(self._watched.read(tokens[:-1]))
        text = self._watched.read(tokens)
        if len(tokens) < (self._asked.min_tokens or 0):
            return False
        fresh = text[max(seen - self._longest_stop, 0) :]
        return tokens[-1] in self._stop_ids or any(stop in fresh for stop in self._stops)

    def check(self) -> None:
        """Raises ApiError for a reply that could not be written to its end."""
        if self.request.finish == "cancelled":
            raise ApiError(500, "the model failed while it wrote this reply; see the server's log", code="model_failed")
        if self._grammar is not None and self._grammar.failure:
            raise bad_request(f"the grammar led to where the reply cannot go on: {self._grammar.failure}")

    def choice(self) -> dict[str, Any]:
        """Of a plain answer."""
        text = self._tokenizer.decode(self.request.tokens, skip_special_tokens=True)
        return {
            "index": self._index,
            "message": {"role": "assistant", "content": text[: self._end(text)]},
            "finish_reason": self.request.finish,
            **self._details(0),
        }

    def opening(self) -> dict[str, Any]:
        """The first choice of a stream."""
        return {"index": self._index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}

    def news(self) -> dict[str, Any] | None:
        """The next choice of a stream, if there is anything new. Raises ApiError as `check` does."""
        finish = self.request.finish
        tokens = self.request.tokens[: len(self.request.logps)]  # the decoder's thread appends to one, then the other
        if finish is None:
            text = self._streamed.read(tokens)
            ready = min(len(text) - self._held_back(text), self._end(text))  # a stop text may be about to appear
        else:
            self.check()
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            ready = self._end(text)
        fresh = text[self._sent_characters : max(ready, self._sent_characters)]
        self._sent_characters += len(fresh)
        if not fresh and not (self._asked.return_token_ids and len(tokens) > self._sent_tokens):
            return None
        details = self._details(self._sent_tokens, len(tokens))
        self._sent_tokens = len(tokens)
        return {"index": self._index, "delta": {"content": fresh}, "finish_reason": None, **details}

    def closing(self) -> dict[str, Any]:
        """The last choice of a stream."""
        return {"index": self._index, "delta": {}, "finish_reason": self.request.finish}

    def _details(self, first: int, end: int | None = None) -> dict[str, Any]:
        """What is said about tokens beyond their text."""
        asked, request = self._asked, self.request
        logprobs = {"content": [self._logprob(at) for at in range(len(request.tokens))[first:end]]}
        details: dict[str, Any] = {"logprobs": logprobs if asked.logprobs else None}
        if asked.return_token_ids:
            details["token_ids"] = list(request.tokens[first:end])
        return details

    def _logprob(self, at: int) -> dict[str, Any]:
        request = self.request
        likeliest = request.likeliest[at] if request.likeliest else []
        return {
            **self._token(request.tokens[at], request.logps[at]),
            "top_logprobs": [self._token(token, logp) for token, logp in likeliest],
        }

    def _token(self, token: int, logp: float) -> dict[str, Any]:
        text: str = self._tokenizer.decode([token])
        spelled = None if "\ufffd" in text else list(text.encode())  # part of a character
        return {"token": text, "logprob": logp, "bytes": spelled}

    def _end(self, text: str) -> int:
        """Where the first stop text begins, or the text ends."""
        return min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=len(text))

    def _held_back(self, text: str) -> int:
        """Length of the text's end that may be the beginning of a stop text."""
        lengths = (
            size for stop in self._stops for size in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:size])
        )  # fmt: skip
        return max(lengths, default=0)
