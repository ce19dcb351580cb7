"""Work that is parted among machines without a cluster: each asks its share in a copy of the project, one takes all answers."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from mmfuser_jax.mminstruct.ledger import Ledger, LedgerError
from mmfuser_jax.mminstruct.reasons import PASSING, PASSING_SQL
from mmfuser_jax.mminstruct.schema import AnswerRow


def in_shard(key: str, index: int, count: int) -> bool:
    """Whether something belongs to a share: everything does to one of them, the same on every machine.

    Args:
      key: its name: of a question its key, of a picture its SHA-256.
      index: of the share, from 0.
      count: of shares.

    Raises:
      ValueError: there is no such share.
    """
    if not 0 <= index < count:
        raise ValueError(f"no shard {index}/{count}: of four, they are 0/4 to 3/4")
    return int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) % count == index


def merge(ledger: Ledger, other: Path) -> int:
    """Takes the answers of another ledger, what they have cost included, to be read into items here.

    What is answered here already stays, so that merging twice is merging once. What failed there for a reason that passes is
    not taken: it is asked again.

    Args:
      ledger: of this project.
      other: the ledger's file in a copy of the project; no process works there.

    Returns:
      How many were taken.

    Raises:
      LedgerError: it is not there, of another version, or no ledger.
    """
    if not other.is_file():
        raise LedgerError(f"{other}: no ledger there; --other is the folder of a copy of this project")
    count = 0
    with Ledger(other) as copy, ledger.changes():
        for row in copy.rows(AnswerRow, f"reason NOT IN {PASSING_SQL}"):
            if row.image and ledger.image(row.image) is None:
                raise LedgerError(f"{other}: is about pictures that this project does not have; run collect here first")
            before = ledger.row(AnswerRow, "key = ?", (row.key,))
            if before is None or before.reason in PASSING:
                ledger.add_answer(dataclasses.replace(row, read=0))
                count += 1
    return count
