"""Many questions to servers that speak OpenAI's protocol: as fast as they allow, within a budget, each paid for once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence

from mmfuser_jax.mminstruct.endpoints import Endpoint
from mmfuser_jax.mminstruct.prices import Price
from mmfuser_jax.mminstruct.project import ProjectError
from mmfuser_jax.mminstruct.questions import Answer, Ask

LOG = logging.getLogger(__name__)


class Budget:
    """Money: what was spent, what questions on their way may cost, and the limit."""

    def __init__(self, price: Price, spent: float, limit: float | None) -> None:
        self.spent = spent
        self._price = price
        self._limit = limit
        self._reserved = 0.0

    def reserve(self, ask: Ask) -> bool:
        """Whether there is enough left for a question; then the most that it may cost is set aside."""
        cost = self._price.of(ask.at_most)
        if self._limit is not None and self.spent + self._reserved + cost > self._limit:
            return False
        self._reserved += cost
        return True

    def pay(self, answer: Answer) -> float:
        """What an answer has cost, instead of what was set aside for it."""
        self._reserved -= self._price.of(answer.ask.at_most)
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

    def _write(self, done: Collection[asyncio.Task[Answer]]) -> None:
        """Answers first: one of these tasks may have met what ends it all."""
        errors = [error for task in done if (error := task.exception())]
        answers = [task.result() for task in done if not task.exception()]
        if answers:
            self._take([(answer, self._budget.pay(answer)) for answer in answers])
            self._outcome.asked += len(answers)
        if errors:
            raise errors[0]

    async def _answer(self, ask: Ask, endpoint: Endpoint) -> Answer:
        try:
            picture = await asyncio.to_thread(self._picture, ask) if ask.shown else None
            return await endpoint.ask(ask, picture)
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
