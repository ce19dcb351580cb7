"""Questions that tests ask in files, and what a ledger has of them."""

import dataclasses
import os
import signal
import sqlite3
import threading
import time
from unittest import mock

from mmfuser_jax.mminstruct.asking import batch_files
from mmfuser_jax.mminstruct.asking.batch_files import ask_in_files
from mmfuser_jax.mminstruct.asking.endpoints import Endpoint
from mmfuser_jax.mminstruct.asking.online import Budget
from mmfuser_jax.mminstruct.asking.prices import Price
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.asking.trust import Trust
from mmfuser_jax.mminstruct.schema import AnswerRow, Batch
from tests import test_asking
from tests.test_asking import settled

PRICE = Price(1.0, 1.0)
COST = 120e-6
"""Of an answer of the fake server."""


def questions(count, **fields):
    """Each about a picture of its own."""
    return (dataclasses.replace(ask, image=f"{ask.seed:064}") for ask in test_asking.questions(count, **fields))


def shout(body, before):
    """A reply."""
    return body["messages"][1]["content"].upper()


def ask(
    ledger, address, asks, budget=None, variables=("",), *, lines=10, take=lambda taken: None, trust=None, **settings
):
    """Asks whatever the ledger has no answer of, in files of a few lines; `take` sees it too, once it is written."""
    server = Server(base_url=address, model="m", **{"patience": 0.002, **settings})
    known = settled(ledger, "caption")

    def write(taken):
        for answer, cost in taken:
            ledger.add_answer(answer.row(cost))
        take(taken)

    with mock.patch.object(batch_files, "LINES", lines):
        return ask_in_files(
            (ask for ask in asks if ask.key("m") not in known), [Endpoint(server, name) for name in variables], ledger,
            budget or Budget(PRICE, ledger.spent(), None), lambda ask: b"a picture", write, trust or Trust(False),
            project="tried", step="caption",
        )  # fmt: skip


def rows(ledger):
    """Of answers, in the order of the questions."""
    return sorted(ledger.rows(AnswerRow), key=lambda row: row.seed)


def states(ledger):
    """Of files."""
    return [batch.state for batch in ledger.rows(Batch)]


def asked_once(server, count):
    """Whether the server was asked so many questions, and each once."""
    names = [body["custom_id"] for body in server.bodies]
    return len(names) == len(set(names)) == count


def interrupted(ledger, server, asks, *, until=lambda states: states == {"sent"}, **settings):
    """Sends files and is told to end while it waits for them, in such states."""

    def end():
        while not server.batches or not until(states_apart(path)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    (_, _, path), *_ = ledger.query("PRAGMA database_list")

    server.looks = 10**6
    thread = threading.Thread(target=end)
    thread.start()
    outcome = ask(ledger, server.base_url, asks, **settings)
    thread.join()
    for batch in server.batches:
        batch["looks"] = 1
    server.looks = 1
    return outcome


def states_apart(path):
    """As another thread may ask for them."""
    with sqlite3.connect(path) as db:
        return {state for (state,) in db.execute("SELECT state FROM batches")}
