"""How long a server asks to wait before it is asked again."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime


def seconds_of(text: str) -> float:
    """Seconds that a header Retry-After says, as a number or as a time of day; 0 where it says neither."""
    try:
        seconds = float(text) if text.strip().replace(".", "", 1).isdecimal() else _until(text)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, seconds)


def _until(text: str) -> float:
    return parsedate_to_datetime(text).timestamp() - time.time()
