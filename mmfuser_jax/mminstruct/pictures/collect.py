"""The first step: pictures of all sources come into the store, each once, and what is not taken has its reason."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.config import Filters, PictureSource
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.candidates import INCOMING, Candidate, candidates
from mmfuser_jax.mminstruct.pictures.inspection import READABLE, Inspected, inspect, nearest, read
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.schema import Finding, ImageRow
from mmfuser_jax.mminstruct.web.addresses import FetchError, host_of, is_allowed, parsed
from mmfuser_jax.mminstruct.web.fetch import WebFile, fetch_all
from mmfuser_jax.prepare.progress import shown
from mmfuser_jax.processes import in_order

LOG = logging.getLogger(__name__)

BATCH = 32
"""Pictures after which what was found is written to the ledger: what a kill costs."""

AGAIN = ""
"""Stamp of what failed for a reason that may pass, or that the config may allow by now: looked at again by the next run."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What a look at a candidate found: a picture, or why there is none."""

    candidate: Candidate
    inspected: Inspected | None = None
    reason: str = ""
    detail: str = ""
    again: bool = False


@dataclasses.dataclass(frozen=True)
class _Shared:
    folder: Path
    filters: Filters


def collect(project: Project, ledger: Ledger, workers: int = 1) -> None:
    """Looks at every picture of the sources that was not looked at before, or has changed since.

    Pictures come in the order of the sources and of their names or rows, whatever the number of workers and whichever file
    is fetched first: of two that are nearly the same, the first one stays. Pools come last, as they are compared with the
    rest.

    Raises:
      ProjectError: a source is not what the config says.
    """
    settings = project.config.collect
    for left in project.images.glob("*/.*.tmp"):  # by runs that were killed
        left.unlink()
    taking = _Taking(ledger, settings.filters.near)
    for sources in ([x for x in settings.sources if not x.pool], [x for x in settings.sources if x.pool]):
        waiting = _waiting(project, ledger, sources, workers)
        _check_hosts(waiting, settings.hosts)
        files = _at_hand(project, waiting)
        looks = in_order(_look_at, _Shared(project.images, settings.filters), _batches(files), workers)
        for batch in shown(looks, "pictures", len(waiting), len):
            with ledger.changes():
                for look in batch:
                    taking.take(look)
            for look in batch:
                if isinstance(look.candidate.file, WebFile):
                    look.candidate.file.place.unlink(missing_ok=True)
    shutil.rmtree(project.folder / INCOMING, ignore_errors=True)


def _batches(items: Iterator[Candidate | Look]) -> Iterator[list[Candidate | Look]]:
    while batch := list(itertools.islice(items, BATCH)):
        yield batch


def _waiting(project: Project, ledger: Ledger, sources: Sequence[PictureSource], workers: int) -> list[Candidate]:
    """What is to be looked at. The same place may be given several times; the first time counts."""
    known, found = ledger.stamps(), dict[str, Candidate]()
    for source in sources:
        for candidate in candidates(project, ledger, source, workers):
            found.setdefault(candidate.place, candidate)
    filters = project.config.collect.filters
    stamped = (dataclasses.replace(x, stamp=_stamp_with(x, filters)) for x in found.values())
    return [candidate for candidate in stamped if known.get(candidate.place) != candidate.stamp]


def _stamp_with(candidate: Candidate, filters: Filters) -> str:
    """Other filters look again at what is at hand; files of the web would have to be fetched again."""
    if isinstance(candidate.file, WebFile):
        return candidate.stamp
    judged = filters.model_dump_json() if candidate.source.filtered else ""
    return f"{candidate.stamp} {hashlib.sha256(judged.encode()).hexdigest()[:8]}"


def _check_hosts(waiting: Sequence[Candidate], hosts: Sequence[str]) -> None:
    """Says which hosts of files are not in the config.

    Raises:
      ProjectError: it has none.
    """
    missing = Counter[str]()
    for candidate in waiting:
        if isinstance(candidate.file, WebFile):
            with contextlib.suppress(FetchError):
                host = host_of(parsed(candidate.file.url))
                missing[host] += not is_allowed(host, hosts)
    named = [f"{host} ({count:,})" for host, count in missing.most_common() if count]
    if not named:
        return
    text = ", ".join(named[:10]) + (f" and {len(named) - 10:,} more" if len(named) > 10 else "")
    if not hosts:
        raise ProjectError(f"collect.hosts is empty, and no file is fetched from a host that it does not name: {text}")
    LOG.warning("files of these hosts are not fetched, as collect.hosts does not name them: %s", text)


