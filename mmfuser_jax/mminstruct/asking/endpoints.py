"""One address and key that answer questions in OpenAI's protocol: how fast, how often, what is sent and what comes back."""

from __future__ import annotations

import base64
import dataclasses
import logging
import os
import random
import re
import time
from typing import Any

import openai
from aiolimiter import AsyncLimiter

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.errors import DETAIL, line_of, reason_of, retry_after
from mmfuser_jax.mminstruct.asking.prices import Tokens
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.reasons import PASSING

LOG = logging.getLogger(__name__)

ATTEMPTS = 6
"""Times that a question is asked while the server is busy or not there."""

KEY = re.compile(r"[!-~]+")
"""What every key is: letters that a header can hold."""


class AskingError(RuntimeError):
    """No question can be asked: the message says what to change."""


def pause(times: int) -> float:
    """Seconds, about twice as many each time, before something that did not work is tried again."""
    return min(60.0, 0.5 * 2**times) * (0.5 + random.random())


class Pace:
    """How many questions may be on their way: one more after each round of answers, a quarter less when pushed back.

    Attributes:
      limit: questions.
      running: that are on their way.
      resting_until: time before which no more are sent, as the server has asked for it.
      avoided_until: time before which others are asked instead, as nothing was answered round after round.
    """

    def __init__(self, most: int, patience: float = 1.0) -> None:
        """`most`: questions; `patience`: factor of pauses."""
        self.limit = float(min(4, most))
        self.running = 0
        self.resting_until = self.avoided_until = 0.0
        self._most = most
        self._patience = patience
        self._cut = 0.0
        self._in_vain = 0

    def free(self, now: float) -> bool:
        """Whether another question may go."""
        return self.running < int(self.limit) and now >= self.resting_until

    def answered(self) -> None:
        """The server had time for one."""
        self.limit = min(self._most, self.limit + 1 / self.limit)
        self._in_vain, self.avoided_until = 0, 0.0

    def pushed_back(self, began: float, wait: float) -> None:
        """The server wants fewer; of those sent before the last cut it has said so already."""
        now = time.monotonic()
        if began > self._cut:
            self.limit, self._cut = max(1.0, self.limit * 0.75), now
            self._in_vain += 1
            if self._in_vain > 1:
                self.avoided_until = now + pause(self._in_vain) * self._patience
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
        """Reads the key; blanks around it, as files leave them, are none of it.

        Raises:
          AskingError: the variable is not set, or holds what can be no key.
        """
        key = os.environ.get(variable, "").strip() if variable else "none"
        if not key:
            raise AskingError(
                f"the environment has no {variable}, which project.yaml names as the key for {server.base_url}"
            )
        if not KEY.fullmatch(key):  # the client would refuse it, and say it
            raise AskingError(f"{variable}: what it holds is no key; it has letters that no key has")
        self.server = server
        self.variable = variable
        self.pace = Pace(server.most, server.patience)
        self.client = openai.AsyncOpenAI(
            api_key=key, base_url=server.base_url, max_retries=0, timeout=server.timeout_seconds
        )
        self._key = re.compile(re.escape(key), re.IGNORECASE) if variable else None
        self._warned = False
        self._requests = AsyncLimiter(1, 60 / server.requests_per_minute) if server.requests_per_minute else None
        self._tokens = AsyncLimiter(server.tokens_per_minute, 60) if server.tokens_per_minute else None

    async def admit(self, ask: Ask) -> None:
        """Waits until the limits of a minute let a question go, whose size may be beyond them."""
        if self._requests:
            await self._requests.acquire()
        left = ask.at_most(self.server.picture_tokens).total
        while self._tokens and left > 0:
            await self._tokens.acquire(min(left, self._tokens.max_rate))
            left -= int(self._tokens.max_rate)

    async def ask(self, ask: Ask, picture: bytes | None, proven: bool) -> Answer:
        """Asks once.

        Args:
          ask: the question.
          picture: the JPEG file that it shows; None for none.
          proven: whether something was answered before: then a server that forbids a question may answer others.

        Returns:
          An answer, whose `detail` has no key in it. Its reason is one of `PASSING` where it is worthwhile to ask again.

        Raises:
          AskingError: a key, model or address is wrong, or there is no money left.
        """
        began = time.monotonic()
        try:
            answer = await self._ask_once(ask, picture)
        except (openai.APIError, ValueError) as error:
            reason, told = reason_of(error, proven), self.told(error)
            if not reason:
                raise AskingError(f"{self.server.base_url}, model {self.server.model}: {told}") from None
            detail = f"{self.server.base_url}: {told}"
            if reason in PASSING:
                self._push_back(error, began, detail)
            return Answer(ask, self.server.model, reason=reason, detail=detail)
        self.pace.answered()
        if answer.reason:  # it has said something else
            detail = f"{self.server.base_url}: {self.without_key(answer.detail)[:DETAIL]}"
            return dataclasses.replace(answer, detail=detail)
        return answer

    def _push_back(self, error: Exception, began: float, detail: str) -> None:
        if not self._warned:
            LOG.warning("%s; such questions are asked again", detail)
            self._warned = True
        self.pace.pushed_back(began, retry_after(error))

    async def _ask_once(self, ask: Ask, picture: bytes | None) -> Answer:
        begun = time.monotonic()
        body = body_of(ask, self.server, picture)
        # The client walks through every field that it knows, at twice the cost of the rest: most go past it.
        known = {name: body.pop(name) for name in ("model", "messages")}
        reply = await self.client.chat.completions.create(**known, extra_body=body)
        return dataclasses.replace(read_reply(ask, reply), model=self.server.model, seconds=time.monotonic() - begun)

    def told(self, error: Exception) -> str:
        """An error in one line, without the key."""
        return self.without_key(line_of(error))[:DETAIL]

    def without_key(self, text: str) -> str:
        """What a server says, which may repeat its key: with "…" instead; and without half letters, which no file can hold."""
        text = writable(text)
        return self._key.sub("…", text) if self._key else text

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
        **server.extra,
        "model": server.model,
        "messages": [{"role": "system", "content": ask.system}, {"role": "user", "content": content}],
        server.tokens_field: ask.tokens,
        "seed": ask.seed,
    }
    if server.temperature is not None:
        body["temperature"] = server.temperature
    if ask.schema is not None and server.json_schema:
        schema = {"name": "items", "strict": True, "schema": dict(ask.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def writable(text: str) -> str:
    """A text with "?" for halves of letters, as of an emoji that was cut."""
    return text.encode(errors="replace").decode()


def read_reply(ask: Ask, reply: Any) -> Answer:
    """An answer from the client's object, whatever the server left out of it, without the model's name."""
    usage = getattr(reply, "usage", None)
    counts = [getattr(usage, name, 0) for name in ("prompt_tokens", "completion_tokens")]
    tokens = Tokens(*(count if isinstance(count, int) else 0 for count in counts))
    choices = getattr(reply, "choices", None) or []
    message = getattr(choices[0], "message", None) if choices else None
    content = getattr(message, "content", None) or ""
    if message is None or not isinstance(content, str):
        return Answer(ask, "", reason="garbage", detail=str(reply), tokens=tokens)
    refusal = getattr(message, "refusal", None)
    finish = "refusal" if refusal else getattr(choices[0], "finish_reason", None) or "stop"
    return Answer(ask, "", writable(str(refusal or content)), writable(str(finish)), tokens=tokens)
