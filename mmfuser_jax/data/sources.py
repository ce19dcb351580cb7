"""Names of data sources → lists of records."""

from __future__ import annotations

from collections.abc import Callable

from mmfuser_jax.data import easy_vqa
from mmfuser_jax.data.records import Record

SOURCES: dict[str, Callable[[str], list[Record]]] = {
    "easy_vqa/questions": easy_vqa.questions,
    "easy_vqa/captions": easy_vqa.captions,
    "easy_vqa/matches": easy_vqa.matches,
}


def load_records(source: str, split: str) -> list[Record]:
    """All records of a split, in a fixed order.

    Raises:
      ValueError: no such source or split; the message lists those there are.
    """
    check_source(source)
    return SOURCES[source](split)


def check_source(source: str) -> None:
    """Raises ValueError where there is no such source; the message lists those there are."""
    if source not in SOURCES:
        raise ValueError(f"no data source {source!r}; there are {', '.join(SOURCES)}")
