"""The SDK's extras: packages that only some of its parts need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from overworld.errors import MissingExtraError


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around the imports of what an extra of the SDK brings. Raises MissingExtraError where they are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed; it comes with: pip install 'overworld[{extra}]'", name=error.name
        ) from error
