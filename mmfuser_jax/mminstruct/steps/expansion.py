"""Takes questions of public sets over: pictures into the store, questions as items, and what is none with its reason."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Set

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.config import PublicSet
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.inspection import inspect, read
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.public_sets import FORMATS, Found, Imported, Unusable
from mmfuser_jax.mminstruct.public_sets.tabmwp import UNIT
from mmfuser_jax.mminstruct.questions.benchmarks import benchmark_questions
from mmfuser_jax.mminstruct.questions.items import as_body, plain
from mmfuser_jax.mminstruct.questions.keeping import item_id, same_key, shuffled
from mmfuser_jax.mminstruct.schema import Finding, ImageRow, ItemRow
from mmfuser_jax.prepare.progress import shown

BATCH = 100
"""Questions that are taken over in one change of the ledger."""

LANGUAGE = "en"
"""Of all the sets."""

STATE = "imported"
"""Of their pictures: no model is asked about them, as they have their questions."""


def take_sets(project: Project, ledger: Ledger) -> None:
    """Takes all sets of the config over; of what was before, only what was refused is looked at again.

    Raises:
      ProjectError, PublicSetError: a set has no such format or splits, or is not in its folder; or a file of benchmarks is
        not there.
    """
    benchmark = benchmark_questions(project)
    for chosen in project.config.expand.sets:
        if chosen.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise ProjectError(
                f"{project.folder}/project.yaml: expand.sets: no format {chosen.format!r}; known: {known}"
            )
        reader = functools.partial(FORMATS[chosen.format], project.path(chosen.folder), chosen.splits)
        total = sum(1 for _ in reader())
        for batch in shown(_batches(_evenly(reader(), total, chosen.most)), chosen.called, chosen.most or total, len):
            with ledger.changes():
                for part in batch:
                    _take(project, ledger, chosen, benchmark, part)


def _evenly(found: Iterator[Found], total: int, most: int) -> Iterator[Found]:
    """So many of them, spread over the set."""
    count = min(most or total, total)
    taken = 0
    for place, part in enumerate(found):
        if taken * total // count == place:
            taken += 1
            yield part
        if taken == count:
            return


def _batches(found: Iterator[Found]) -> Iterator[list[Found]]:
    while batch := list(itertools.islice(found, BATCH)):
        yield batch


def _take(project: Project, ledger: Ledger, chosen: PublicSet, benchmark: Set[str], part: Found) -> None:
    name = item_id(chosen.called, part.name)
    before = ledger.row(ItemRow, "id = ?", (name,))
    if before is None or before.state == "refused":  # since when a picture may have been unpacked, or a file mended
        row = _read(project, ledger, chosen, benchmark, part, name)
        if row != before:
            ledger.add(row, "OR REPLACE")


def _read(project: Project, ledger: Ledger, chosen: PublicSet, benchmark: Set[str], part: Found, name: str) -> ItemRow:
    if isinstance(part, Unusable):
        return _row(name, chosen, part, "", part.text, "", "refused", part.reason)
    question = part.item.question
    if not benchmark.isdisjoint((plain(question), plain(question.partition(UNIT)[0]))):
        return _row(name, chosen, part, "", as_body([part.item]), "", "refused", "benchmark")
    try:
        image = _picture(project, ledger, chosen, part)
    except RecordError as error:
        return _row(name, chosen, part, "", as_body([part.item]), "", "refused", error.reason)
    item = shuffled(part.item, name)
    return _row(name, chosen, part, image, as_body([item]), same_key(item), "good", "")


def _picture(project: Project, ledger: Ledger, chosen: PublicSet, part: Imported) -> str:
    """Brings the picture of a question into the store; its SHA-256.

    Raises:
      RecordError: it cannot be opened.
    """
    content = read(part.file)
    sha = hashlib.sha256(content).hexdigest()
    if ledger.image(sha) is None:
        seen = inspect(content, None)
        store.keep(project.images, sha, seen.suffix, content)
        place = str(part.file)
        row = ImageRow(
            sha, chosen.domain, seen.suffix, seen.width, seen.height, seen.bytes, place, chosen.licence, seen.hash, STATE
        )  # fmt: skip
        ledger.add(row)
        ledger.add(Finding(place, STATE, chosen.domain, sha), "OR REPLACE")
    return sha


def _row(
    name: str, chosen: PublicSet, part: Found, image: str, body: str, same: str, state: str, reason: str
) -> ItemRow:
    kind = part.item.type if isinstance(part, Imported) else ""
    return ItemRow(name, part.name, chosen.called, image, chosen.domain, kind, LANGUAGE, body, same, state, reason)
