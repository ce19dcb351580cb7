"""Who looks at what next: the planned items that are still open, each lent to one person at a time, and the conflicts."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence

from mmfuser_jax.mminstruct.config import Review
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.review.agreement import Agreement, agreements, votes
from mmfuser_jax.mminstruct.review.decisions import UNDONE, decision, judged_again, standing, verdicts_of
from mmfuser_jax.mminstruct.review.sampling import Planned, plan
from mmfuser_jax.mminstruct.schema import HAS_PICTURE, ItemRow, Verdict

LEASE = 600.0
"""Seconds after which an item that a person was given, and did nothing with, goes to others."""

FILTERS = ("domain", "type", "language", "doubt")
"""Fields of `Planned` by which people choose what they look at."""


class QueueError(ValueError):
    """There is no such item, or it cannot be judged in this way."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the people are.

    Attributes:
      planned, done: items that people are to look at, and of these those that enough of them did.
      waiting: items that the person who asks has judged and somebody else is still to look at.
      conflicts: items on which people disagree and that nobody has settled yet.
      mine: verdicts that stand of the person who asks.
      seconds: that this person took for one, on average over all that they gave; 0 where there are none.
      agreements: see `agreement.agreements`.
    """

    planned: int
    done: int
    waiting: int
    conflicts: int
    mine: int
    seconds: float
    agreements: tuple[Agreement, ...]


class Queue:
    """Of one server: every verdict of the ledger is given through it, by one thread."""

    def __init__(self, ledger: Ledger, review: Review, clock: Callable[[], float] = time.monotonic) -> None:
        """Plans, and takes up where the verdicts of the ledger end."""
        self._ledger = ledger
        self._review = review
        self._clock = clock
        self._leases: dict[str, dict[str, float]] = {}  # reviewer → item → until when
        self._plan_all()

    def _plan_all(self) -> None:
        self._planned_of = self._items()
        self._plan = {item.id: item for item in plan(self._ledger, self._review)}
        self._open: OrderedDict[str, Planned] = OrderedDict(self._plan)
        self._conflicts: OrderedDict[str, Planned] = OrderedDict()
        self._reviewers: dict[str, tuple[str, ...]] = {}
        self._votes: dict[str, dict[str, bool]] = {}  # of items that more than one person judged
        self._standing: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._given: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        sql = (  # of most items there is one verdict, and nothing to find out
            "SELECT item, reviewer, seconds FROM verdicts WHERE item IN (SELECT id FROM items WHERE state <> 'refused') "
            "GROUP BY item HAVING count(*) = 1 AND verdict <> ?"
        )
        for name, reviewer, seconds in self._ledger.query(sql, (UNDONE,)):
            self._given[reviewer] += 1
            self._seconds[reviewer] += seconds
            known = self._plan.get(name) or Planned(name, 0, "", "", "", "")
            self._place(known, (reviewer,), conflict=False, settled=False)
        for row, verdicts in judged_again(self._ledger):
            self._take_in(row, verdicts)

    def _items(self) -> list[tuple[object, ...]]:
        """Something that other items make another, and other pictures that are dropped."""
        items = self._ledger.query("SELECT state, count(*), max(rowid) FROM items GROUP BY state")
        return items + self._ledger.query("SELECT count(*), sum(rowid) FROM images WHERE state = 'dropped'")

    def renew(self) -> bool:
        """Plans anew if the ledger has other items or pictures than when that was done; whether it has."""
        if self._items() == self._planned_of:
            return False
        self._plan_all()
        return True

    def __len__(self) -> int:
        """Planned items."""
        return len(self._plan)

    def item(self, name: str) -> ItemRow:
        """An item that people may judge.

        Raises:
          QueueError: there is none.
        """
        row = self._row(name)
        if row is None:
            raise QueueError(f"there is no item {name!r} to be judged")
        return row

    def _row(self, name: str) -> ItemRow | None:
        return self._ledger.row(ItemRow, "id = ? AND state <> 'refused'", (name,))

    def _wanted(self, name: str) -> bool:
        """Whether an item is still one that people look at."""
        sql = f"SELECT 1 FROM items WHERE id = ? AND state <> 'refused' AND {HAS_PICTURE}"
        return bool(self._ledger.query(sql, (name,)))

    def choices(self) -> dict[str, dict[str, int]]:
        """Filter → value → number of planned items that have it; of doubts, no value for the good ones."""
        counts = {name: Counter(getattr(item, name) for item in self._plan.values()) for name in FILTERS}
        return {name: {value: found[value] for value in sorted(found) if value} for name, found in counts.items()}

    def next(self, reviewer: str, wanted: Mapping[str, str], *, conflicts: bool = False) -> str | None:
        """Lends a person an item, one that they have already if it is still open; None where there is none left.

        Before it says so, it looks for items that were made since. What they have and does not fit is given back.

        Args:
          reviewer: the person.
          wanted: filter → value, of FILTERS.
          conflicts: whether it is one to be settled.
        """
        source = self._conflicts if conflicts else self._open
        held = (source[name] for name in self._leases.get(reviewer, ()) if name in source)
        mine = [item.id for item in held if self._fits(item, reviewer, wanted)]
        self._leases[reviewer] = dict.fromkeys(mine, self._clock() + LEASE)
        others = (item.id for item in source.values() if self._fits(item, reviewer, wanted))
        found = mine[0] if mine else next(others, None)
        if (found is None or not self._wanted(found)) and self.renew():
            return self.next(reviewer, wanted, conflicts=conflicts)
        if found is not None:
            self.hold(found, reviewer)
        return found

    def hold(self, name: str, reviewer: str) -> None:
        """Lends a person an item, or for longer the one that they have."""
        self._leases.setdefault(reviewer, {})[name] = self._clock() + LEASE

    def _fits(self, item: Planned, reviewer: str, wanted: Mapping[str, str]) -> bool:
        """Whether an item is what a person wants to see, and may."""
        if any(getattr(item, key) != value for key, value in wanted.items()):
            return False
        now = self._clock()
        held = sum(who != reviewer and lent.get(item.id, 0.0) > now for who, lent in self._leases.items())
        if item.id in self._conflicts:
            return not held
        said = self._reviewers.get(item.id, ())
        return reviewer not in said and len(said) + held < item.people

    def open_items(self) -> list[str]:
        """Planned items that people are still to look at, in order."""
        return list(self._open)

    def to_settle(self, name: str) -> bool:
        """Whether people disagree about an item, and nobody has settled it."""
        return name in self._conflicts

    def say(self, verdict: Verdict) -> None:
        """Writes a verdict down; it is on the disk when this returns. One that stands already is not written again.

        Raises:
          QueueError: there is no such item, or no conflict that it could settle.
        """
        item = self.item(verdict.item)
        verdicts = verdicts_of(self._ledger, item.id)
        stand = standing(verdicts)
        if verdict.final and item.id not in self._conflicts and not any(other.final for other in stand):
            raise QueueError(f"there is no conflict about item {item.id!r} to be settled")
        if dataclasses.replace(verdict, seconds=0.0) not in [
            dataclasses.replace(other, seconds=0.0) for other in stand
        ]:
            with self._ledger.changes():
                self._ledger.add(verdict)
            self._take_in(item, [*verdicts, verdict], new=1)
        self._leases.get(verdict.reviewer, {}).pop(item.id, None)

    def undo(self, reviewer: str) -> str | None:
        """Takes a person's last verdict back, and lends them its item again; None where there is none."""
        taken_back: Counter[str] = Counter()
        last = None
        for verdict in self._ledger.rows(Verdict, "reviewer = ?", (reviewer,), "number DESC"):
            if verdict.verdict == UNDONE:
                taken_back[verdict.item] += 1
            elif taken_back[verdict.item]:
                taken_back[verdict.item] -= 1
            else:
                last = verdict.item
                break
        if last is not None:
            self.say(Verdict(last, reviewer, UNDONE))
            self.hold(last, reviewer)
        return last

    def progress(self, reviewer: str) -> Progress:
        """How far all are, and one person."""
        given = self._given[reviewer]
        return Progress(
            planned=len(self._plan),
            done=len(self._plan) - len(self._open),
            waiting=self._waiting[reviewer],
            conflicts=len(self._conflicts),
            mine=self._standing[reviewer],
            seconds=self._seconds[reviewer] / given if given else 0.0,
            agreements=tuple(agreements(self._votes.values())),
        )

    def _take_in(self, item: ItemRow, verdicts: Sequence[Verdict], new: int | None = None) -> None:
        """Brings what is held in memory about an item in line with its verdicts, of which the last `new` were not counted."""
        for verdict in verdicts[-new:] if new else verdicts:
            self._given[verdict.reviewer] += verdict.verdict != UNDONE
            self._seconds[verdict.reviewer] += verdict.seconds
        found = decision(item, verdicts)
        said = votes(verdicts)
        self._votes.pop(item.id, None)
        if len(said) > 1:
            self._votes[item.id] = said
        known = self._plan.get(item.id) or Planned(item.id, 0, item.domain, item.type, item.language, item.reason)
        conflict = found.state == "conflict" and self._wanted(item.id)
        self._place(known, found.reviewers, conflict=conflict, settled=found.settled)

    def _place(self, item: Planned, reviewers: tuple[str, ...], *, conflict: bool, settled: bool) -> None:
        """An item into the queues where it belongs, now that the verdicts of these people stand; unplanned ones have 0 people."""
        before = self._reviewers.get(item.id, ())
        self._reviewers[item.id] = reviewers
        wanting = len(reviewers) < item.people and not conflict and not settled
        for name in before:
            self._standing[name] -= 1
            self._waiting[name] -= item.id in self._open
        for name in reviewers:
            self._standing[name] += 1
            self._waiting[name] += wanting
        _put(self._conflicts, item, conflict)
        _put(self._open, item, wanting)


def _put(items: OrderedDict[str, Planned], item: Planned, there: bool) -> None:
    """An item into a queue, before all others, or out of it."""
    if not there:
        items.pop(item.id, None)
    elif item.id not in items:
        items[item.id] = item
        items.move_to_end(item.id, last=False)
