"""Sizes in bytes as people write and read them."""

import re
from decimal import Decimal

from pipeline.errors import PipelineError

_UNITS = ("", "K", "M", "G", "T", "P")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGTP])(iB?|B)?|B|bytes?)?", re.IGNORECASE)


def parse_bytes(text: str, *, name: str) -> int:
    """Read a size such as ``5GiB``, ``1.5 G``, ``500MB`` or ``0``.

    Args:
        text: A number with or without a unit, in any case. ``G`` and ``GiB`` are 1024³ bytes, ``GB`` is 1000³.
        name: The option or parameter, for the message.

    Returns:
        Whole bytes, rounded down.

    Raises:
        PipelineError: If the text is no such size.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise PipelineError(
            f"{name}: {text!r} is not a size; expected a number with or without a unit, such as 5GiB, 500MB or 0"
        )
    number, prefix, ending = found[1], (found[2] or "").upper(), (found[3] or "").upper()
    base = 1000 if ending == "B" else 1024
    return int(Decimal(number) * base ** _UNITS.index(prefix))


def show_bytes(size_bytes: int) -> str:
    """Write a size with about three digits: ``0 B``, ``1.5 KiB``, ``10 GiB``."""
    size, unit = float(size_bytes), 0
    while round(size, 1) >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    number = f"{size:.1f}" if size < 100 else f"{size:.0f}"
    return f"{number.removesuffix('.0')} {_UNITS[unit]}{'iB' if unit else 'B'}"
