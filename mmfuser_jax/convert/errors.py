"""The one error of this package."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 8
"""Names listed in an error before the rest is only counted."""


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message lists the tensors or the file, and says what to do."""


def listed(names: Iterable[str]) -> str:
    """Names, sorted, for an error: the first few, and how many more."""
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
