"""Whether servers answer at all: a run ends where question after question comes to nothing, instead of asking all of them."""

from __future__ import annotations

from mmfuser_jax.mminstruct.asking.ask import Answer
from mmfuser_jax.mminstruct.asking.endpoints import AskingError
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.reasons import PASSING

FIRST = 8
"""Questions after which, if none of them was answered, something is thought to be wrong with the server or the config."""

IN_A_ROW = 32
"""The same, where questions were answered before."""

OF_USE = ("", "content_filter")
"""Reasons, or none, of a server that works: a filter's objections are to a question."""


class Trust:
    """What is thought of the servers of a step; one for a run of it. Answers are written down before they are shown to it.

    Attributes:
      proven: whether they have answered.
    """

    def __init__(self, proven: bool) -> None:
        """`proven`: the ledger has an answer of this step and model; see `trust_of`."""
        self.proven = proven
        self._in_vain = 0

    def see(self, answer: Answer) -> None:
        """Takes notice of what came of a question in the end.

        Raises:
          AskingError: as of all of the first `FIRST` questions, or of `IN_A_ROW` one after the other, nothing did. It is
            raised for each that follows, until one is answered.
        """
        if answer.reason in OF_USE:
            self.proven, self._in_vain = True, 0
            return
        self._in_vain += 1
        if self._in_vain >= (IN_A_ROW if self.proven else FIRST):
            which = "last" if self.proven else "first"
            hint = (
                "see whether the server runs and has time, and whether base_url is right"
                if answer.reason in PASSING
                else "look at base_url, model, json_schema, tokens_field, temperature and extra in project.yaml"
            )
            raise AskingError(
                f"none of the {which} {self._in_vain} questions was answered ({answer.reason}: {answer.detail}); {hint}"
            )


def trust_of(ledger: Ledger, step: str, model: str) -> Trust:
    """Trust in the servers of a step, as far as the ledger knows them."""
    marks = ", ".join("?" * len(OF_USE))
    sql = f"SELECT 1 FROM answers WHERE step = ? AND model = ? AND reason IN ({marks}) LIMIT 1"
    return Trust(bool(ledger.query(sql, (step, model, *OF_USE))))


def ask_again_what_was_refused(ledger: Ledger, step: str, model: str) -> None:
    """Lets questions be asked again that were refused where nothing was ever answered: the server or the config was wrong."""
    if not trust_of(ledger, step, model).proven:
        sql = "UPDATE answers SET reason = 'busy' WHERE step = ? AND model = ? AND reason IN ('refused_by_server', 'garbage')"
        ledger.query(sql, (step, model))
