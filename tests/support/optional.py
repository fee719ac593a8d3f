"""Values that a test needs and whose type allows None."""

from __future__ import annotations

from typing import TypeVar

Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """`value`, which must not be None."""
    assert value is not None
    return value
