"""The first step: pictures of folders and records come into the store, each once, and what is not taken has its reason."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.inspection import Inspected, inspect, nearest, read
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Filters, PictureSource, Project, ProjectError
from mmfuser_jax.mminstruct.schema import Finding, ImageRow
from mmfuser_jax.prepare.progress import shown
from mmfuser_jax.processes import in_order

PICTURES = frozenset((".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Endings of the files that are looked at in folders."""

BATCH = 32
"""Pictures after which what was found is written to the ledger: what a kill costs."""


@dataclasses.dataclass(frozen=True)
class InRecord:
    """A picture that a record holds, and not a file: read when it is looked at, as all of them need not fit into memory."""

    spec: SourceSpec
    index: int
    position: int

    def read(self) -> bytes:
        """The content of its file.

        Raises:
          RecordError: the record cannot be used.
        """
        content = _opened(self.spec)[self.index].images[self.position]
        assert isinstance(content, bytes)
        return content


_opened = functools.cache(open_source)
"""Once in every process."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A picture that may be taken.

    Attributes:
      file: where it is.
      place: names it in the ledger.
      stamp: changes where its content may have changed.
      source: that it is of.
    """

    file: Path | InRecord
    place: str
    stamp: str
    source: PictureSource


@dataclasses.dataclass(frozen=True)
class Look:
    """What a look at a candidate found: a picture, or why there is none."""

    candidate: Candidate
    inspected: Inspected | None = None
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class _Shared:
    folder: Path
    filters: Filters


def collect(project: Project, ledger: Ledger, workers: int = 1) -> None:
    """Looks at every picture of the sources that was not looked at before, or has changed since.

    Pictures come in the order of the sources and of their names, whatever the number of workers: of two that are nearly
    the same, the first one stays.

    Raises:
      ProjectError: there is no source, or not what the config says.
    """
    known = ledger.stamps()
    found = (x for source in project.config.collect.sources for x in candidates(project, source))
    # By place: pictures of records are often in several of them.
    waiting = list({x.place: x for x in found if known.get(x.place) != x.stamp}.values())
    filters = project.config.collect.filters
    taking = _Taking(ledger, filters.near)
    batches = [waiting[start : start + BATCH] for start in range(0, len(waiting), BATCH)]
    looks = in_order(_look_at, _Shared(project.images, filters), batches, workers)
    for batch in shown(looks, "pictures", len(waiting), len):
        with ledger.changes():
            for look in batch:
                taking.take(look)


def candidates(project: Project, source: PictureSource) -> Iterator[Candidate]:
    """Pictures of a source.

    Raises:
      ProjectError: it is not there, or has none.
    """
    candidate = None
    for candidate in _of_folder(project, source) if source.folder else _of_records(project, source):
        yield candidate
    if candidate is None:
        raise ProjectError(f"{source.folder or source.records}: no pictures here")


def _of_folder(project: Project, source: PictureSource) -> Iterator[Candidate]:
    folder = project.path(source.folder)
    if not folder.is_dir():
        raise ProjectError(f"{folder}: no such folder (collect.sources, domain {source.domain})")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURES and path.is_file():
            yield _of_file(path, source)


def _of_records(project: Project, source: PictureSource) -> Iterator[Candidate]:
    local = project.path(source.records)
    image_folder = os.fspath(project.path(source.image_folder)) if source.image_folder else ""
    spec = SourceSpec(os.fspath(local) if local.exists() else source.records, source.split, image_folder)
    records = _opened(spec)
    for index in range(len(records)):
        try:
            images = records[index].images
        except RecordError:  # `launch/data.py audit` is for these
            continue
        for position, image in enumerate(images):
            if isinstance(image, bytes):
                digest = hashlib.sha256(image).hexdigest()
                yield Candidate(InRecord(spec, index, position), f"{source.records}#{digest}", digest, source)
            else:
                yield _of_file(image, source)


def _of_file(path: Path, source: PictureSource) -> Candidate:
    return Candidate(path, os.fspath(path), _stamp(path), source)


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _look_at(shared: _Shared, batch: list[Candidate]) -> list[Look]:
    return [_look(shared, candidate) for candidate in batch]


def _look(shared: _Shared, candidate: Candidate) -> Look:
    """In a worker: what is usable is in the store when this returns, before the ledger says so."""
    try:
        file = candidate.file
        content = file.read() if isinstance(file, InRecord) else read(file)
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
        finding = Finding(candidate.place, candidate.stamp, candidate.source.domain)
        if inspected is None:
            self._ledger.add(dataclasses.replace(finding, reason=look.reason, detail=look.detail), "OR REPLACE")
            return
        finding = dataclasses.replace(finding, sha=inspected.sha)
        if first := self._ledger.image(inspected.sha):
            again = first.origin != candidate.place
            found = {"reason": "same_file", "detail": first.origin} if again else {}
            self._ledger.add(dataclasses.replace(finding, **found), "OR REPLACE")
            return
        row = self._row(candidate, inspected)
        self._ledger.add(row)
        self._ledger.add(finding, "OR REPLACE")
        if row.state == "kept":
            self._remember(row)

    def _row(self, candidate: Candidate, inspected: Inspected) -> ImageRow:
        fields = {name: value for name, value in dataclasses.asdict(inspected).items() if name != "fault"}
        source = candidate.source
        row = ImageRow(
            **fields, domain=source.domain, origin=candidate.place, licence=source.licence,
            state="dropped" if inspected.fault else "kept", reason=inspected.fault,
        )  # fmt: skip
        if inspected.fault or not source.filtered:
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
