"""Questions in files that a server answers within a day (OpenAI's Batch API): each is sent once, whatever kills the process.

The questions are not remembered here, as there may be millions: see `batch_rows`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.batch_replies import answer_of, lines_of, why_of
from mmfuser_jax.mminstruct.asking.batch_rows import (
    Filed,
    FileRow,
    Subject,
    filed,
    new_row,
    rows_on_their_way,
    subject_of,
)
from mmfuser_jax.mminstruct.asking.batch_server import ENDED, SETTLING, BatchServer, line_of
from mmfuser_jax.mminstruct.asking.endpoints import AskingError, Endpoint, body_of
from mmfuser_jax.mminstruct.asking.errors import DETAIL
from mmfuser_jax.mminstruct.asking.online import Budget, Outcome, Taken, listening
from mmfuser_jax.mminstruct.asking.trust import OF_USE, Trust
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import ProjectError

LOG = logging.getLogger(__name__)

LINES, BYTES = 50_000, 200_000_000
"""Of a file, at most, by OpenAI's rules."""

AT_ONCE = 20
"""Files on their way with one key."""

PAUSE, LONGEST_PAUSE = 10.0, 600.0
"""Seconds between looks at files on their way; times the servers' patience."""

AT_A_TIME = 1000
"""Answers that are handed on together."""


def ask_in_files(
    asks: Iterable[Ask],
    endpoints: Sequence[Endpoint],
    ledger: Ledger,
    budget: Budget,
    picture: Callable[[Ask], bytes],
    take: Taken,
    trust: Trust,
    *,
    project: str,
    step: str,
) -> Outcome:
    """Asks everything in files, and takes the answers of files that earlier runs have sent.

    After a signal or an error files stay on their way, and the next run takes their answers. Questions that a server has not
    answered are "busy": to be asked again.

    Args:
      asks: of one step: all that the ledger has no answers to. Drawn as there is room; those on their way are known, in
        whatever words they were asked, and left out.
      endpoints: one at least, all with one model.
      ledger: knows which files are on their way.
      budget: at the price of questions in files. Where it ends, no more are sent until those on their way have cost less than
        was set aside for them.
      picture: see `ask_all`.
      take: see `Taken`. It is called within a change of the ledger, so that an answer is there exactly if its file is taken.
      trust: sees what comes of every file. After its error, nothing more is sent.
      project: name that the server shows beside its files.
      step: of the questions.

    Raises:
      AskingError: a key, model or address is wrong, or a file failed as a whole; or files are on their way to a server or model
        that is not among these.
    """
    if not endpoints:
        raise ProjectError("no server to ask: give one in project.yaml")
    tags = {"project": project, "step": step}
    return asyncio.run(_Filing(endpoints, ledger, budget, picture, take, trust, tags).run(iter(asks)))


@dataclasses.dataclass(eq=False)
class _Sent:
    """A file on its way.

    Attributes:
      row: in the ledger.
      server: that has it.
      count: of its questions.
      uploaded: how the server calls the file of questions, where it has to be sent again.
      beside: files that the server had already when it was sent.
    """

    row: FileRow
    server: BatchServer
    count: int
    uploaded: str = ""
    beside: int = 0


