"""Many questions to servers that speak OpenAI's protocol: as fast as they allow, within a budget, each paid for once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import openai
from aiolimiter import AsyncLimiter

from mmfuser_jax.mminstruct.prices import NO_TOKENS, Price, Tokens
from mmfuser_jax.mminstruct.project import ProjectError, Server

LOG = logging.getLogger(__name__)

ATTEMPTS = 6
"""Times that a question is asked while the server is busy or not there."""

AGAIN = (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError, openai.ConflictError)
"""Errors that go by: 429, 5xx, no connection, no answer in time, 409."""

HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Errors that all questions would meet: a wrong key, model or address."""

PASSING = ("busy", "unreachable")
"""Reasons why a question failed that may be gone another day: asked again by the next run."""


class AskingError(RuntimeError):
    """No question can be asked: the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """One question to a model.

    Attributes:
      step: of the engine.
      domain, image, kind, language: what it is about; `image` is the SHA-256 of a picture, or "".
      prompt: name and version of its template.
      seed: of everything that was drawn at random for it.
      system, text: the words.
      shown: whether the picture is sent along.
      schema: of the JSON that is asked for; None for text.
      tokens: at most, of the answer.
    """

    step: str
    domain: str
    image: str
    kind: str
    language: str
    prompt: str
    seed: int
    system: str
    text: str
    shown: bool = False
    schema: Mapping[str, Any] | None = None
    tokens: int = 1024

    def key(self, model: str) -> str:
        """Names the question in the ledger: equal questions to a model have equal keys."""
        fields = {**dataclasses.asdict(self), "model": model}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
      ask, model: what was asked, and of whom.
      text: of the reply, as far as it came.
      finish: why it ends: "stop", "length", "content_filter", "refusal"; "" where there is none.
      reason: why there is none, "" where there is one.
      detail: of the error.
      tokens: as the server counts them.
      attempts: times that it was asked.
      seconds: that the last time took.
    """

    ask: Ask
    model: str
    text: str = ""
    finish: str = ""
    reason: str = ""
    detail: str = ""
    tokens: Tokens = NO_TOKENS
    attempts: int = 1
    seconds: float = 0.0


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
    """One address and key."""

    def __init__(self, server: Server, variable: str) -> None:
        """`variable`: of the environment, that holds the key; "" for a server that wants none.

        Raises:
          AskingError: it is not set.
        """
        key = os.environ.get(variable, "") if variable else "none"
        if not key:
            raise AskingError(
                f"the environment has no {variable}, which project.yaml names as the key for {server.base_url}"
            )
        self.server = server
        self.pace = Pace(server.most)
        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=server.base_url, max_retries=0, timeout=server.timeout_seconds
        )
        self._requests = AsyncLimiter(server.requests_per_minute, 60) if server.requests_per_minute else None
        self._tokens = AsyncLimiter(server.tokens_per_minute, 60) if server.tokens_per_minute else None

    async def ask(self, ask: Ask, picture: bytes | None) -> Answer:
        """Asks once.

        Raises:
          openai.OpenAIError: as the client does.
        """
        if self._requests:
            await self._requests.acquire()
        if self._tokens:
            await self._tokens.acquire(min(at_most(ask).total, self._tokens.max_rate))
        begun = time.monotonic()
        reply = await self._client.chat.completions.create(**_body(ask, self.server, picture))
        return dataclasses.replace(_read(ask, reply), model=self.server.model, seconds=time.monotonic() - begun)

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.close()


