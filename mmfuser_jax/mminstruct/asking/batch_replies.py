"""What a server says in its files about questions that came in a file: a line for each, in any order, or none."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from openai.types.chat import ChatCompletion

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.endpoints import read_reply
from mmfuser_jax.mminstruct.asking.errors import DETAIL, reason_of_status

BUSY = 503


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

    def reason(self, proven: bool) -> str:
        """Why it is no answer, see `reason_of_status`; without a status, as of a busy server."""
        code, kind = self.error.get("code"), self.error.get("type")
        return reason_of_status(self.status or BUSY, code, kind, self.told, proven=proven)


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
      proven: see `reason_of_status`.
      without_key: see `Endpoint.without_key`.
    """
    if line.status == 200 and not line.error:
        try:
            answer = read_reply(ask, ChatCompletion.construct(**line.body))
        except (AttributeError, KeyError, TypeError) as error:
            answer = Answer(ask, model, reason="garbage", detail=f"{type(error).__name__}: {error}: {line.body}")
    else:
        answer = Answer(ask, model, reason=line.reason(proven) or "busy", detail=line.told)
    return dataclasses.replace(answer, model=model, detail=without_key(answer.detail)[:DETAIL])


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