class _Filing:
    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        ledger: Ledger,
        budget: Budget,
        picture: Callable[[Ask], bytes],
        take: Taken,
        trust: Trust,
        tags: dict[str, str],
    ) -> None:
        self._room = {BatchServer(endpoint): AT_ONCE for endpoint in endpoints}
        self._model = endpoints[0].server.model
        self._ledger, self._budget, self._trust, self._tags = ledger, budget, trust, tags
        self._picture, self._take = picture, take
        self._sent: list[_Sent] = []
        self._returned: list[_Sent] = []  # by servers that had no room for them
        self._earlier: set[Subject] = set()  # of questions that were on their way already
        self._going: set[Subject] = set()  # of those that have followed
        self._refused: Ask | None = None  # that the last file had no room for, or there was no money for
        self._outcome = Outcome()

    async def run(self, asks: Iterator[Ask]) -> Outcome:
        """Works until everything has an answer, or a signal comes: as files are safe at any moment, it then just ends."""
        work = asyncio.ensure_future(self._work(asks))

        def stop(name: str) -> None:
            LOG.warning("%s: questions that were sent stay at the server; the next run takes their answers", name)
            self._outcome.stopped = name
            work.cancel()

        try:
            async with listening(stop):
                await asyncio.wait([work])
            if not work.cancelled():
                work.result()
            return self._outcome
        finally:
            for server in self._room:
                await server.endpoint.close()

    async def _work(self, asks: Iterator[Ask]) -> None:
        await self._find_earlier()
        pause = 0.0
        while True:
            if await self._take_ended():
                pause = 0.0
            await self._send_files(asks)
            if not self._sent:
                if self._refused:
                    self._outcome.stopped = "budget"
                return
            pause = min(max(PAUSE, 1.5 * pause), LONGEST_PAUSE)
            questions = sum(sent.count for sent in self._sent)
            LOG.info("%s questions in %s files are on their way", f"{questions:,}", len(self._sent))
            await asyncio.gather(*(server.pause(pause) for server in self._room))

    async def _find_earlier(self) -> None:
        """What the ledger says is on its way, once it is known whether it arrived."""
        servers = {(x.endpoint.server.base_url, x.endpoint.variable): x for x in self._room}
        for row in rows_on_their_way(self._ledger, self._tags["step"]):
            server = servers.get((row.base_url, row.key_name))
            if server is None:
                where = f"{row.base_url} with key {row.key_name or 'none'}"
                raise AskingError(
                    f"questions are on their way at {where}: put it back into project.yaml until it is done"
                )
            if not row.arrived:
                await server.pause(SETTLING)  # the file may have been accepted just now
                row.write_arrived(await server.find(row.id))
            if row.arrived:
                asks = row.asks().values()
                if others := {ask.model for ask in asks} - {self._model}:
                    raise AskingError(
                        f"questions to {others.pop()} are on their way: put this model back into project.yaml until they are done"
                    )
                self._budget.set_aside(sum(ask.usd for ask in asks))
                self._earlier.update(map(subject_of, asks))
                self._sent.append(_Sent(row, server, len(asks), beside=self._open(server)))

    async def _take_ended(self) -> bool:
        """Takes what came of all files that are done, whatever is wrong with one of them; gives whether there were some."""
        before, errors = len(self._sent), []
        for sent in list(self._sent):
            try:
                state = await sent.server.look(sent.row.id)
                if state.status in ENDED:
                    await self._end(sent, state)
            except AskingError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return len(self._sent) < before

    async def _send_files(self, asks: Iterator[Ask]) -> None:
        """Sends as many files as there is room for: first those that came back."""
        while True:
            free = [server for server, room in self._room.items() if self._open(server) < room]
            if sent := next((sent for sent in self._returned if sent.server in free), None):
                self._returned.remove(sent)
                await self._send(sent)
            elif not free or not await self._send_new(min(free, key=self._open), asks):
                return

    def _open(self, server: BatchServer) -> int:
        return sum(sent.server is server for sent in self._sent)

    async def _send_new(self, server: BatchServer, asks: Iterator[Ask]) -> bool:
        """Sends a file, if there is something to ask."""
        with tempfile.TemporaryFile() as file:
            filled = await self._fill(file, server, asks)
            if not filled:
                return False
            uploaded = await server.upload(file)
        row = new_row(self._ledger, server.endpoint.server.base_url, server.endpoint.variable, filled)
        await self._send(_Sent(row, server, len(filled), uploaded))
        return True

    async def _fill(self, file: IO[bytes], server: BatchServer, asks: Iterator[Ask]) -> dict[str, Filed]:
        """Writes questions, as many as a file may have and there is money for."""
        filled: dict[str, Filed] = {}
        while len(filled) < LINES:
            ask, self._refused = self._refused or next(asks, None), None
            if ask is None:
                break
            subject = subject_of(ask)
            if subject in self._earlier or subject in self._going:
                continue
            picture = await asyncio.to_thread(self._picture, ask) if ask.shown else None
            key = ask.key(self._model)
            line = line_of(key, body_of(ask, server.endpoint.server, picture))
            if (filled and file.tell() + len(line) > BYTES) or not self._budget.reserve(ask):
                self._refused = ask
                break
            file.write(line)
            filled[key] = filed(ask, self._model, self._budget.most(ask))
            self._going.add(subject)
        return filled

    async def _send(self, sent: _Sent) -> None:
        """Whatever happens here, the ledger's row says what to look for."""
        sent.beside = self._open(sent.server)
        sent.row.write_arrived(await sent.server.begin(sent.uploaded, {**self._tags, "mark": sent.row.id}))
        self._sent.append(sent)

    async def _end(self, sent: _Sent, state: Any) -> None:
        """Takes what a file came to, all of it in one change of the ledger."""
        why = sent.server.endpoint.without_key(why_of(state))
        if "token_limit_exceeded" in why and sent.beside:  # none of its questions was asked
            LOG.warning("%s: %s; fewer at a time", sent.server.name, why)
            self._room[sent.server] = min(self._room[sent.server], sent.beside)
            sent.row.write_returned()
            sent.uploaded = state.input_file_id
            self._sent.remove(sent)
            self._returned.append(sent)
            return
        contents = [await sent.server.read(name) for name in (state.output_file_id, state.error_file_id) if name]
        hopeless = [why] if state.status in ("failed", "cancelled") else []
        seen: list[Answer] = []
        asks = sent.row.asks()
        self._sent.remove(sent)
        self._going.difference_update(map(subject_of, asks.values()))
        with self._ledger.changes():
            answers = self._answers(sent, asks, contents, why, hopeless)
            while some := list(itertools.islice(answers, AT_A_TIME)):
                self._take(some)
                self._outcome.asked += len(some)
                seen = seen or [answer for answer, _ in some]
            sent.row.write_taken()
        if hopeless:
            raise AskingError(f"{sent.server.name}, model {self._model}: {hopeless[-1]}")
        # Answers come before errors in a file, and neither in the order of time: one that is of use says enough of all.
        for answer in [answer for answer in seen if answer.reason in OF_USE][:1] or seen:
            self._trust.see(answer)

    def _answers(
        self, sent: _Sent, asks: dict[str, Filed], contents: Sequence[bytes], why: str, hopeless: list[str]
    ) -> Iterator[tuple[Answer, float]]:
        """Answers with their costs to all questions of a file; what all others would meet too is added to `hopeless`."""
        proven, without_key = self._trust.proven, sent.server.endpoint.without_key
        for line in itertools.chain.from_iterable(map(lines_of, contents)):
            if (ask := asks.pop(line.key, None)) is None:
                LOG.warning("file %s: a line about %s, which was not asked or is answered", sent.row.id, line.key)
                continue
            self._budget.set_aside(-ask.usd)
            answer = answer_of(ask, ask.model, line, proven, without_key)
            if answer.reason == "busy" and not line.reason(proven):
                hopeless.append(answer.detail)
            proven = proven or answer.reason in OF_USE
            yield answer, self._budget.spend(answer.tokens)
        if asks:
            LOG.warning("%s questions have no answer: %s", f"{len(asks):,}", why)
        for ask in asks.values():
            self._budget.set_aside(-ask.usd)
            yield Answer(ask, ask.model, reason="busy", detail=f"no answer: {why}"[:DETAIL]), 0.0
