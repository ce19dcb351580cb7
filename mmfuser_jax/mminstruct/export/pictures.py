"""Pictures of the store on their way into a data set; each is what its name says, or nothing is written."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.export.errors import ExportError
from mmfuser_jax.mminstruct.export.selection import Selection
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.prepare.progress import shown
from mmfuser_jax.processes import in_order

BATCH = 64
"""Pictures of a task."""


def content(images: Path, path: str) -> bytes:
    """The file of a picture.

    Args:
      images: the store.
      path: of the picture in the data set.

    Raises:
      ExportError: it is gone, or has changed.
    """
    file = store.place(images, Path(path).stem, Path(path).suffix)
    try:
        found = file.read_bytes()
    except OSError as error:
        raise ExportError(f"{file}: cannot be read ({error.strerror}); put it back or export another project") from None
    if hashlib.sha256(found).hexdigest() != file.stem:
        raise ExportError(f"{file}: has changed since it was collected; put back the file of which this is the SHA-256")
    return found


@dataclasses.dataclass(frozen=True)
class _Shared:
    images: Path
    folder: Path


def place_pictures(project: Project, selection: Selection, folder: Path, workers: int) -> None:
    """Copies all pictures of the rows to their paths in `folder`; whoever changes them there does not change the store.

    Raises:
      ExportError: see `content`.
    """
    ((total,),) = selection.query("SELECT count(DISTINCT picture) FROM items WHERE left_out = ''")
    placed = in_order(_place, _Shared(project.images, folder), _batches(selection), workers)
    for _ in shown(placed, "pictures", total, int):
        pass


def _batches(selection: Selection) -> Iterator[list[str]]:
    pictures = selection.pictures()
    while batch := list(itertools.islice(pictures, BATCH)):
        yield batch


def _place(shared: _Shared, batch: list[str]) -> int:
    for path in batch:
        target = shared.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content(shared.images, path))
    return len(batch)
