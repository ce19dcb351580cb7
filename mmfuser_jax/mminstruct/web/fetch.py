"""Files of the web: many at once, gently to each host, with a reason for each that cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import math
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

import httpx2
from aiolimiter import AsyncLimiter

from mmfuser_jax import files
from mmfuser_jax.mminstruct.config import Collect
from mmfuser_jax.mminstruct.web.addresses import FetchError, host_of, is_allowed, parsed
from mmfuser_jax.mminstruct.web.robots import Rules
from mmfuser_jax.mminstruct.web.web_client import WebClient

AHEAD = 512
"""Files that are fetched, or wait for their turn, before the first of them is taken: a slow host holds up no more."""

AT_ONCE = 32
"""Files on their way, from all hosts together."""

ATTEMPTS = 4
"""Times that a file is asked for while its host is busy or not there."""

PAUSE = 1.0
"""Seconds before the second attempt; each further pause is twice as long."""

LONGEST = 120.0
"""Seconds that a host may ask to wait for; one that asks for more is left alone until the next run."""

TIRED, GIVE_UP = 4, 40
"""Requests in a row that fail for reasons that pass, after which a host is left alone for longer and longer, and then for
the rest of the run."""

HOPS = 5
"""Times that an address may lead on to another one."""

ROBOTS_BYTES = 1_000_000
"""Of a robots.txt, at most; half of it is what everyone must read."""


@dataclasses.dataclass(frozen=True)
class WebFile:
    """A file of the web.

    Attributes:
      url: its address.
      sha256: of its content; "" where it is not known.
      place: of the content, once it is fetched.
    """

    url: str
    sha256: str
    place: Path

    def read(self) -> bytes:
        """The content, once it is fetched."""
        return self.place.read_bytes()


def fetch_all(wanted: Iterable[WebFile], settings: Collect, limit: int) -> Generator[FetchError | None, None, None]:
    """Fetches files to their places. Those that are there already are not asked for again.

    Args:
      wanted: drawn as files are taken.
      settings: which hosts may be asked, and how fast.
      limit: bytes of a file, at most.

    Yields:
      In the order of `wanted`, None once the file is in its place, else why it cannot be had.
    """
    pending: deque[Future[FetchError | None]] = deque()
    with _running_loop() as loop:
        fetcher = _Fetcher(settings, limit)
        try:
            for file in wanted:
                pending.append(asyncio.run_coroutine_threadsafe(fetcher.fetch(file), loop))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            asyncio.run_coroutine_threadsafe(fetcher.close(), loop).result()


@contextlib.contextmanager
def _running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own, so that files arrive while pictures are looked at."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Host:
    """How a host is to be treated.

    Attributes:
      failed: requests in a row that failed for reasons that pass.
      left_alone: why it is asked for nothing more, whatever comes of requests on their way; "" while it may be.
      resting_until: when it wants to be asked again, on the clock `time.monotonic`.
    """

    def __init__(self, settings: Collect) -> None:
        self.failed = 0
        self.left_alone = ""
        self.resting_until = 0.0
        self._slots = asyncio.Semaphore(settings.per_host)
        self._gap = 1 / settings.per_second
        self._pace = AsyncLimiter(1, self._gap)

    def slow_down(self, seconds: float) -> None:
        """Asks it no sooner than so long after the last time."""
        if seconds > self._gap:
            self._gap, self._pace = seconds, AsyncLimiter(1, seconds)

    def answered(self, failure: FetchError | None) -> None:
        """Takes note of how a request ended."""
        if failure is None or not failure.passing:
            self.failed = 0
            return
        self.failed += 1
        if failure.wait > LONGEST:
            self.left_alone = f"its host wants to be left alone for {failure.wait:,.0f} s"
        elif self.failed >= GIVE_UP:
            self.left_alone = f"{self.failed} requests before it failed"
        else:
            tired = PAUSE * 2 ** min(self.failed // TIRED, 6) if self.failed >= TIRED else 0.0
            self.resting_until = max(self.resting_until, time.monotonic() + max(tired, failure.wait))

    def check(self) -> None:
        """Raises:
        FetchError: it is left alone.
        """
        if self.left_alone:
            raise FetchError("unreachable", f"not asked for, as {self.left_alone}", passing=True, wait=math.inf)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The block is run when the host may be asked for something.

        Raises:
          FetchError: it is left alone.
        """
        async with self._slots:
            self.check()
            await self._pace.acquire()
            while (left := self.resting_until - time.monotonic()) > 0:
                await asyncio.sleep(left)
            yield


