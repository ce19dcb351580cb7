"""Counting what a stream of batches could not use, and stopping where that is too much."""

from __future__ import annotations

import logging

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.data.rows import Report

LOG = logging.getLogger(__name__)

FEWEST = 1000
"""Records that the allowed fraction refers to at least: it says little about the first few."""


class Tally:
    """Counts of one stream. Each refused record is logged once with its id.

    Attributes:
      counts: "seen", "truncated" and "rejected" records since the stream began.
    """

    def __init__(self, max_bad_fraction: float, counts: dict[str, int] | None = None) -> None:
        """Goes on from `counts`, such as a checkpoint keeps them."""
        self._limit = max_bad_fraction
        self._logged: set[str] = set()
        self.counts = {"seen": 0, "truncated": 0, "rejected": 0, **(counts or {})}

    def add(self, report: Report) -> None:
        """Counts a batch.

        Raises:
          RecordError: more than the allowed fraction of the records could not be used.
        """
        self.counts["seen"] += report.seen
        self.counts["truncated"] += report.truncated
        self.counts["rejected"] += len(report.rejected)
        for rejected in report.rejected:
            if rejected.detail not in self._logged:  # ids may be missing, or not unique
                self._logged.add(rejected.detail)
                LOG.warning("not used (%s): %s", rejected.reason, rejected.detail)
        bad, seen = self.counts["rejected"], self.counts["seen"]
        if bad > self._limit * max(seen, FEWEST):
            raise RecordError(
                f"{bad} of {seen} records could not be used, more than max_bad_fraction={self._limit:g} allows "
                f"(counted over at least {FEWEST}); the last: {_last(report)}; "
                "run launch/data.py audit on the source for all of them"
            )


def _last(report: Report) -> str:
    return report.rejected[-1].detail if report.rejected else "?"