def _at_hand(project: Project, waiting: Sequence[Candidate]) -> Iterator[Candidate | Look]:
    """In order, each as soon as it can be looked at; or why it cannot."""
    settings = project.config.collect
    wanted = (x.file for x in waiting if isinstance(x.file, WebFile))
    limit = min(int(settings.filters.max_megabytes * 1e6), READABLE)
    with contextlib.closing(fetch_all(wanted, settings, limit)) as fetched:
        for candidate in waiting:
            failure = next(fetched) if isinstance(candidate.file, WebFile) else None
            if failure is None:
                yield candidate
            else:
                again = failure.passing or failure.reason == "host_not_allowed"
                yield Look(candidate, None, failure.reason, failure.detail, again)


def _look_at(shared: _Shared, batch: Sequence[Candidate | Look]) -> list[Look]:
    return [_look(shared, item) if isinstance(item, Candidate) else item for item in batch]


def _look(shared: _Shared, candidate: Candidate) -> Look:
    """In a worker: what is usable is in the store when this returns, before the ledger says so."""
    try:
        file = candidate.file
        content = read(file) if isinstance(file, Path) else file.read()
        inspected = inspect(content, shared.filters if candidate.source.filtered else None)
    except RecordError as error:
        return Look(candidate, None, error.reason, str(error))
    store.keep(shared.folder, inspected.sha, inspected.suffix, content)
    return Look(candidate, inspected)


class _Taking:
    """Decides, picture by picture, what is new."""

    def __init__(self, ledger: Ledger, near: int) -> None:
        self._ledger = ledger
        self._near = near
        self._shas, hashes = ledger.hashes()
        self._hashes = np.zeros(max(1024, 2 * len(hashes)), np.int64)
        self._hashes[: len(hashes)] = hashes

    def take(self, look: Look) -> None:
        """Writes what was found to the ledger."""
        candidate, inspected = look.candidate, look.inspected
        finding = Finding(candidate.place, AGAIN if look.again else candidate.stamp, candidate.source.domain)
        if inspected is None:
            self._ledger.add(dataclasses.replace(finding, reason=look.reason, detail=look.detail), "OR REPLACE")
            return
        finding = dataclasses.replace(finding, sha=inspected.sha)
        if first := self._ledger.image(inspected.sha):
            if first.origin == candidate.place:
                self._decide_anew(first, candidate, inspected)
                described = (*_described(candidate), first.sha)
                self._ledger.query("UPDATE images SET licence = ?, tags = ? WHERE sha = ?", described)
            else:
                finding = dataclasses.replace(finding, reason="same_file", detail=first.origin)
            self._ledger.add(finding, "OR REPLACE")
            return
        row = self._row(candidate, inspected)
        self._ledger.add(row)
        self._ledger.add(finding, "OR REPLACE")
        if row.state == "kept":
            self._remember(row)

    def _decide_anew(self, first: ImageRow, candidate: Candidate, inspected: Inspected) -> None:
        """What other filters say of a picture that is there; one that was kept is not compared with those that came later."""
        row = self._row(candidate, inspected)
        if first.state == "kept" and row.reason == "near_duplicate":
            return
        if first.state in ("kept", "dropped"):
            values = (row.state, row.reason, row.twin, first.sha)
            self._ledger.query("UPDATE images SET state = ?, reason = ?, twin = ? WHERE sha = ?", values)
        if first.state == "dropped" and row.state == "kept":
            self._remember(row)

    def _row(self, candidate: Candidate, inspected: Inspected) -> ImageRow:
        fields = {name: value for name, value in dataclasses.asdict(inspected).items() if name != "fault"}
        licence, tags = _described(candidate)
        row = ImageRow(
            **fields, domain=candidate.source.domain, origin=candidate.place, licence=licence, tags=tags,
            state="dropped" if inspected.fault else "kept", reason=inspected.fault,
        )  # fmt: skip
        if inspected.fault or not candidate.source.filtered:
            return row
        place, bits = nearest(inspected.hash, self._hashes[: len(self._shas)])
        if bits > self._near:
            return row
        return dataclasses.replace(row, state="dropped", reason="near_duplicate", twin=self._shas[place])

    def _remember(self, row: ImageRow) -> None:
        if len(self._shas) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
        self._hashes[len(self._shas)] = row.hash
        self._shas.append(row.sha)


def _described(candidate: Candidate) -> tuple[str, str]:
    """(licence, tags) as the ledger has them."""
    source = candidate.source
    return candidate.licence or source.licence, ",".join(dict.fromkeys((*source.tags, *candidate.tags)))
