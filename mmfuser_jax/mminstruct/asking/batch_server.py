"""A server that answers questions in files, asked patiently: to take a file, to find one, to say how far it is."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import IO, Any, Final, TypeVar

import openai
from openai.types import Batch

from mmfuser_jax.mminstruct.asking.endpoints import ATTEMPTS, AskingError, Endpoint
from mmfuser_jax.mminstruct.asking.errors import reason_of
from mmfuser_jax.mminstruct.reasons import PASSING

LOG = logging.getLogger(__name__)

T = TypeVar("T")

SETTLING = 30.0
"""Seconds after which a file that was sent is in the server's list, if it arrived; times the server's patience."""

ENDPOINT: Final = "/v1/chat/completions"
"""Of a server, that answers the questions of a file."""

MALFORMED = (AttributeError, TypeError, ValueError)
"""What the client raises, or its objects, where an address answers with something else, as a page of the web."""

ENDED = ("completed", "expired", "failed", "cancelled")
"""States of a file, in the server's words, in which no more answers come."""


def line_of(key: str, body: dict[str, Any]) -> bytes:
    """A question, as `body_of` gives it, as a line of a file; `key` comes back with its answer."""
    line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line).encode() + b"\n"


class BatchServer:
    """One address and key. All methods raise AskingError where an error does not go by.

    Attributes:
      endpoint: the address and key.
      name: of both, for messages.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """`endpoint`: the address and key."""
        self.endpoint = endpoint
        self.name = f"{endpoint.server.base_url}, key {endpoint.variable or 'none'}"
        self._files, self._batches = endpoint.client.files, endpoint.client.batches

    async def upload(self, file: IO[bytes]) -> str:
        """Gives the server a file of questions, a line of JSON for each; it answers none of them yet.

        Returns:
          What the server calls the file.
        """

        async def upload() -> str:
            file.seek(0)
            return (await self._files.create(file=("questions.jsonl", file), purpose="batch")).id

        return await self._patiently("a file of questions", upload)

    async def begin(self, uploaded: str, tags: dict[str, str]) -> str:
        """Has a file of questions answered within a day.

        Args:
          uploaded: see `upload`.
          tags: shown beside the file; "mark" is its own.

        Returns:
          What the server calls its work on it.
        """
        what = "a file of questions"
        told = ""
        for _ in range(ATTEMPTS):
            try:
                batch = await self._batches.create(
                    completion_window="24h", endpoint=ENDPOINT, input_file_id=uploaded, metadata=tags
                )
                return batch.id
            except openai.APIError as error:
                told = self.endpoint.told(error)
                if not _passes(error):
                    raise AskingError(f"{self.name}: {what}: {told}") from None
                LOG.warning("%s: %s", self.name, told)
                # It may have arrived nevertheless: only the list tells.
                await self.pause(SETTLING)
                if found := await self.find(tags["mark"]):
                    return found
            except MALFORMED as error:
                raise self._no_such_server(what, error) from None
        raise AskingError(f"{self.name}: {what}: {told}; run it again later")

    async def find(self, mark: str) -> str:
        """What the server calls the file with this mark, "" where it has none."""

        async def search() -> str:
            async for batch in self._batches.list(limit=100):
                if (batch.metadata or {}).get("mark") == mark:
                    return batch.id
            return ""

        return await self._patiently("its list of files", search)

    async def look(self, batch: str) -> Batch:
        """How far a file is: the client's object."""
        hint = "if it is gone for good, take it out of the ledger's table batches"

        async def look() -> Batch:
            found = await self._batches.retrieve(batch)
            if not isinstance(found, Batch):
                raise TypeError(f"{found!r:.80}")
            return found

        return await self._patiently(f"file {batch} ({hint})", look)

    async def read(self, file: str) -> bytes:
        """What the server wrote into a file of its own."""

        async def read() -> bytes:
            return (await self._files.content(file)).content

        return await self._patiently(f"answers in {file}", read)

    async def pause(self, seconds: float) -> None:
        """Waits, as long as the server's patience makes of it."""
        await asyncio.sleep(seconds * self.endpoint.server.patience)

    async def _patiently(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Calls again while errors are of the kind that goes by."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await call()
            except openai.APIError as error:
                passing = _passes(error)
                if attempt == ATTEMPTS or not passing:
                    hint = "; run it again later" if passing else ""
                    raise AskingError(f"{self.name}: {what}: {self.endpoint.told(error)}{hint}") from None
            except MALFORMED as error:
                raise self._no_such_server(what, error) from None
            await self.pause(2.0**attempt)
        raise AssertionError

    def _no_such_server(self, what: str, error: Exception) -> AskingError:
        told = self.endpoint.told(error)
        return AskingError(f"{self.name}: {what}: not what a server of files answers ({told}); look at base_url")


def _passes(error: openai.APIError) -> bool:
    """Whether it may be gone in a while; an empty account is not, whatever its status says."""
    return reason_of(error, proven=True) in PASSING
