"""One address and key that answer questions in OpenAI's protocol: how fast, how often, and which errors mean what."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import os
import random
import time
from typing import Any

import openai
from aiolimiter import AsyncLimiter

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.prices import Tokens
from mmfuser_jax.mminstruct.config import Server
from mmfuser_jax.mminstruct.retry_after import seconds_of

ATTEMPTS = 6
"""Times that a question is asked while the server is busy or not there."""

AGAIN = (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError, openai.ConflictError)
"""Errors that go by: 429, 5xx, no connection, no answer in time, 409."""

HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Errors that all questions would meet: a wrong key, model or address."""

LONGEST_WAIT = 600.0
"""Seconds that a server may ask for."""

NO_MONEY = 402
"""Status of a server whose account has run out."""

PASSING = ("busy", "unreachable")
"""Reasons why a question failed that may be gone another day: asked again by the next run."""

PASSING_SQL = f"({', '.join(repr(reason) for reason in PASSING)})"
"""The same as a list of SQL."""


class AskingError(RuntimeError):
    """No question can be asked: the message says what to change."""


class Pace:
    """How many questions may be on their way: one more after each round of answers, a quarter less when pushed back."""

    def __init__(self, most: int) -> None:
        self.limit = float(min(4, most))
        self.running = 0
        self.resting_until = 0.0
        self._most = most
        self._cut = 0.0

    def free(self, now: float) -> bool:
        """Whether another question may go."""
        return self.running < int(self.limit) and now >= self.resting_until

    def answered(self) -> None:
        """The server had time for one."""
        self.limit = min(self._most, self.limit + 1 / self.limit)

    def pushed_back(self, began: float, wait: float) -> None:
        """The server wants fewer; of those sent before the last cut it has said so already."""
        now = time.monotonic()
        if began > self._cut:
            self.limit, self._cut = max(1.0, self.limit * 0.75), now
        self.resting_until = max(self.resting_until, now + wait)


class Endpoint:
    """One address and key.

    Attributes:
      server: of which address.
      variable: of the environment, that holds the key; "" for none.
      pace: how many questions may be on their way to it.
      client: speaks to it.
    """

    def __init__(self, server: Server, variable: str) -> None:
        """Reads the key.

        Raises:
          AskingError: the variable is not set.
        """
        key = os.environ.get(variable, "") if variable else "none"
        if not key:
            raise AskingError(
                f"the environment has no {variable}, which project.yaml names as the key for {server.base_url}"
            )
        self.server = server
        self.variable = variable
        self.pace = Pace(server.most)
        self.client = openai.AsyncOpenAI(
            api_key=key, base_url=server.base_url, max_retries=0, timeout=server.timeout_seconds
        )
        self._requests = AsyncLimiter(1, 60 / server.requests_per_minute) if server.requests_per_minute else None
        self._tokens = AsyncLimiter(server.tokens_per_minute, 60) if server.tokens_per_minute else None

    async def ask(self, ask: Ask, picture: bytes | None) -> Answer:
        """Asks, and asks again while errors are of the kind that goes by.

        Args:
          ask: the question.
          picture: the JPEG file that it shows; None for none.

        Raises:
          AskingError: a key, model or address is wrong.
        """
        server = self.server
        for attempt in range(1, ATTEMPTS + 1):
            began = time.monotonic()
            try:
                answer = await self._ask_once(ask, picture)
            except HOPELESS as error:
                raise AskingError(f"{server.base_url}, model {server.model}: {short(error)}") from None
            except AGAIN as error:
                wait = min(60.0, 0.5 * 2**attempt) * (0.5 + random.random())
                asked_for = _retry_after(error)
                self.pace.pushed_back(began, asked_for)
                failed = "busy" if isinstance(error, openai.APIStatusError) else "unreachable"
                answer = Answer(ask, server.model, reason=failed, detail=short(error), attempts=attempt)
                if attempt < ATTEMPTS:
                    await asyncio.sleep(max(wait * server.patience, asked_for))
            except openai.APIError as error:  # this question is at fault, or its answer cannot be read
                if getattr(error, "status_code", 0) == NO_MONEY:
                    raise AskingError(f"{server.base_url}, model {server.model}: {short(error)}") from None
                reason = fault(getattr(error, "code", ""), str(error))
                if isinstance(error, openai.APIResponseValidationError) or not isinstance(error, openai.APIStatusError):
                    reason = "garbage"
                return Answer(ask, server.model, reason=reason, detail=short(error), attempts=attempt)
            except ValueError as error:  # no JSON where JSON was promised
                return Answer(ask, server.model, reason="garbage", detail=short(error), attempts=attempt)
            else:
                self.pace.answered()
                return dataclasses.replace(answer, attempts=attempt)
        return answer

    async def _ask_once(self, ask: Ask, picture: bytes | None) -> Answer:
        if self._requests:
            await self._requests.acquire()
        if self._tokens:
            await self._tokens.acquire(min(ask.at_most(self.server.picture_tokens).total, self._tokens.max_rate))
        begun = time.monotonic()
        body = body_of(ask, self.server, picture)
        schema = {name: body.pop(name) for name in ["response_format"] if name in body}
        # The client walks through every field that it knows, at twice the cost of the rest: a schema goes past it.
        reply = await self.client.chat.completions.create(**body, extra_body=schema)
        return dataclasses.replace(read_reply(ask, reply), model=self.server.model, seconds=time.monotonic() - begun)

    async def close(self) -> None:
        """Ends its connections."""
        await self.client.close()


def body_of(ask: Ask, server: Server, picture: bytes | None) -> dict[str, Any]:
    """What is sent to ask a question; see `Endpoint.ask`."""
    content: Any = ask.text
    if picture is not None:
        address = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
        content = [{"type": "text", "text": ask.text}, {"type": "image_url", "image_url": {"url": address}}]
    body: dict[str, Any] = {
        "model": server.model,
        "messages": [{"role": "system", "content": ask.system}, {"role": "user", "content": content}],
        "max_tokens": ask.tokens,
        "temperature": server.temperature,
        "seed": ask.seed,
    }
    if ask.schema is not None and server.json_schema:
        schema = {"name": "items", "strict": True, "schema": dict(ask.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def read_reply(ask: Ask, reply: Any) -> Answer:
    """An answer from the client's object, whatever the server left out of it, without the model's name."""
    usage = getattr(reply, "usage", None)
    tokens = Tokens(getattr(usage, "prompt_tokens", 0) or 0, getattr(usage, "completion_tokens", 0) or 0)
    choices = getattr(reply, "choices", None) or []
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        return Answer(ask, "", reason="garbage", detail=str(reply)[:300], tokens=tokens)
    refusal = getattr(message, "refusal", None)
    finish = "refusal" if refusal else getattr(choices[0], "finish_reason", None) or "stop"
    return Answer(ask, "", refusal or message.content or "", finish, tokens=tokens)


def fault(code: object, text: str) -> str:
    """Why a server says that a question is at fault: a code of `reasons.ANSWERS`."""
    return "content_filter" if "content" in str(code or "") or "content_filter" in text else "refused_by_server"


def short(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _retry_after(error: Exception) -> float:
    """Seconds that the server asks to wait."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    return min(LONGEST_WAIT, seconds_of(headers.get("retry-after", "")))
