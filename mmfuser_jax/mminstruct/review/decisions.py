"""What people's verdicts on an item come to: accepted, rejected, a conflict, or still open."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.items import from_body, plain
from mmfuser_jax.mminstruct.schema import ItemRow, Verdict

ACCEPT, EDIT, REJECT, UNDONE = "accept", "edit", "reject", "undone"

MOST_SECONDS = 300.0
"""Counted for one verdict: who takes longer is doing something else."""

REJECTIONS = {
    "wrong_answer": "the answer is wrong",
    "not_in_picture": "it speaks of what the picture does not show",
    "no_single_answer": "no answer is right, or several are",
    "needs_no_picture": "it can be answered without the picture",
    "unclear": "it cannot be understood",
    "wrong_type": "it is no question of this type",
    "harmful": "it is offensive, harmful or about private matters",
    "bad_picture": "the picture cannot be used",
    "other": "for another reason",
}
"""Why people reject an item, by code; on the page, in this order, by number."""

CONFLICTS = {
    "accept_and_reject": "some take it, others reject it",
    "different_edits": "people changed it in different ways",
    "different_answers": "some take the answer, others changed it",
}
"""In what people disagree, by code."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of an item.

    Attributes:
      state: "accepted", "rejected", "conflict", or "open" where nobody has looked at it.
      body: of the item as it is to be used, see `items.from_body`: as made, or as edited.
      edited: whether a person changed it.
      reason: of REJECTIONS or CONFLICTS; else "".
      reviewers: whose verdicts stand, in the order of these.
      seconds: that all people have looked at it, also for verdicts that they took back.
      settled: whether a verdict that stands was given to settle a conflict.
    """

    state: str
    body: str
    edited: bool = False
    reason: str = ""
    reviewers: tuple[str, ...] = ()
    seconds: float = 0.0
    settled: bool = False


def standing(verdicts: Sequence[Verdict], *, independent: bool = False) -> list[Verdict]:
    """The verdict of each person that counts: the last one that was not taken back. "undone" takes back the one before it.

    Args:
      verdicts: on one item, in the order in which they were given.
      independent: leaves out those that settle a conflict, which were given in the knowledge of the others.
    """
    if len(verdicts) == 1 and verdicts[0].verdict != UNDONE:  # as most items have
        return [verdict for verdict in verdicts if not (independent and verdict.final)]
    given: dict[str, list[tuple[int, Verdict]]] = {}
    for place, verdict in enumerate(verdicts):
        mine = given.setdefault(verdict.reviewer, [])
        if verdict.verdict != UNDONE:
            mine.append((place, verdict))
        elif mine:
            mine.pop()
    kept = ([pair for pair in mine if not (independent and pair[1].final)] for mine in given.values())
    return [verdict for _, verdict in sorted((mine[-1] for mine in kept if mine), key=lambda pair: pair[0])]


def conflict(body: str, verdicts: Sequence[Verdict]) -> str:
    """In what standing verdicts disagree, of CONFLICTS; "" where they do not.

    Who rejects disagrees with who does not, whatever the reasons. Edits must be the same. An edit beside an "accept" counts
    as an improvement of wording, unless it changes the answer of a choice, a judgement or a short question.

    Args:
      body: of the item as it was made.
      verdicts: see `standing`.
    """
    kinds = {verdict.verdict for verdict in verdicts}
    edits = {verdict.body for verdict in verdicts if verdict.verdict == EDIT}
    if REJECT in kinds and len(kinds) > 1:
        return "accept_and_reject"
    if len(edits) > 1:
        return "different_edits"
    return "different_answers" if ACCEPT in kinds and any(_facts(edit) != _facts(body) for edit in edits) else ""


def _facts(body: str) -> list[str]:
    return [plain(item.answer_text) or item.answer_text for item in from_body(body) if item.type != "long"]


def decision(item: ItemRow, verdicts: Sequence[Verdict]) -> Decision:
    """What people have decided on an item.

    Args:
      item: as it was made.
      verdicts: all rows on it, in the order in which they were given.
    """
    seconds = sum((verdict.seconds for verdict in verdicts), 0.0)
    stand = standing(verdicts)
    if not stand:
        return Decision("open", item.body, seconds=seconds)
    reviewers = tuple(verdict.reviewer for verdict in stand)
    final = [verdict for verdict in stand if verdict.final]
    reason = "" if final or len(stand) == 1 else conflict(item.body, stand)
    if reason:
        return Decision("conflict", item.body, False, reason, reviewers, seconds)
    counting = final[-1:] or stand
    if counting[-1].verdict == REJECT:
        return Decision("rejected", item.body, False, counting[-1].reason, reviewers, seconds, bool(final))
    body = next((verdict.body for verdict in counting if verdict.verdict == EDIT), item.body)
    return Decision("accepted", body, body != item.body, "", reviewers, seconds, bool(final))


def decisions(ledger: Ledger) -> Iterator[tuple[ItemRow, Decision]]:
    """Every good or doubtful item with what was decided on it, in the order of pictures, of a picture in that of ids."""
    looked_at = {item for (item,) in ledger.query("SELECT DISTINCT item FROM verdicts")}
    for item in ledger.rows(ItemRow, "state <> 'refused'", order="image, id"):
        verdicts = verdicts_of(ledger, item.id) if item.id in looked_at else []
        yield item, decision(item, verdicts)


def judged_again(ledger: Ledger) -> Iterator[tuple[ItemRow, list[Verdict]]]:
    """Every good or doubtful item that has several verdicts, with them in the order in which they were given; by ids."""
    several = "SELECT item FROM verdicts GROUP BY item HAVING count(*) > 1"
    items = ledger.rows(ItemRow, f"id IN ({several}) AND state <> 'refused'", order="id")
    there = f"item IN ({several} INTERSECT SELECT id FROM items WHERE state <> 'refused')"
    by_item = itertools.groupby(ledger.rows(Verdict, there, order="item, number"), lambda verdict: verdict.item)
    for item, (_, verdicts) in zip(items, by_item, strict=True):
        yield item, list(verdicts)


def verdicts_of(ledger: Ledger, item: str) -> list[Verdict]:
    """All verdicts on an item, in the order in which they were given."""
    return list(ledger.rows(Verdict, "item = ?", (item,), order="number"))
