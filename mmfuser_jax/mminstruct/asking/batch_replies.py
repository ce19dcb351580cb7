"""What a server says in its files about questions that came in a file: a line for each, in any order, or none."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from openai.types.chat import ChatCompletion

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.endpoints import fault, read_reply

HOPELESS = (401, 403, 404)
"""Statuses that all questions would meet: a wrong key, model or address."""

PASSING = (408, 409, 429)
"""Statuses that go by, besides 500 and above."""


@dataclasses.dataclass(frozen=True)
class Line:
    """What was said about one question.

    Attributes:
      key: of the question.
      status: of HTTP; 0 where the question was not asked.
      body: of the answer.
      error: code and message, {} where there is none.
    """

    key: str
    status: int
    body: Mapping[str, Any]
    error: Mapping[str, Any]


def lines_of(content: bytes) -> Iterator[Line]:
    """The lines of a file that can be read."""
    for text in io.BytesIO(content):
        try:
            fields = json.loads(text)
        except ValueError:
            continue
        if isinstance(fields, dict) and isinstance(key := fields.get("custom_id"), str):
            response = _mapping(fields.get("response"))
            body = _mapping(response.get("body"))
            status = response.get("status_code")
            error = fields.get("error") or body.get("error")
            error = error if isinstance(error, dict) else {"message": str(error)} if error else {}
            yield Line(key, status if isinstance(status, int) else 0, body, error)


def answer_of(ask: Ask, model: str, line: Line) -> Answer:
    """A line as an answer; what may be gone another day has the reason "busy"."""
    if line.status == 200 and not line.error:
        try:
            return dataclasses.replace(read_reply(ask, ChatCompletion.construct(**line.body)), model=model)
        except (AttributeError, KeyError, TypeError) as error:
            detail = f"{type(error).__name__}: {error}: {line.body}"
            return Answer(ask, model, reason="garbage", detail=detail[:300])
    code, message = line.error.get("code"), str(line.error.get("message") or line.body or "it was not asked")
    passing = not line.status or line.status >= 500 or line.status in (*PASSING, *HOPELESS)
    detail = " ".join(f"{line.status or ''} {code or ''} {message}".split())[:300]
    return Answer(ask, model, reason="busy" if passing else fault(code, message), detail=detail)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
