"""Many questions to servers that speak OpenAI's protocol: as fast as they allow, within a budget, each paid for once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.endpoints import AskingError, Endpoint
from mmfuser_jax.mminstruct.asking.prices import Price, Tokens
from mmfuser_jax.mminstruct.project import ProjectError

LOG = logging.getLogger(__name__)

FIRST = 8
"""Questions after which, if none of them was answered, something is thought to be wrong with the server or the config."""


class Budget:
    """Money: what was spent, what questions on their way may cost, and the limit."""

    def __init__(self, price: Price, spent: float, limit: float | None, picture: int = 1000) -> None:
        """Arguments:
        price: of tokens.
        spent: so far, in US dollars.
        limit: of all that is spent; None for none.
        picture: tokens that one costs.
        """
        self.spent = spent
        self._price = price
        self._picture = picture
        self._limit = limit
        self._reserved = 0.0

    def reserve(self, ask: Ask) -> bool:
        """Whether there is enough left for a question; then the most that it may cost is set aside."""
        cost = self.most(ask)
        if self._limit is not None and self.spent + self._reserved + cost > self._limit:
            return False
        self._reserved += cost
        return True

    def most(self, ask: Ask) -> float:
        """The most that a question may cost, US dollars."""
        return self._price.of(ask.at_most(self._picture))

    def set_aside(self, usd: float) -> None:
        """Money for questions that are on their way since an earlier run; below 0 lets go of it."""
        self._reserved += usd

    def pay(self, answer: Answer) -> float:
        """What an answer has cost, instead of what was set aside for it."""
        self.set_aside(-self.most(answer.ask))
        return self.spend(answer.tokens)

    def spend(self, tokens: Tokens) -> float:
        """What tokens have cost for which nothing was set aside."""
        cost = self._price.of(tokens)
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
    asking = _Asking(endpoints, budget, picture, take)

    async def run() -> Outcome:
        try:
            async with listening(asking.stop):
                return await asking.run(iter(asks))
        finally:
            for endpoint in endpoints:
                await endpoint.close()

    return asyncio.run(run())


async def ask_chunk(
    asks: Iterable[Ask], endpoints: Sequence[Endpoint], budget: Budget, picture: Callable[[Ask], bytes], take: Taken
) -> Outcome:
    """As `ask_all`, in a loop that runs already and may do so several times at once: heeds no signals, ends no connections."""
    asking = _Asking(endpoints, budget, picture, take)
    asking.begun()
    return await asking.run(iter(asks))


@contextlib.asynccontextmanager
async def listening(stop: Callable[[str], None]) -> AsyncIterator[None]:
    """While the block runs, `stop` is given the name of the first SIGINT or SIGTERM; a second one has its usual effect."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def heard(number: signal.Signals) -> None:
        for other in numbers:
            loop.remove_signal_handler(other)
        stop(number.name)

    for number in numbers:
        loop.add_signal_handler(number, heard, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


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
        self._drawn = False
        self._refused_money: Ask | None = None
        self._in_vain: list[Answer] | None = []  # until something was of use

    def begun(self) -> None:
        """Others have asked before: if the first questions here are in vain, nothing is known to be wrong with the server."""
        self._in_vain = None

    def stop(self, name: str) -> None:
        """Lets no more questions go."""
        self._outcome.stopped = name
        LOG.warning("%s: waiting for answers on their way; a second one stops at once", name)

    async def run(self, asks: Iterator[Ask]) -> Outcome:
        """Asks until there is nothing left to ask, or it is stopped."""
        running: set[asyncio.Task[Answer]] = set()
        try:
            while True:
                running |= set(self._started(asks))
                if running:
                    done, running = await asyncio.wait(running, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                    self._write(done)
                elif self._refused_money:
                    self._outcome.stopped = "budget"
                    self._refused_money = None
                elif self._drawn or self._outcome.stopped:
                    self._write_answers(self._in_vain or [])
                    return self._outcome
                else:  # all endpoints rest
                    await asyncio.sleep(0.05)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _started(self, asks: Iterator[Ask]) -> Iterator[asyncio.Task[Answer]]:
        """Sends as many questions as there is room for."""
        while not self._outcome.stopped and (endpoint := self._free_endpoint()):
            ask = self._refused_money or next(asks, None)
            if ask is None:
                self._drawn = True
                return
            if not self._budget.reserve(ask):
                self._refused_money = ask  # until those on their way have cost less than was set aside for them
                return
            self._refused_money = None
            endpoint.pace.running += 1
            yield asyncio.create_task(self._answer(ask, endpoint))

    def _free_endpoint(self) -> Endpoint | None:
        free = [endpoint for endpoint in self._endpoints if endpoint.pace.free(time.monotonic())]
        return max(free, key=lambda endpoint: endpoint.pace.limit - endpoint.pace.running, default=None)

    def _write(self, done: Collection[asyncio.Task[Answer]]) -> None:
        """Answers first: one of these tasks may have met what ends it all."""
        errors = [error for task in done if (error := task.exception())]
        answers = [task.result() for task in done if not task.exception()]
        if self._in_vain is not None:
            self._in_vain += answers
            answers = []
            if any(not answer.reason for answer in self._in_vain):
                answers, self._in_vain = self._in_vain, None
            elif len(self._in_vain) >= FIRST:
                last = self._in_vain[-1]
                raise AskingError(
                    f"{self._endpoints[0].server.base_url}: none of the first {len(self._in_vain)} questions was answered "
                    f"({last.reason}: {last.detail}); look at base_url, model and json_schema in project.yaml"
                )
        self._write_answers(answers)
        if errors:
            raise errors[0]

    def _write_answers(self, answers: Sequence[Answer]) -> None:
        if answers:
            self._take([(answer, self._budget.pay(answer)) for answer in answers])
            self._outcome.asked += len(answers)

    async def _answer(self, ask: Ask, endpoint: Endpoint) -> Answer:
        try:
            picture = await asyncio.to_thread(self._picture, ask) if ask.shown else None
            return await endpoint.ask(ask, picture)
        finally:
            endpoint.pace.running -= 1
