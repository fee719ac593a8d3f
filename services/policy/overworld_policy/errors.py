"""Errors as OpenAI's API reports them."""

from __future__ import annotations

_RETRY_SECONDS = "1"


class ApiError(Exception):
    """A request that is refused, with the HTTP status and OpenAI's error fields."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = {"Retry-After": _RETRY_SECONDS} if status in (429, 503) else {}


def bad_request(message: str, *, code: str = "invalid_value", param: str | None = None) -> ApiError:
    """Status 400."""
    return ApiError(400, message, code=code, param=param)