class _Fetcher:
    """All hosts, and what is known of them."""

    def __init__(self, settings: Collect, limit: int) -> None:
        self._settings = settings
        self._limit = limit
        self._client = WebClient(settings)
        self._hosts: dict[str, _Host] = {}
        self._rules: dict[str, asyncio.Task[Rules | FetchError]] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def fetch(self, file: WebFile) -> FetchError | None:
        """Brings a file to its place; else returns why it cannot be had."""
        if file.place.exists():
            return None
        try:
            content = await self._patiently(parsed(file.url), self._limit, picture=True)
            if content.lstrip()[:1] == b"<":  # no file of pixels begins so
                raise FetchError("not_a_picture", f"it begins with {content.lstrip()[:40]!r}")
            if file.sha256 and (found := hashlib.sha256(content).hexdigest()) != file.sha256:
                raise FetchError("hash_differs", f"its sha256 is {found}")
        except FetchError as failure:
            return failure
        await asyncio.to_thread(_keep, file.place, content)
        return None

    async def close(self) -> None:
        """Ends whatever is on its way."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def _patiently(self, address: httpx2.URL, limit: int, *, picture: bool) -> bytes:
        """Asks for a file, and asks again while there is hope."""
        before: FetchError | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._follow(address, limit, picture=picture)
            except FetchError as failure:
                if not failure.passing or failure.wait > LONGEST or attempt == ATTEMPTS:
                    raise (before if before and failure.wait == math.inf else failure) from None
                before = failure
            await asyncio.sleep(PAUSE * 2 ** (attempt - 1) * (0.5 + random.random()))
        raise AssertionError("the last attempt returns or raises")

    async def _follow(self, address: httpx2.URL, limit: int, *, picture: bool) -> bytes:
        """The file that an address leads to. Each address on the way is checked as the first one is."""
        for _ in range(HOPS + 1):
            host = self._host(address)
            if picture and self._settings.heed_robots:
                await self._heed(address)
            async with host.turn(), self._at_once:
                host.check()  # again, as it may have answered others meanwhile
                try:
                    answer = await self._client.get(address, limit, picture=picture)
                except FetchError as failure:
                    host.answered(failure)
                    raise
                host.answered(None)
            if isinstance(answer, bytes):
                return answer
            address = answer
        raise FetchError("redirects", f"it leads on more than {HOPS} times, at last to {address}")

    def _host(self, address: httpx2.URL) -> _Host:
        name = host_of(address)
        if not is_allowed(name, self._settings.hosts):
            raise FetchError("host_not_allowed", f"{name} is not in collect.hosts")
        if name not in self._hosts:
            self._hosts[name] = _Host(self._settings)
        return self._hosts[name]

    async def _heed(self, address: httpx2.URL) -> None:
        place = address.copy_with(raw_path=b"/robots.txt", fragment=None)
        if str(place) not in self._rules:
            self._rules[str(place)] = asyncio.create_task(self._read_rules(place))
        rules = await self._rules[str(place)]
        if isinstance(rules, FetchError):
            raise FetchError(rules.reason, f"{place}: {rules.detail}", passing=rules.passing, wait=math.inf)
        if not rules.allow(address.raw_path.decode("ascii")):
            raise FetchError("robots", f"{place} disallows it")

    async def _read_rules(self, place: httpx2.URL) -> Rules | FetchError:
        """A host without rules allows everything; one whose rules cannot be had is asked for nothing else."""
        try:
            content = await self._patiently(place, ROBOTS_BYTES, picture=False)
        except FetchError as failure:
            if failure.passing or failure.reason in ("host_not_allowed", "private_address"):
                return failure
            return Rules("") if failure.reason == "http_status" else FetchError("robots", failure.detail)
        rules = Rules(content.decode("utf-8", "replace"))
        self._host(place).slow_down(rules.delay)
        return rules


def _keep(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(place, content)
