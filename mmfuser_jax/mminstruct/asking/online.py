"""Many questions to servers that speak OpenAI's protocol: as fast as they allow, within a budget, each paid for once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.endpoints import ATTEMPTS, AskingError, Endpoint, pause
from mmfuser_jax.mminstruct.asking.prices import Price, Tokens
from mmfuser_jax.mminstruct.asking.trust import FIRST, Trust
from mmfuser_jax.mminstruct.asking.waiting import Question, Waiting
from mmfuser_jax.mminstruct.project import ProjectError
from mmfuser_jax.mminstruct.reasons import PASSING

LOG = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds after which a question is not asked again while nothing was ever answered: what is wrong is to be seen soon."""


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
    asks: Iterable[Ask],
    endpoints: Sequence[Endpoint],
    budget: Budget,
    picture: Callable[[Ask], bytes],
    take: Taken,
    trust: Trust,
) -> Outcome:
    """Asks everything, each question of whichever endpoint has room; where one has no time, of another.

    Args:
      asks: drawn as there is room, so that their number costs no memory.
      endpoints: one at least.
      budget: where it ends, no more questions are sent, and those on their way are waited for. As after an error, Ctrl-C and
        SIGTERM: questions that were not sent, or are to be asked again, are left for the next run. The second signal ends the
        process, and with it answers that were on their way.
      picture: the JPEG file to send with a question that shows one.
      take: see `Taken`.
      trust: sees what comes of every question.

    Raises:
      AskingError: a key, model or address is wrong, or nothing comes of questions. What `picture` or `asks` raises ends it in
        the same way.
    """
    asking = Asking(iter(asks), endpoints, budget, picture, take, trust)

    async def run() -> Outcome:
        try:
            async with listening(asking.stop):
                return await asking.run()
        finally:
            for endpoint in endpoints:
                await endpoint.close()

    return asyncio.run(run())


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


class Asking:
    """Asks, in a loop that runs already and may do so several times at once: heeds no signals, ends no connections."""

    def __init__(
        self,
        asks: Iterator[Ask],
        endpoints: Sequence[Endpoint],
        budget: Budget,
        picture: Callable[[Ask], bytes],
        take: Taken,
        trust: Trust,
    ) -> None:
        """Arguments as of `ask_all`."""
        if not endpoints:
            raise ProjectError("no server to ask: give one in project.yaml")
        self._waiting = Waiting(asks, budget.reserve)
        self._endpoints = endpoints
        self._budget = budget
        self._picture = picture
        self._take = take
        self._trust = trust
        self._patience = min(endpoint.server.patience for endpoint in endpoints)
        self._outcome = Outcome()
        self._running: dict[asyncio.Task[Answer], Question] = {}
        self._error: BaseException | None = None
        self._doubt: AskingError | None = None  # of servers, until one answers

    def stop(self, name: str) -> None:
        """Lets no more questions go."""
        self._outcome.stopped = name
        self._call_back()
        LOG.warning("%s: waiting for answers on their way; a second one stops at once", name)

    def _call_back(self) -> None:
        """Ends the wait of questions that are not sent yet."""
        for task, question in self._running.items():
            if not question.sent:
                task.cancel()

    async def run(self) -> Outcome:
        """Asks until there is nothing left to ask, or it is stopped."""
        try:
            while True:
                ended = self._error or self._doubt
                if not (ended or self._outcome.stopped):
                    self._start()
                if self._running:
                    done, _ = await asyncio.wait(self._running, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                    self._done(done)
                elif ended:
                    raise ended
                elif self._outcome.stopped or self._waiting.is_over():
                    return self._outcome
                elif self._waiting.lacks_money():
                    self._outcome.stopped = "budget"
                else:  # all endpoints rest, or all questions wait
                    await asyncio.sleep(0.05)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _start(self) -> None:
        """Sends as many questions as there is room for."""
        while (endpoint := self._free_endpoint()) and (question := self._next()):
            endpoint.pace.running += 1
            task = asyncio.create_task(self._ask(question, endpoint))
            task.add_done_callback(functools.partial(_leave, endpoint))
            self._running[task] = question

    def _free_endpoint(self) -> Endpoint | None:
        """The one with most room, of those that answer as far as there are any."""
        now = time.monotonic()
        lively = [endpoint for endpoint in self._endpoints if now >= endpoint.pace.avoided_until]
        free = [endpoint for endpoint in lively or self._endpoints if endpoint.pace.free(now)]
        return max(free, key=lambda endpoint: endpoint.pace.limit - endpoint.pace.running, default=None)

    def _next(self) -> Question | None:
        """The next question; no new ones where more wait to be asked again than may be on their way."""
        try:
            return self._waiting.next(max(FIRST, sum(int(endpoint.pace.limit) for endpoint in self._endpoints)))
        except Exception as error:
            self._fail(error)
            return None

    async def _ask(self, question: Question, endpoint: Endpoint) -> Answer:
        picture = await asyncio.to_thread(self._picture, question.ask) if question.ask.shown else None
        await endpoint.admit(question.ask)
        question.send()
        return await endpoint.ask(question.ask, picture, self._trust.proven)

    def _done(self, done: Collection[asyncio.Task[Answer]]) -> None:
        """Answers first: one of these tasks may have met what ends it all."""
        answers, errors = [], []
        for task in done:
            question = self._running.pop(task)
            if task.cancelled():
                self._waiting.put_back(question)
            elif error := task.exception():
                errors.append(error)
            elif self._is_to_be_asked_again(question, task.result()):
                self._waiting.put_back(question, pause(question.attempts) * self._patience)
            else:
                answers.append(dataclasses.replace(task.result(), attempts=question.attempts))
        if answers:
            self._take([(answer, self._budget.pay(answer)) for answer in answers])
            self._outcome.asked += len(answers)
        for answer in answers:
            self._see(answer)
        for error in errors:
            self._fail(error)

    def _is_to_be_asked_again(self, question: Question, answer: Answer) -> bool:
        """Whether another time may be better."""
        patient = self._trust.proven or time.monotonic() < question.begun + GRACE
        return answer.reason in PASSING and question.attempts < ATTEMPTS and patient

    def _see(self, answer: Answer) -> None:
        """Where there is doubt, nothing more is sent until an answer that is on its way dispels it, or none does."""
        try:
            self._trust.see(answer)
            self._doubt = None
        except AskingError as error:
            self._doubt = self._doubt or error
            self._call_back()

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._call_back()


def _leave(endpoint: Endpoint, task: asyncio.Task[Answer]) -> None:
    del task
    endpoint.pace.running -= 1
