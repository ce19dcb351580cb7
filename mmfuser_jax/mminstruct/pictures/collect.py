"""The first step: pictures of all sources come into the store, each once, and what is not taken has its reason."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.config import Filters, PictureSource
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.candidates import INCOMING, Candidate, candidates
from mmfuser_jax.mminstruct.pictures.inspection import READABLE, inspect, read
from mmfuser_jax.mminstruct.pictures.taking import Look, Taking
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.web.addresses import FetchError, host_of, is_allowed, parsed
from mmfuser_jax.mminstruct.web.fetch import WebFile, fetch_all
from mmfuser_jax.prepare.progress import shown
from mmfuser_jax.processes import in_order

LOG = logging.getLogger(__name__)

BATCH = 32
"""Pictures after which what was found is written to the ledger: what a kill costs."""


@dataclasses.dataclass(frozen=True)
class _Shared:
    folder: Path
    filters: Filters


def collect(project: Project, ledger: Ledger, workers: int = 1) -> None:
    """Looks at every picture of the sources that was not looked at before, or has changed since.

    Pictures come in the order of the sources and of their names or rows, whatever the number of workers and whichever file
    is fetched first: of two that are nearly the same, the first one stays. Pools come last, as they are compared with the
    rest. What is said of a picture holds until its file, its source or the filters change, or the picture that it looks the
    same as is not kept any more.

    Raises:
      ProjectError: a source is not what the config says, or gives another domain to pictures that have questions.
      FileNotFoundError: a picture is gone from the store.
    """
    settings = project.config.collect
    for left in project.images.glob("*/.*.tmp"):  # by runs that were killed
        left.unlink()
    taking = Taking(ledger, project.images, settings.filters.near)
    found: dict[str, Candidate] = {}
    for sources in ([x for x in settings.sources if not x.pool], [x for x in settings.sources if x.pool]):
        new = _found(project, ledger, sources, workers, found)
        taking.describe(new)
        waiting = _waiting(ledger, new)
        _check_hosts(waiting, settings.hosts)
        _take(project, ledger, taking, _at_hand(project, waiting), len(waiting), workers)
        if again := taking.unsettled(found):
            _take(project, ledger, taking, again, len(again), workers)
    shutil.rmtree(project.folder / INCOMING, ignore_errors=True)


def _take(
    project: Project, ledger: Ledger, taking: Taking, files: Iterable[Candidate | Look], count: int, workers: int
) -> None:
    shared = _Shared(project.images, project.config.collect.filters)
    looks = in_order(_look_at, shared, _batches(iter(files)), workers)
    for batch in shown(looks, "pictures", count, len):
        with ledger.changes():
            for look in batch:
                taking.take(look)
        for look in batch:
            if isinstance(look.candidate.file, WebFile):
                look.candidate.file.place.unlink(missing_ok=True)


def _batches(items: Iterator[Candidate | Look]) -> Iterator[list[Candidate | Look]]:
    while batch := list(itertools.islice(items, BATCH)):
        yield batch


def _found(
    project: Project, ledger: Ledger, sources: Sequence[PictureSource], workers: int, found: dict[str, Candidate]
) -> list[Candidate]:
    """Candidates of these sources, added to what others have. The same place may be given several times; the first counts."""
    filters, new = project.config.collect.filters, []
    for source in sources:
        for candidate in candidates(project, ledger, source, workers):
            if candidate.place not in found and not _is_another_s(ledger, candidate, sources):
                candidate = dataclasses.replace(candidate, stamp=_stamp_with(candidate, filters))
                found[candidate.place] = candidate
                new.append(candidate)
    return new


def _is_another_s(ledger: Ledger, candidate: Candidate, sources: Sequence[PictureSource]) -> bool:
    """Whether a picture of a pool stays with another domain, which took it before.

    It does where that domain is still to grow from the same pool, or the picture has questions of it.
    """
    source = candidate.source
    if not source.pool:
        return False
    growing = {x.domain for x in sources if x.pool == source.pool}
    sql = "SELECT domain, sha FROM findings WHERE place = ? AND domain <> ?"
    rows = ledger.query(sql, (candidate.place, source.domain))
    return any(domain in growing or (sha and ledger.has_questions(sha)) for domain, sha in rows)


def _waiting(ledger: Ledger, found: Sequence[Candidate]) -> list[Candidate]:
    """What is to be looked at."""
    known = ledger.stamps()
    return [candidate for candidate in found if known.get(candidate.place) != candidate.stamp]


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
