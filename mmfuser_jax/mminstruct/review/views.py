"""What the page is told, as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.questions.items import LETTERS, from_body
from mmfuser_jax.mminstruct.reasons import CHECKS, ITEMS, MEANINGS
from mmfuser_jax.mminstruct.review.decisions import CONFLICTS, REJECTIONS, decision, standing, verdicts_of
from mmfuser_jax.mminstruct.review.edits import places
from mmfuser_jax.mminstruct.review.queue import Progress, Queue
from mmfuser_jax.mminstruct.schema import AnswerRow, ItemRow, Verdict

Json = dict[str, Any]


def start_view(project: Project, queue: Queue, reviewer: str) -> Json:
    """What does not change while the server runs.

    Args:
      project: whose items they are.
      queue: of them.
      reviewer: name that the server was started with, or "".
    """
    return {
        "project": project.config.name,
        "reviewer": reviewer,
        "letters": LETTERS,
        "rejections": [{"code": code, "words": words} for code, words in REJECTIONS.items()],
        "choices": queue.choices(),
        "doubts": {**CHECKS, **ITEMS},
    }


def progress_view(progress: Progress) -> Json:
    """See `Progress`."""
    return {**dataclasses.asdict(progress), "agreements": [_agreement(one) for one in progress.agreements]}


def _agreement(one: Any) -> Json:
    return {**dataclasses.asdict(one), "words": str(one)}


def item_view(ledger: Ledger, item: ItemRow, reviewer: str, *, conflict: bool) -> Json:
    """An item with all that a person needs to judge it.

    Args:
      ledger: of the project.
      item: good or doubtful.
      reviewer: the person, whose own verdict is shown.
      conflict: whether the verdicts of others are shown too, for settling a conflict.
    """
    verdicts = verdicts_of(ledger, item.id)
    stand = standing(verdicts)
    own = next((verdict for verdict in stand if verdict.reviewer == reviewer), None)
    answer = ledger.row(AnswerRow, "key = ?", (item.answer,))
    picture = ledger.image(item.image)
    found = decision(item, verdicts)
    return {
        "id": item.id,
        "image": item.image,
        "size": [picture.width, picture.height] if picture else None,
        "origin": picture.origin if picture else "",
        "captions": _captions(ledger, item),
        "domain": item.domain,
        "type": item.type,
        "language": item.language,
        "step": item.step,
        "model": answer.model if answer else "",
        "prompt": answer.prompt if answer else "",
        "doubt": MEANINGS.get(item.reason, item.reason) if item.state == "doubtful" else "",
        "exchanges": [dataclasses.asdict(one) for one in from_body(item.body)],
        "verdict": _verdict(own, item) if own else None,
        "conflict": CONFLICTS.get(found.reason, "") if conflict else "",
        "others": [_verdict(verdict, item) for verdict in stand] if conflict else [],
    }


def _captions(ledger: Ledger, item: ItemRow) -> list[Json]:
    """Usable captions of the picture, the one in the item's language first."""
    where = "image = ? AND step = 'caption' AND reason = '' AND text <> ''"
    rows = sorted(ledger.rows(AnswerRow, where, (item.image,)), key=lambda row: row.language != item.language)
    return [{"language": row.language, "text": row.text, "model": row.model} for row in rows]


def _verdict(verdict: Verdict, item: ItemRow) -> Json:
    return {
        "reviewer": verdict.reviewer,
        "verdict": verdict.verdict,
        "code": verdict.reason,
        "reason": REJECTIONS.get(verdict.reason, verdict.reason),
        "exchanges": _edit(verdict.body, item.body) if verdict.body else None,
        "final": bool(verdict.final),
    }


def _edit(body: str, made: str) -> list[Json] | None:
    """The exchanges of an edit with their places in what was made; None where this was made anew since."""
    kept = from_body(body)
    if (found := places(from_body(made), kept)) is None:
        return None
    return [{"place": at, **dataclasses.asdict(one)} for at, one in zip(found, kept, strict=True)]
