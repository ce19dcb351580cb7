"""Which items people look at, and how many people: drawn by the hash of an item's id, so that new items move no others."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from sys import intern
from typing import NamedTuple

from mmfuser_jax.mminstruct.config import Review
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.schema import HAS_PICTURE


class Planned(NamedTuple):
    """An item that people look at.

    Attributes:
      id: of the item.
      people: how many look at it.
      domain, type, language: of the item.
      doubt: why it is doubtful, of `reasons.MEANINGS`; "" for a good one.
    """

    id: str
    people: int
    domain: str
    type: str
    language: str
    doubt: str


def draw(purpose: str, item: str) -> float:
    """A number from 0 to below 1 that depends on an item's id and on what it is drawn for."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {item}".encode()).digest()[:7]) / 2**56


def plan(ledger: Ledger, review: Review) -> list[Planned]:
    """What people look at: all doubtful items first, then the drawn good ones; those of a picture come together.

    Args:
      ledger: of the project.
      review: how many.
    """
    doubtful: list[Planned] = []
    good: list[Planned] = []
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    sql = (
        "SELECT id, domain, type, language, state, reason FROM items "
        f"WHERE state <> 'refused' AND {HAS_PICTURE} ORDER BY image, id"
    )
    for name, domain, kind, language, state, reason in ledger.query(sql):
        group = (intern(domain), intern(kind), intern(language))
        people = 2 if draw("second", name) < review.twice else 1
        if state == "doubtful":
            doubtful.append(Planned(name, people, *group, intern(reason)))
        else:
            good.append(Planned(name, people, *group, ""))
            groups[group].append(name)
    drawn = {name for names in groups.values() for name in _drawn(names, review)}
    return doubtful + [item for item in good if item.id in drawn]


def _drawn(names: list[str], review: Review) -> list[str]:
    """A share of a group, at least the least number that there should be."""
    draws = {name: draw("look", name) for name in names}
    share = sum(drawn < review.share for drawn in draws.values())
    return sorted(names, key=draws.__getitem__)[: max(share, review.least)]
