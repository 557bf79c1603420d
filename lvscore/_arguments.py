"""Numbers that callers give, NumPy's among them."""

import operator
from typing import SupportsIndex, cast

from lvscore.errors import ConfigError

__all__ = ["integer", "nanoseconds", "whole_number"]


def integer(value: object) -> int | None:
    """``value`` as an int; ``None`` where it is no integer: text, a float."""
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        return None


def nanoseconds(now: object) -> int:
    """A time as an int, or a ConfigError: a float, as time.time() gives, counts seconds."""
    number = integer(now)
    if number is None:
        raise ConfigError(f"now={now!r} is not an integer, in nanoseconds")
    return number


def whole_number(value: object, name: str, least: int, most: int) -> int:
    """``value`` as an int, or a ConfigError that says what ``name`` may be."""
    number = integer(value)
    if number is None or not least <= number <= most:
        raise ConfigError(f"{name} must be an integer in {least}..{most}, not {value!r}")
    return number
