"""Questions in files that a server answers within a day (OpenAI's Batch API): each is sent once, whatever kills the process.

A row of the ledger's table `batches` goes with each file. Its states:

    sending  written before anything is sent; `id` is a mark that the server is given with the file
    sent     the server has it; `id` is the server's name for it
    taken    its answers are in the ledger, since the same change of it

Where a process is killed while a row says "sending", the next one looks through the server's list for the mark: so it knows
whether the file arrived. `keys` of a row is JSON: {"step": …, "usd": {key of a question: what is set aside for it}}.

The words of the questions are not in the ledger: the caller passes them again, and those on their way are known by their key.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import itertools
import json
import logging
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.batch_replies import HOPELESS, answer_of, lines_of
from mmfuser_jax.mminstruct.asking.batch_server import ENDED, SETTLING, BatchServer
from mmfuser_jax.mminstruct.asking.endpoints import AskingError, Endpoint, body_of
from mmfuser_jax.mminstruct.asking.online import Budget, Outcome, Taken, listening
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import ProjectError
from mmfuser_jax.mminstruct.schema import Batch

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
    *,
    project: str,
    step: str,
) -> Outcome:
    """Asks everything in files, and takes the answers of files that earlier runs have sent.

    After a signal files stay on their way, and the next run takes their answers. Questions that a server has not answered are
    "busy": to be asked again.

    Args:
      asks: of one step, those on their way included: all that the ledger has no answers to. Drawn as there is room.
      endpoints: one at least, all with one model.
      ledger: knows which files are on their way.
      budget: at the price of questions in files. Where it ends, no more are sent, and those on their way are waited for.
      picture: see `ask_all`.
      take: see `Taken`. It is called within a change of the ledger, so that an answer is there exactly if its file is taken.
      project: name that the server shows beside its files.
      step: of the questions; files of other steps stay on their way.

    Raises:
      AskingError: a key, model or address is wrong, or a file failed as a whole.
    """
    if not endpoints:
        raise ProjectError("no server to ask: give one in project.yaml")
    tags = {"project": project, "step": step}
    return asyncio.run(_Filing(endpoints, ledger, budget, picture, take, tags).run(iter(asks)))


@dataclasses.dataclass
class _Sent:
    """A file on its way.

    Attributes:
      id: as the server names it.
      server: that has it.
      usd: what is set aside for each question, by key.
      beside: files that the server had already when it was sent.
      asks: the questions by key, without those that are not asked any more.
    """

    id: str
    server: BatchServer
    usd: dict[str, float]
    beside: int
    asks: dict[str, Ask] = dataclasses.field(default_factory=dict)


class _Filing:
    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        ledger: Ledger,
        budget: Budget,
        picture: Callable[[Ask], bytes],
        take: Taken,
        tags: dict[str, str],
    ) -> None:
        self._room = {BatchServer(endpoint): AT_ONCE for endpoint in endpoints}
        self._model = endpoints[0].server.model
        self._ledger, self._budget, self._tags = ledger, budget, tags
        self._picture, self._take = picture, take
        self._sent: dict[str, _Sent] = {}
        self._later: collections.deque[Ask] = collections.deque()
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
        self._match(asks)
        pause = 0.0
        while True:
            await self._send_files(asks)
            if not self._sent:
                return
            pause = min(max(PAUSE, 1.5 * pause), LONGEST_PAUSE)
            questions = sum(len(sent.usd) for sent in self._sent.values())
            LOG.info("%s questions in %s files are on their way", f"{questions:,}", len(self._sent))
            await asyncio.gather(*(server.pause(pause) for server in self._room))
            for sent in list(self._sent.values()):
                state = await sent.server.look(sent.id)
                if state.status in ENDED:
                    await self._end(sent, state)
                    pause = 0.0

    async def _find_earlier(self) -> None:
        """What the ledger says is on its way, once it is known whether it arrived."""
        servers = {(x.endpoint.server.base_url, x.endpoint.variable): x for x in self._room}
        rows = self._ledger.query("SELECT id, base_url, key_name, keys, state FROM batches WHERE state <> 'taken'")
        for name, base_url, variable, keys, state in rows:
            fields = json.loads(keys)
            mine, server = fields["step"] == self._tags["step"], servers.get((base_url, variable))
            if server is None and mine:
                where = f"{base_url} with key {variable or 'none'}"
                raise AskingError(
                    f"questions are on their way at {where}: put it back into project.yaml until it is done"
                )
            if server is not None and state == "sending":
                await server.pause(SETTLING)  # the file may have been accepted just now
                name = self._arrived(name, await server.find(name))
            if name:
                self._budget.set_aside(sum(fields["usd"].values()))
            if name and mine and server is not None:
                self._sent[name] = _Sent(name, server, fields["usd"], self._open(server))

    def _arrived(self, mark: str, name: str) -> str:
        """Writes down how the server calls a file that was being sent, or that it has none; gives the name."""
        if name:
            self._ledger.query("UPDATE batches SET id = ?, state = 'sent' WHERE id = ?", (name, mark))
        else:
            self._ledger.query("DELETE FROM batches WHERE id = ?", (mark,))
        return name

    def _match(self, asks: Iterator[Ask]) -> None:
        """Draws questions until all of those on their way are found; they are the first ones, as a rule."""
        wanted = {key: sent for sent in self._sent.values() for key in sent.usd}
        while wanted and (ask := next(asks, None)) is not None:
            key = ask.key(self._model)
            if sent := wanted.pop(key, None):
                sent.asks[key] = ask
            else:
                self._later.append(ask)

    async def _send_files(self, asks: Iterator[Ask]) -> None:
        """Sends as many files as there is room for."""
        while not self._outcome.stopped and (server := self._free_server()):
            with tempfile.TemporaryFile() as file:
                sent = await self._fill(file, server, asks)
                if not sent.asks:
                    return
                await self._send(file, sent)

    def _open(self, server: BatchServer) -> int:
        return sum(sent.server is server for sent in self._sent.values())

    def _free_server(self) -> BatchServer | None:
        free = [server for server, room in self._room.items() if self._open(server) < room]
        return min(free, key=self._open, default=None)

    async def _fill(self, file: IO[bytes], server: BatchServer, asks: Iterator[Ask]) -> _Sent:
        """Writes questions, as many as a file may have and there is money for."""
        sent = _Sent("", server, {}, self._open(server))
        while len(sent.asks) < LINES:
            ask = self._later.popleft() if self._later else next(asks, None)
            if ask is None:
                break
            key = ask.key(self._model)
            if any(key in other.usd for other in (sent, *self._sent.values())):
                continue
            picture = await asyncio.to_thread(self._picture, ask) if ask.shown else None
            body = body_of(ask, server.endpoint.server, picture)
            line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            text = json.dumps(line).encode() + b"\n"
            if sent.asks and file.tell() + len(text) > BYTES:
                self._later.appendleft(ask)
                break
            if not self._budget.reserve(ask):
                self._outcome.stopped = "budget"
                break
            file.write(text)
            sent.usd[key], sent.asks[key] = self._budget.most(ask), ask
        return sent

    async def _send(self, file: IO[bytes], sent: _Sent) -> None:
        """Whatever happens here, the ledger's row says what to look for."""
        mark, endpoint = secrets.token_hex(16), sent.server.endpoint
        keys = json.dumps({"step": self._tags["step"], "usd": sent.usd})
        self._ledger.add(Batch(mark, endpoint.server.base_url, endpoint.variable, keys, "sending"))
        sent.id = self._arrived(mark, await sent.server.send(file, {**self._tags, "mark": mark}))
        self._sent[sent.id] = sent

    async def _end(self, sent: _Sent, state: Any) -> None:
        """Takes what a file came to, all of it in one change of the ledger."""
        told = [f"{error.code or ''} {error.message or ''}" for error in getattr(state.errors, "data", None) or ()]
        why = " ".join(f"file {sent.id} {state.status} {' '.join(told)}".split())
        contents = [await sent.server.read(name) for name in (state.output_file_id, state.error_file_id) if name]
        del self._sent[sent.id]
        if "token_limit_exceeded" in why and sent.beside:  # none of its questions was asked
            LOG.warning("%s: %s; fewer at a time", sent.server.name, why)
            self._room[sent.server] = min(self._room[sent.server], sent.beside)
            self._later.extend(sent.asks.values())
            self._budget.set_aside(-sum(sent.usd.values()))
            self._taken(sent)
            return
        hopeless = [why] if state.status in ("failed", "cancelled") else []
        with self._ledger.changes():
            answers = self._answers(sent, contents, why, hopeless)
            while some := list(itertools.islice(answers, AT_A_TIME)):
                self._take(some)
                self._outcome.asked += len(some)
            self._taken(sent)
        if hopeless:
            raise AskingError(f"{sent.server.name}, model {self._model}: {hopeless[-1]}")

    def _taken(self, sent: _Sent) -> None:
        self._ledger.query("UPDATE batches SET state = 'taken' WHERE id = ?", (sent.id,))

    def _answers(
        self, sent: _Sent, contents: Sequence[bytes], why: str, hopeless: list[str]
    ) -> Iterator[tuple[Answer, float]]:
        """Answers with their costs to all questions of a file; what all others would meet too is added to `hopeless`."""
        left = dict(sent.usd)
        for line in itertools.chain.from_iterable(map(lines_of, contents)):
            if line.key not in left:
                LOG.warning("file %s: a line about %s, which was not asked or is answered", sent.id, line.key)
                continue
            self._budget.set_aside(-left.pop(line.key))
            ask = sent.asks.get(line.key)
            answer = answer_of(ask or Ask(self._tags["step"], "", "", "", "", "", 0, "", ""), self._model, line)
            cost = self._budget.spend(answer.tokens)
            if line.status in HOPELESS:
                hopeless.append(answer.detail)
            if ask:
                yield answer, cost
            elif not answer.reason:  # paid for: what it has cost must not be forgotten
                row = answer.row(cost)
                self._ledger.add_answer(dataclasses.replace(row, key=line.key, reason="no_longer_asked", read=1))
        if left:
            LOG.warning("%s questions have no answer: %s", f"{len(left):,}", why)
        for key, usd in left.items():
            self._budget.set_aside(-usd)
            if key in sent.asks:
                yield Answer(sent.asks[key], self._model, reason="busy", detail=f"no answer: {why}"[:300]), 0.0