def at_most(ask: Ask) -> Tokens:
    """About the most that a question takes: three letters or a Chinese character a token, 1,000 for a picture, all its room."""
    words = ask.system + ask.text
    wide = sum(ord(letter) > 0x2E80 for letter in words)
    return Tokens(wide + (len(words) - wide) // 3 + (1000 if ask.shown else 0), ask.tokens)


def _body(ask: Ask, server: Server, picture: bytes | None) -> dict[str, Any]:
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


def _read(ask: Ask, reply: Any) -> Answer:
    """An answer from the client's object, whatever the server left out of it."""
    usage = getattr(reply, "usage", None)
    tokens = Tokens(getattr(usage, "prompt_tokens", 0) or 0, getattr(usage, "completion_tokens", 0) or 0)
    choices = getattr(reply, "choices", None) or []
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        return Answer(ask, "", reason="garbage", detail=str(reply)[:300], tokens=tokens)
    refusal = getattr(message, "refusal", None)
    finish = "refusal" if refusal else choices[0].finish_reason or "stop"
    return Answer(ask, "", refusal or message.content or "", finish, tokens=tokens)


class Budget:
    """Money: what was spent, what questions on their way may cost, and the limit."""

    def __init__(self, price: Price, spent: float, limit: float | None) -> None:
        self.spent = spent
        self._price = price
        self._limit = limit
        self._reserved = 0.0

    def reserve(self, ask: Ask) -> bool:
        """Whether there is enough left for a question; then the most that it may cost is set aside."""
        cost = self._price.of(at_most(ask))
        if self._limit is not None and self.spent + self._reserved + cost > self._limit:
            return False
        self._reserved += cost
        return True

    def pay(self, answer: Answer) -> float:
        """What an answer has cost, instead of what was set aside for it."""
        self._reserved -= self._price.of(at_most(answer.ask))
        cost = self._price.of(answer.tokens)
        self.spent += cost
        return cost


@dataclasses.dataclass
class Outcome:
    """How asking ended.

    Attributes:
      asked: questions that have an answer or a reason now.
      stopped: "budget" or the signal's name, where questions were left; else "".
    """

    asked: int = 0
    stopped: str = ""


Taken = Callable[[Sequence[tuple[Answer, float]]], None]
"""Is given answers with their costs, in the order in which they come; writes them down before it returns."""


def ask_all(
    asks: Iterable[Ask], endpoints: Sequence[Endpoint], budget: Budget, picture: Callable[[Ask], bytes], take: Taken
) -> Outcome:
    """Asks everything, each question of whichever endpoint has room.

    Args:
      asks: drawn as there is room, so that their number costs no memory.
      endpoints: one at least.
      budget: where it ends, no more questions are sent, and those on their way are waited for. As after Ctrl-C and SIGTERM;
        the second signal ends the process, and with it answers that were on their way.
      picture: the JPEG file to send with a question that shows one.
      take: see `Taken`.

    Raises:
      AskingError: a key, model or address is wrong.
    """
    return asyncio.run(_Asking(endpoints, budget, picture, take).run(iter(asks)))


class _Asking:
    def __init__(
        self, endpoints: Sequence[Endpoint], budget: Budget, picture: Callable[[Ask], bytes], take: Taken
    ) -> None:
        if not endpoints:
            raise ProjectError("no server to ask: give one in project.yaml")
        self._endpoints = endpoints
        self._budget = budget
        self._picture = picture
        self._take = take
        self._outcome = Outcome()

    async def run(self, asks: Iterator[Ask]) -> Outcome:
        running: set[asyncio.Task[Answer]] = set()
        async with self._listening():
            try:
                while True:
                    running |= set(self._started(asks))
                    if not running:
                        return self._outcome
                    done, running = await asyncio.wait(running, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                    self._write(done)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                for endpoint in self._endpoints:
                    await endpoint.close()

    def _started(self, asks: Iterator[Ask]) -> Iterator[asyncio.Task[Answer]]:
        """Sends as many questions as there is room for."""
        while not self._outcome.stopped and (endpoint := self._free_endpoint()):
            ask = next(asks, None)
            if ask is None:
                return
            if not self._budget.reserve(ask):
                self._outcome.stopped = "budget"
                return
            endpoint.pace.running += 1
            yield asyncio.create_task(self._answer(ask, endpoint))

    def _free_endpoint(self) -> Endpoint | None:
        free = [endpoint for endpoint in self._endpoints if endpoint.pace.free(time.monotonic())]
        return max(free, key=lambda endpoint: endpoint.pace.limit - endpoint.pace.running, default=None)

    def _write(self, done: Iterable[asyncio.Task[Answer]]) -> None:
        answers = [task.result() for task in done]
        if answers:
            self._take([(answer, self._budget.pay(answer)) for answer in answers])
            self._outcome.asked += len(answers)

    async def _answer(self, ask: Ask, endpoint: Endpoint) -> Answer:
        try:
            picture = await asyncio.to_thread(self._picture, ask) if ask.shown else None
            return await _until_answered(ask, endpoint, picture)
        finally:
            endpoint.pace.running -= 1

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """The first signal lets no more questions go; the second one has its usual effect."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)

        def stop(number: signal.Signals) -> None:
            self._outcome.stopped = number.name
            LOG.warning("%s: waiting for answers on their way; a second one stops at once", number.name)
            for other in numbers:
                loop.remove_signal_handler(other)

        for number in numbers:
            loop.add_signal_handler(number, stop, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def _until_answered(ask: Ask, endpoint: Endpoint, picture: bytes | None) -> Answer:
    """Asks again while errors are of the kind that goes by."""
    rng, pace, server = random.Random(), endpoint.pace, endpoint.server
    for attempt in range(1, ATTEMPTS + 1):
        began = time.monotonic()
        try:
            answer = await endpoint.ask(ask, picture)
        except HOPELESS as error:
            raise AskingError(f"{server.base_url}, model {server.model}: {_short(error)}") from None
        except AGAIN as error:
            wait = min(60.0, 0.5 * 2**attempt) * (0.5 + rng.random())
            asked_for = _retry_after(error)
            pace.pushed_back(began, asked_for or 0.0)
            failed = "busy" if isinstance(error, openai.APIStatusError) else "unreachable"
            answer = Answer(ask, server.model, reason=failed, detail=_short(error), attempts=attempt)
            if attempt < ATTEMPTS:
                await asyncio.sleep(max(wait, asked_for or 0.0) * server.patience)
        except openai.APIError as error:  # this question is at fault, or its answer cannot be read
            filtered = "content" in str(getattr(error, "code", "") or "") or "content_filter" in str(error)
            reason = "content_filter" if filtered else "refused_by_server"
            if isinstance(error, openai.APIResponseValidationError) or not isinstance(error, openai.APIStatusError):
                reason = "garbage"
            return Answer(ask, server.model, reason=reason, detail=_short(error), attempts=attempt)
        except ValueError as error:  # no JSON where JSON was promised
            return Answer(ask, server.model, reason="garbage", detail=_short(error), attempts=attempt)
        else:
            pace.answered()
            return dataclasses.replace(answer, attempts=attempt)
    return answer


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _retry_after(error: Exception) -> float | None:
    """Seconds that the server asks to wait."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return min(600.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
