"""Records as the training reads them fastest: a TFDS dataset of ArrayRecord files, in which a picture is stored once."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmfuser_jax.data.records import Record, turns_from_llava
from mmfuser_jax.data.sources import SourceSpec
from mmfuser_jax.data.tfds_records import SUFFIX, WRITER_OPTIONS, serialize
from mmfuser_jax.mminstruct.export.pictures import content
from mmfuser_jax.mminstruct.export.selection import Selection
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.prepare.build import build
from mmfuser_jax.prepare.plan import Options
from mmfuser_jax.prepare.progress import shown


def write_array_records(project: Project, selection: Selection, folder: Path, name: str, workers: int) -> list[Path]:
    """The dataset `name` in `folder`, all of it in the split "train"; returns its files.

    A record is a picture with all conversations about it, which training decodes and packs together.

    Raises:
      ExportError: see `pictures.content`.
    """
    drafts = folder / ".drafts"
    drafts.mkdir()
    draft = drafts / f"records{SUFFIX}"
    _write_draft(project, selection, draft)
    build(SourceSpec(os.fspath(draft)), folder, Options(name, validation=0.0), max_bad_fraction=0.0, workers=workers)
    shutil.rmtree(drafts)
    return sorted(path for path in (folder / name).rglob("*") if path.is_file())


def _write_draft(project: Project, selection: Selection, path: Path) -> None:
    """All records in one file, from which the build makes files of a fair size."""
    from array_record.python.array_record_module import ArrayRecordWriter

    total = selection.count()
    writer = ArrayRecordWriter(os.fspath(path), WRITER_OPTIONS)
    try:
        for record, picture in shown(_records(project, selection), "rows", total, lambda x: len(x[0].conversations)):
            writer.write(serialize(record, [picture]))
    finally:
        writer.close()


def _records(project: Project, selection: Selection) -> Iterator[tuple[Record, bytes]]:
    for path, group in itertools.groupby(selection.rows(), lambda row: str(row["image"])):
        rows = list(group)
        picture = content(project.images, path)
        conversations = tuple(turns_from_llava(row["conversations"], row["id"]) for row in rows)
        yield Record(Path(path).stem, (picture,), conversations, tuple(row["tags"] for row in rows)).validate(), picture
