"""What the ledger knows about files of questions: which are on their way, and what their answers belong to.

A row of the table `batches` goes with each file. Its states:

    sending  written before the server is asked to answer it; `id` is a mark that the server is given with the file
    sent     the server has it; `id` is the server's name for it
    taken    its answers are in the ledger, since the same change of it

Where a process is killed while a row says "sending", the next one looks through the server's list for the mark: so it knows
whether the file arrived. `keys` of a row is JSON: {"step": …, "model": …, "asks": {key of a question: the fields of
`Filed` that FIELDS names}}; once the file is taken, the step alone. The words of the questions are in the file only: whatever
the project would ask today, an answer is one to the question that was sent.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping

from mmfuser_jax.mminstruct.asking.ask import Ask
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.schema import Batch

FIELDS = ("usd", "domain", "image", "kind", "language", "prompt", "seed", "about")

Subject = tuple[str, str, str, str]
"""Of a question; see `subject_of`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filed(Ask):
    """A question in a file, without its words.

    Attributes:
      name: the key that its words gave it.
      model: that is asked.
      usd: what is set aside for it.
    """

    name: str
    model: str
    usd: float

    def key(self, model: str) -> str:
        """See `name`."""
        del model
        return self.name


def filed(ask: Ask, model: str, usd: float) -> Filed:
    """A question as it is remembered while its file is on its way; arguments as of `Filed`."""
    kept = {name: getattr(ask, name) for name in FIELDS[1:]}
    return Filed(**kept, step=ask.step, system="", text="", name=ask.key(model), model=model, usd=usd)


def subject_of(ask: Ask) -> Subject:
    """What a question is about: the same if it is asked in other words, as after a change of the project."""
    return ask.image, ask.kind, ask.language, ask.about


class FileRow:
    """The row of a file.

    Attributes:
      base_url, key_name: of the server that has it, or is to have it.
      id: the server's name for it, or its mark.
      arrived: whether it is known to be there.
    """

    def __init__(self, ledger: Ledger, row: Batch) -> None:
        """A row that is in the ledger."""
        self.base_url, self.key_name, self.id = row.base_url, row.key_name, row.id
        self.arrived = row.state == "sent"
        self._ledger = ledger

    def write_arrived(self, name: str) -> None:
        """The server has the file and calls it so; where it has none, "", all is as if it had never been."""
        if name:
            self._change("id = ?, state = 'sent'", name)
            self.id, self.arrived = name, True
        else:
            self._ledger.query("DELETE FROM batches WHERE base_url = ? AND id = ?", (self.base_url, self.id))

    def write_returned(self) -> None:
        """The server has not asked the file's questions: it is to be sent again, under a new mark."""
        mark = secrets.token_hex(16)
        self._change("id = ?, state = 'sending'", mark)
        self.id, self.arrived = mark, False

    def write_taken(self) -> None:
        """Within the change of the ledger that writes its answers."""
        self._change("state = 'taken', keys = json_object('step', json_extract(keys, '$.step'))")

    def asks(self) -> dict[str, Filed]:
        """The file's questions by key."""
        sql = "SELECT keys FROM batches WHERE base_url = ? AND id = ?"
        ((keys,),) = self._ledger.query(sql, (self.base_url, self.id))
        fields = json.loads(keys)
        same = {"step": fields["step"], "model": fields["model"], "system": "", "text": ""}
        return {
            key: Filed(**dict(zip(FIELDS, values, strict=True)), **same, name=key)
            for key, values in fields["asks"].items()
        }

    def _change(self, what: str, *values: str) -> None:
        where = "WHERE base_url = ? AND id = ?"
        self._ledger.query(f"UPDATE batches SET {what} {where}", (*values, self.base_url, self.id))


def new_row(ledger: Ledger, base_url: str, key_name: str, asks: Mapping[str, Filed]) -> FileRow:
    """The row of a file that is about to be sent, of one question at least, whose `id` is its mark; see `schema.Batch`."""
    values = {key: [getattr(ask, name) for name in FIELDS] for key, ask in asks.items()}
    one = next(iter(asks.values()))
    keys = json.dumps({"step": one.step, "model": one.model, "asks": values})
    row = Batch(secrets.token_hex(16), base_url, key_name, keys, "sending")
    ledger.add(row)
    return FileRow(ledger, row)


def rows_on_their_way(ledger: Ledger, step: str) -> list[FileRow]:
    """Of a step's files whose answers are not taken, in the order in which they were sent first."""
    sql = (
        "SELECT id, base_url, key_name, '', state FROM batches WHERE state <> 'taken' AND json_extract(keys, '$.step') = ? "
        "ORDER BY rowid"
    )
    return [FileRow(ledger, Batch(*values)) for values in ledger.query(sql, (step,))]
