"""What a server says in its files about questions that came in a file: a line for each, in any order, or none."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from openai.types.chat import ChatCompletion

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.endpoints import (
    AGAIN_STATUSES,
    DETAIL,
    FLAGGED,
    NO_MONEY,
    NO_QUOTA,
    fault,
    read_reply,
)

FORBIDDEN = 403

HOPELESS = (401, NO_MONEY, 404)
"""Statuses that all questions would meet: a wrong key, model or address, or no money left."""

PASSING = (*AGAIN_STATUSES, 409, 429)
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

    @property
    def told(self) -> str:
        """The error in one line."""
        message = str(self.error.get("message") or self.body or "it was not asked")
        return " ".join(f"{self.status or ''} {self.error.get('code') or ''} {message}".split())

    @property
    def flagged(self) -> bool:
        """Whether the server forbids the question for what is in it."""
        return self.status == FORBIDDEN and bool(FLAGGED.search(self.told))

    def hopeless(self, proven: bool) -> bool:
        """Whether all questions would meet the same.

        Args:
          proven: whether something was answered before: then a server that forbids a question may answer others.
        """
        if self.status == FORBIDDEN:
            return not (proven or self.flagged)
        return self.status in HOPELESS or NO_QUOTA in (self.error.get("code"), self.error.get("type"))


def why_of(state: Any) -> str:
    """How a file ended, in one line, by the client's object."""
    told = [f"{error.code or ''} {error.message or ''}" for error in getattr(state.errors, "data", None) or ()]
    return " ".join(f"file {state.id} {state.status} {' '.join(told)}".split())


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


def answer_of(ask: Ask, model: str, line: Line, proven: bool, without_key: Callable[[str], str]) -> Answer:
    """A line as an answer; what may be gone another day has the reason "busy".

    Args:
      ask, model: what was asked, and of whom.
      line: about it.
      proven: see `Line.hopeless`.
      without_key: see `Endpoint.without_key`.
    """
    if line.status == 200 and not line.error:
        try:
            answer = dataclasses.replace(read_reply(ask, ChatCompletion.construct(**line.body)), model=model)
            return dataclasses.replace(answer, detail=without_key(answer.detail)[:DETAIL])
        except (AttributeError, KeyError, TypeError) as error:
            detail = without_key(f"{type(error).__name__}: {error}: {line.body}")
            return Answer(ask, model, reason="garbage", detail=detail[:DETAIL])
    passing = not line.status or line.status >= 500 or line.status in PASSING or line.hopeless(proven)
    reason = "busy" if passing else "content_filter" if line.flagged else fault(line.error.get("code"), line.told)
    return Answer(ask, model, reason=reason, detail=without_key(line.told)[:DETAIL])


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
