"""Many questions asked by the processes of a Ray cluster; the one that starts it alone writes and holds the budget.

The workers read the keys from their own environment, by the names that project.yaml gives: in a cluster they are set where
`ray start` is called, on every machine. Neither keys nor the project's folder are sent; pictures are, with their questions.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.endpoints import AskingError, Endpoint
from mmfuser_jax.mminstruct.asking.errors import DETAIL
from mmfuser_jax.mminstruct.asking.online import Asking, Budget, Outcome, Taken, listening
from mmfuser_jax.mminstruct.asking.prices import Price
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.asking.trust import OF_USE, Trust
from mmfuser_jax.mminstruct.project import ProjectError

LOG = logging.getLogger(__name__)

CHUNK = 8
"""Questions that are sent to a worker, and come back, together."""

LOSSES = 10
"""Workers that may be lost before something is thought to be wrong with the cluster."""


def ask_on_ray(
    asks: Iterable[Ask],
    servers: Sequence[Server],
    budget: Budget,
    picture: Callable[[Ask], bytes],
    take: Taken,
    trust: Trust,
    workers: int,
) -> Outcome:
    """As `ask_all`, by processes of the Ray cluster that RAY_ADDRESS names or this machine is in; else of a new one here.

    Where a worker is lost, its questions are asked by another one: what was on its way to it may be paid for twice.

    Args:
      asks, budget, picture, take, trust: see `ask_all`.
      servers: to ask; their keys are read by the workers. What they allow of each key is parted among the workers.
      workers: how many, at most: none that would have nothing to do.

    Raises:
      AskingError: a key, model or address is wrong, Ray is not installed, or it loses worker after worker. What was on its way
        is waited for and written down before.
    """
    ray = _ray()
    begun = not ray.is_initialized()
    if begun:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(log_to_driver=False)
    try:
        return asyncio.run(_Driver(ray, shares(servers, workers), budget, picture, take, trust).run(iter(asks)))
    finally:
        if begun:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise AskingError(f"asking on a cluster needs Ray ({error}): pip install 'mmfuser-jax[ray]'") from None
    return ray


def shares(servers: Sequence[Server], workers: int) -> list[list[Server]]:
    """What each worker may ask: all servers, with its part of the questions at a time, and of requests and tokens a minute.

    Raises:
      ProjectError: there is no server, or no worker.
    """
    if not servers or workers < 1:
        raise ProjectError(
            "no server to ask: give one in project.yaml" if workers > 0 else f"{workers} workers: give one"
        )
    parts: list[list[Server]] = [[] for _ in range(workers)]
    for server in servers:
        whole = {name: getattr(server, name) for name in ("most", "requests_per_minute", "tokens_per_minute")}
        # A part of a minute's tokens that is smaller than a question does not hold it back.
        pictures = server.tokens_per_minute and max(1, server.tokens_per_minute // max(1, server.picture_tokens))
        count = min(workers, *filter(None, (*whole.values(), pictures)))
        for index, part in enumerate(parts[:count]):
            mine = {name: (index + 1) * x // count - index * x // count for name, x in whole.items()}
            part.append(server.model_copy(update=mine))
    return [part for part in parts if part]


class _Unjudged(Trust):
    """Of a worker: the driver sees all answers, and judges."""

    def see(self, answer: Answer) -> None:
        """Takes notice of answers alone."""
        self.proven = self.proven or answer.reason in OF_USE


class _Worker:
    """In a process of its own: asks what it is sent, several chunks at a time, at one pace."""

    def __init__(self, servers: Sequence[Server], proven: bool) -> None:
        self._servers = servers
        self._endpoints: list[Endpoint] = []
        self._asking: set[Asking] = set()
        self._trust = _Unjudged(proven)
        self._stopped = False

    async def stop(self) -> None:
        """Sends no more questions, not even those that it has."""
        self._stopped = True
        for asking in self._asking:
            asking.stop("driver")

    async def ask(self, chunk: Sequence[tuple[Ask, bytes | None]]) -> tuple[list[Answer], str]:
        """Answers, to fewer than all where it is stopped; and what ends it all, "" for nothing."""
        answers: list[Answer] = []
        pictures = {id(ask): picture for ask, picture in chunk}
        try:
            if not self._endpoints:
                self._endpoints = [Endpoint(x, variable) for x in self._servers for variable in x.keys or [""]]
            asking = Asking(
                (ask for ask, _ in chunk), self._endpoints, Budget(Price(0.0, 0.0), 0.0, None),
                lambda ask: pictures[id(ask)] or b"", lambda taken: answers.extend(answer for answer, _ in taken),
                self._trust,
            )  # fmt: skip
            self._asking.add(asking)
            try:
                if not self._stopped:
                    await asking.run()
            finally:
                self._asking.remove(asking)
        except AskingError as error:
            return answers, str(error)
        return answers, ""


@dataclasses.dataclass(eq=False)
class _Hand:
    """A worker as the driver sees it.

    Attributes:
      actor: of Ray.
      servers: that it asks.
      chunks: on their way to it.
    """

    actor: Any
    servers: Sequence[Server]
    chunks: int = 0

    @property
    def room(self) -> int:
        """Chunks that keep it busy: twice as many as it may ask at a time."""
        most = sum(server.most * max(1, len(server.keys)) for server in self.servers)
        return 1 + -(-2 * most // CHUNK) - self.chunks


class _Driver:
    def __init__(
        self,
        ray: Any,
        parts: Sequence[Sequence[Server]],
        budget: Budget,
        picture: Callable[[Ask], bytes],
        take: Taken,
        trust: Trust,
    ) -> None:
        self._ray = ray
        self._trust = trust
        self._hands = [self._begin(servers) for servers in parts]
        self._budget = budget
        self._picture = picture
        self._take = take
        self._again: collections.deque[list[Ask]] = collections.deque()
        self._running: dict[asyncio.Future[Any], tuple[_Hand, list[Ask]]] = {}
        self._refused: Ask | None = None  # until those on their way have cost less than was set aside for them
        self._lost = 0
        self._error: Exception | None = None
        self._outcome = Outcome()

    def _begin(self, servers: Sequence[Server]) -> _Hand:
        kind = self._ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_Worker)
        return _Hand(kind.remote(servers, self._trust.proven), servers)

    def _stop(self, name: str) -> None:
        self._outcome.stopped = name
        self._let_no_more_go()
        LOG.warning("%s: waiting for answers on their way; a second one stops at once", name)

    def _let_no_more_go(self) -> None:
        for hand in self._hands:
            hand.actor.stop.remote()

    async def run(self, asks: Iterator[Ask]) -> Outcome:
        """Sends chunks as there is room, until there is nothing left to ask."""
        try:
            async with listening(self._stop):
                while True:
                    await self._send(asks)
                    if not self._running:
                        break
                    done, _ = await asyncio.wait(self._running, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                    for future in done:
                        self._done(future)
        finally:
            for hand in self._hands:
                self._ray.kill(hand.actor)
        if self._error:
            raise self._error
        if self._refused:
            self._outcome.stopped = self._outcome.stopped or "budget"
        return self._outcome

    async def _send(self, asks: Iterator[Ask]) -> None:
        while not (self._error or self._outcome.stopped):
            hand = max(self._hands, key=self._room)
            try:
                if self._room(hand) <= 0 or not (chunk := self._again.popleft() if self._again else self._drawn(asks)):
                    return
                pictures = [asyncio.to_thread(self._picture, ask) if ask.shown else _nothing() for ask in chunk]
                sent = list(zip(chunk, await asyncio.gather(*pictures), strict=True))
            except Exception as error:  # of what is on its way, all is waited for
                self._end(error)
                return
            future = asyncio.wrap_future(hand.actor.ask.remote(sent).future())
            self._running[future] = hand, chunk
            hand.chunks += 1

    def _room(self, hand: _Hand) -> int:
        """Chunks that a worker may be sent; before anything was answered, one at a time."""
        return hand.room if self._trust.proven else 1 - hand.chunks

    def _drawn(self, asks: Iterator[Ask]) -> list[Ask]:
        """The next questions that there is money for."""
        chunk: list[Ask] = []
        while len(chunk) < CHUNK and (ask := self._refused or next(asks, None)):
            self._refused = None if self._budget.reserve(ask) else ask
            if self._refused:
                break
            chunk.append(ask)
        return chunk

    def _done(self, future: asyncio.Future[Any]) -> None:
        """Takes what came of a chunk."""
        hand, chunk = self._running.pop(future)
        hand.chunks -= 1
        errors = self._ray.exceptions
        try:
            answers, error = future.result()
        except (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError) as lost:
            self._again.append(chunk)
            self._replace(hand, lost)
            return
        except Exception as failed:
            self._end(failed)
            return
        if answers:
            self._take([(answer, self._budget.pay(answer)) for answer in answers])
            self._outcome.asked += len(answers)
        try:
            for answer in answers:
                self._trust.see(answer)
            if error:
                raise AskingError(error)
        except AskingError as what:
            self._end(what)

    def _end(self, error: Exception) -> None:
        """Nothing more is sent; what is on its way is waited for."""
        if self._error is None:
            self._error = error
            self._let_no_more_go()

    def _replace(self, hand: _Hand, error: Exception) -> None:
        """A new worker for one that is lost, the first time that this shows."""
        if hand not in self._hands:
            return
        self._lost += 1
        reason = " ".join(str(error).split())[:DETAIL]
        LOG.warning("a worker was lost; its questions are asked again (%s)", reason)
        self._ray.kill(hand.actor)
        self._hands[self._hands.index(hand)] = self._begin(hand.servers)
        if self._lost >= LOSSES:
            self._end(AskingError(f"Ray lost {self._lost} workers; look into its logs ({reason})"))


async def _nothing() -> None:
    """Instead of a picture."""
