"""Pictures that may be taken: of folders, records, lists of addresses and pools."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.mminstruct.config import PictureSource
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.url_lists import read_list
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.web.fetch import WebFile

PICTURES = frozenset((".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Endings of the files that are looked at in folders."""

INCOMING = "incoming"
"""Folder of a project with what was fetched and not yet looked at."""


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
class BadRecord:
    """Stands for the pictures of a record that cannot be used."""

    reason: str
    detail: str

    def read(self) -> bytes:
        """Raises:
        RecordError: says why.
        """
        raise RecordError(self.detail, self.reason)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A picture that may be taken.

    Attributes:
      file: where it is.
      place: names it in the ledger.
      stamp: changes where its content may have changed.
      source: that it is of.
      licence: of it alone; "" where that of the source holds.
      tags: words about it alone.
    """

    file: Path | InRecord | WebFile | BadRecord
    place: str
    stamp: str
    source: PictureSource
    licence: str = ""
    tags: tuple[str, ...] = ()


def candidates(project: Project, ledger: Ledger, source: PictureSource, workers: int = 1) -> Iterator[Candidate]:
    """Pictures of a source.

    Args:
      project: that it is of.
      ledger: of the project; pools are compared with what it has.
      source: of the config.
      workers: processes that may look into pools.

    Raises:
      ProjectError: it is not there, or has none.
    """
    if source.pool:
        from mmfuser_jax.mminstruct.pictures.similar import similar_candidates  # which needs JAX, and this does not

        yield from similar_candidates(project, ledger, source, workers)
    elif source.folder:
        yield from pictures_of(project.path(source.folder), source)
    else:
        candidate = None
        for candidate in _of_records(project, source) if source.records else _of_list(project, source):
            yield candidate
        if candidate is None:
            raise ProjectError(f"{source.records or source.urls}: no pictures here")


def pictures_of(folder: Path, source: PictureSource) -> Iterator[Candidate]:
    """Pictures in a folder and all its folders, by name.

    Raises:
      ProjectError: it is not there, or has none.
    """
    if not folder.is_dir():
        raise ProjectError(f"{folder}: no such folder (collect.sources, domain {source.domain})")
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES and path.is_file()]
    if not paths:
        raise ProjectError(f"{folder}: no pictures here")
    yield from (_of_file(path, source) for path in paths)


def _of_records(project: Project, source: PictureSource) -> Iterator[Candidate]:
    local = project.path(source.records)
    image_folder = os.fspath(project.path(source.image_folder)) if source.image_folder else ""
    spec = SourceSpec(os.fspath(local) if local.exists() else source.records, source.split, image_folder)
    records = _opened(spec)
    for index in range(len(records)):
        try:
            images = records[index].images
        except RecordError as error:
            yield Candidate(BadRecord(error.reason, str(error)), f"{source.records}#{index}", str(error), source)
            continue
        for position, image in enumerate(images):
            if isinstance(image, bytes):
                digest = hashlib.sha256(image).hexdigest()
                yield Candidate(InRecord(spec, index, position), f"{source.records}#{digest}", digest, source)
            else:
                yield _of_file(image, source)


def _of_list(project: Project, source: PictureSource) -> Iterator[Candidate]:
    for row in read_list(project.path(source.urls)):
        stamp = _digest(row.sha256, row.licence, *row.tags)[:16]
        file = WebFile(row.url, row.sha256, project.folder / INCOMING / _digest(row.url, stamp))
        yield Candidate(file, row.url, stamp, source, row.licence, row.tags)


def _digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _of_file(path: Path, source: PictureSource) -> Candidate:
    return Candidate(path, os.fspath(path), _stamp(path), source)


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
