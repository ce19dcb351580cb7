"""From a part of a reply to a row of the ledger: checked, options in a drawn order, refused or doubtful with a reason."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence, Set

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions import checks
from mmfuser_jax.mminstruct.questions.items import LETTERS, Item, Rejected, as_body, from_body, plain
from mmfuser_jax.mminstruct.schema import AnswerRow, ItemRow

DOUBTFUL = frozenset(("brackets", "perhaps_leak", "length", "given_away"))
"""Faults that a person may find harmless."""

_ORDER_MATTERS = re.compile(
    r"\b(?:all|none|both|neither|any) of (?:the |these|them)|\b(?:both|neither) [A-H]\b|\b[A-H] (?:and|or) [A-H]\b"
    r"|以上|上述|都(?:是|不是|对|不对)|[A-H](?:和|与|或)[A-H]",
    re.IGNORECASE,
)


class Keeping:
    """Decides what is kept."""

    def __init__(self, benchmark: Set[str], most_same: int) -> None:
        """Arguments:
        benchmark: `plain` questions that may not be learnt.
        most_same: pictures of a domain that may have the same question with the same answer.
        """
        self._benchmark = benchmark
        self._most_same = most_same

    def keep(self, ledger: Ledger, answer: AnswerRow, place: int, part: Item | Rejected) -> None:
        """Writes a part of a reply down, whatever it is."""
        name = item_id(answer.key, place)
        if isinstance(part, Rejected):
            ledger.add(_row(name, answer, answer.kind, part.text, "", "refused", part.reason), "OR REPLACE")
            return
        item = shuffled(part, name)
        same = same_key(item)
        state, reason = self.state_of(ledger, answer, item, same)
        ledger.add(_row(name, answer, item.type, as_body([item]), same, state, reason), "OR REPLACE")

    def keep_conversation(self, ledger: Ledger, answer: AnswerRow, rounds: Sequence[Item], least: int) -> None:
        """Writes the rounds of a conversation down as one item, those apart that cannot be used."""
        good: list[Item] = []
        for place, item in enumerate(rounds, 1):
            state, reason = self.state_of(ledger, answer, item, same_key(item))
            if plain(item.question) in {plain(earlier.question) for earlier in good}:
                state, reason = "refused", "repeated"
            if state == "refused":
                body = as_body([item])
                ledger.add(_row(item_id(answer.key, place), answer, item.type, body, "", state, reason), "OR REPLACE")
            else:
                good.append(item)
        state, reason = ("good", "") if len(good) >= least else ("refused", "few_rounds")
        same = same_key(good[0]) if good else ""
        row = _row(item_id(answer.key, 0), answer, "conversation", as_body(good), same, state, reason)
        ledger.add(row, "OR REPLACE")

    def state_of(self, ledger: Ledger, answer: AnswerRow, item: Item, same: str) -> tuple[str, str]:
        """("good", "doubtful" or "refused", the reason)."""
        rows = ledger.rows(
            ItemRow, "image = ? AND state <> 'refused' AND language = ?", (answer.image, answer.language)
        )
        seen = {plain(exchange.question) for row in rows for exchange in exchanges(row)}
        found = list(checks.faults(item, checks.Expected(answer.language, seen, self._benchmark)))
        if hard := [fault for fault in found if fault not in DOUBTFUL]:
            return "refused", hard[0]
        sql = (
            "SELECT 1 FROM items WHERE question = ? AND domain = ? AND language = ? AND state = 'good' LIMIT 1 OFFSET ?"
        )
        if ledger.query(sql, (same, answer.domain, answer.language, self._most_same - 1)):
            return "refused", "overused"
        return ("doubtful", found[0]) if found else ("good", "")


def item_id(answer: str, place: int | str) -> str:
    """Names an item: part `place` of an answer, or of a public set."""
    return hashlib.sha256(f"{answer} {place}".encode()).hexdigest()[:32]


def same_key(item: Item) -> str:
    """Equal for questions that are the same and have the same answer."""
    return f"{plain(item.question)} = {plain(item.answer_text)}"


def shuffled(item: Item, seed: str) -> Item:
    """A choice with its options in a drawn order, as models like to put the right one first; others as they are."""
    if item.type != "choice" or any(_ORDER_MATTERS.search(option) for option in item.options):
        return item
    order = list(range(len(item.options)))
    random.Random(seed).shuffle(order)
    answer = LETTERS[order.index(LETTERS.index(item.answer))]
    return Item(item.type, item.question, answer, tuple(item.options[place] for place in order))


def exchanges(row: ItemRow) -> tuple[Item, ...]:
    """What a row holds; nothing where it is refused, as its body may be any words."""
    return () if row.state == "refused" else from_body(row.body)


def kept_items(ledger: Ledger, image: str, step: str, kind: str, language: str) -> Iterator[ItemRow]:
    """Usable items of a picture."""
    where = "image = ? AND state <> 'refused' AND step = ? AND type = ? AND language = ?"
    return ledger.rows(ItemRow, where, (image, step, kind, language))


def _row(name: str, answer: AnswerRow, kind: str, body: str, same: str, state: str, reason: str) -> ItemRow:
    return ItemRow(
        name, answer.key, answer.step, answer.image, answer.domain, kind, answer.language, body, same, state, reason
    )
