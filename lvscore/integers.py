"""Whole numbers in text, as programs in C read them.

``int()`` reads more: the digits of every script, ``1_0`` and blanks around a number. Of a number of
more than 4300 digits it raises :class:`ValueError`.
"""

import re

__all__ = ["parse_decimal", "parse_unsigned"]

_DECIMAL = re.compile("[0-9]+")
_UNSIGNED = re.compile("(0[xX])[0-9a-fA-F]+|(0)[0-7]*|[1-9][0-9]*")


def parse_decimal(text: str, low: int, high: int) -> int | None:
    """Return the number of ``low..high`` that is written in decimal digits; ``None`` if none is."""
    return _within(text, 10, low, high) if _DECIMAL.fullmatch(text) else None


def parse_unsigned(text: str, high: int) -> int | None:
    """Return the number of ``0..high`` that strtoul(3) reads with base 0: ``31``, ``0x1f`` or
    ``037``; ``None`` if it is none."""
    found = _UNSIGNED.fullmatch(text)
    return found and _within(text, 16 if found[1] else 8 if found[2] else 10, 0, high)


def _within(digits: str, base: int, low: int, high: int) -> int | None:
    try:
        number = int(digits, base)
    except ValueError:  # too many of them
        return None
    return number if low <= number <= high else None
