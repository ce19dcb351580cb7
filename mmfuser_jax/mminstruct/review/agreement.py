"""How far people agree: Cohen's kappa of every two of them over the items that both have judged."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.review.decisions import REJECT, standing
from mmfuser_jax.mminstruct.schema import Verdict

UNDEFINED = "both say the same of all items, as they would without looking"
"""Why there may be no kappa."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of two people.

    Attributes:
      first, second: their names.
      both: items that both have judged.
      same: of these, those that both take, edited or not, or both reject.
      kappa: 1 for full agreement, 0 for as much as chance gives; None where it is undefined, see UNDEFINED.
    """

    first: str
    second: str
    both: int
    same: int
    kappa: float | None

    def __str__(self) -> str:
        """One line."""
        kappa = f"kappa undefined, {UNDEFINED}" if self.kappa is None else f"kappa {self.kappa:.2f}"
        return f"{self.first} and {self.second}: {self.same} of {self.both} the same, {kappa}"


def cohens_kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Agreement beyond chance; None where chance alone gives all of it, or there are no pairs.

    Args:
      pairs: what the first and what the second says of an item.

    >>> round(cohens_kappa([(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15), 2)
    0.4
    """
    if not pairs:
        return None
    count = len(pairs)
    same = sum(first == second for first, second in pairs)
    first, second = (sum(column) for column in zip(*pairs, strict=True))
    chance = first * second + (count - first) * (count - second)
    return None if chance == count * count else (same * count - chance) / (count * count - chance)


def votes(verdicts: Sequence[Verdict]) -> dict[str, bool]:
    """Reviewer → whether they take the item, of verdicts on it; without those that were given to settle a conflict."""
    return {verdict.reviewer: verdict.verdict != REJECT for verdict in standing(verdicts, independent=True)}


def agreements(items: Iterable[Mapping[str, bool]]) -> list[Agreement]:
    """Of every two people, by names.

    Args:
      items: of each, its `votes`.
    """
    pairs: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    for said in items:
        for first, second in itertools.combinations(sorted(said), 2):
            pairs[first, second].append((said[first], said[second]))
    return [
        Agreement(first, second, len(said), sum(x == y for x, y in said), cohens_kappa(said))
        for (first, second), said in sorted(pairs.items())
    ]


def agreements_of(ledger: Ledger) -> list[Agreement]:
    """Of all verdicts of a ledger."""
    by_item = itertools.groupby(ledger.rows(Verdict, order="item, number"), lambda verdict: verdict.item)
    return agreements(votes(list(group)) for _, group in by_item)
