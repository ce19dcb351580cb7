"""What errors of servers mean: whether it is worthwhile to ask again, and what is kept of their words."""

from __future__ import annotations

import re

import openai

from mmfuser_jax.mminstruct.retry_after import seconds_of

AGAIN = (408, 409, 425, 429)
"""Statuses that go by, besides 500 and above."""

WRONG = (401, 404)
"""Statuses that all questions would meet: a wrong key, model or address."""

FORBIDDEN = 403
"""Status of a wrong key too; or of a question that a server forbids, which may answer others."""

NO_MONEY = 402
"""Status of a server whose account has run out."""

NO_QUOTA = "insufficient_quota"
"""Code or type of the same, which comes with the status of a busy server."""

FLAGGED = re.compile("content_filter|moderation|flagged", re.IGNORECASE)
"""What a server says that forbids a question for what is in it."""

DETAIL = 300
"""Letters of an error that are kept."""

LONGEST_WAIT = 600.0
"""Seconds that a server may ask for."""


def reason_of_status(status: int, code: object, kind: object, text: str, *, proven: bool) -> str:
    """Why a server gives no answer, as a code of `reasons.ANSWERS`; "" where all questions would meet the same.

    Args:
      status: of its reply.
      code, kind: which it gives of the error; None for none.
      text: which it says.
      proven: whether something was answered before: then a server that forbids a question may answer others.
    """
    if status == NO_MONEY or NO_QUOTA in (code, kind):
        return ""
    if status in AGAIN or status >= 500:
        return "busy"
    if status == FORBIDDEN and FLAGGED.search(text):
        return "content_filter"
    if status in WRONG or (status == FORBIDDEN and not proven):
        return ""
    return "content_filter" if "content" in str(code or "") or "content_filter" in text else "refused_by_server"


def reason_of(error: Exception, proven: bool) -> str:
    """The same of an error of the client."""
    if isinstance(error, openai.APIConnectionError):
        return "unreachable"
    if not isinstance(error, openai.APIStatusError):
        return "garbage"  # no JSON where JSON was promised
    return reason_of_status(error.status_code, error.code, error.type, str(error), proven=proven)


def line_of(error: Exception) -> str:
    """An error, with what has led to it, as the client itself says little of connections that fail."""
    causes = f" ({error.__cause__})" if isinstance(error, openai.APIConnectionError) and str(error.__cause__) else ""
    return " ".join(f"{type(error).__name__}: {error}{causes}".split())


def retry_after(error: Exception) -> float:
    """Seconds that the server asks to wait."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    return min(LONGEST_WAIT, seconds_of(headers.get("retry-after", "")))
