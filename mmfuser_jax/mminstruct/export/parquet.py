"""Rows as parquet files that hold their pictures, as Hugging Face `datasets` loads and its hub shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmfuser_jax.mminstruct.export.pictures import content
from mmfuser_jax.mminstruct.export.selection import TAGS, Selection
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.prepare.progress import shown

FOLDER = "data"
"""Of the files, as the hub expects it."""

GROUP_BYTES = 64 << 20
"""Of pictures that are held in memory at a time, and that a reader takes at once."""

FILE_BYTES = 400 << 20
"""About how large a file becomes."""


def write_parquet(project: Project, selection: Selection, folder: Path, name: str, workers: int) -> list[Path]:
    """Files of the split "train"; returns them.

    A picture is stored once in a group of rows, however many of them show it: all rows of a picture come together.

    Raises:
      ExportError: see `pictures.content`.
    """
    del name, workers
    import pyarrow
    from pyarrow import parquet

    schema = _features().arrow_schema
    (folder / FOLDER).mkdir()
    parts: list[Path] = []
    writer = None
    rows = shown(selection.rows(), "rows", selection.count(), lambda _: 1)
    for group in _groups(project, rows):
        if writer is None:
            parts.append(folder / FOLDER / f"part-{len(parts)}")
            writer = parquet.ParquetWriter(
                parts[-1], schema, compression="zstd", dictionary_pagesize_limit=4 * GROUP_BYTES,
                use_dictionary=["image.bytes", "image.path", *(f"tags.{tag}" for tag in TAGS)],
            )  # fmt: skip
        writer.write_table(pyarrow.Table.from_pylist(group, schema), row_group_size=len(group))
        if parts[-1].stat().st_size > FILE_BYTES:
            writer.close()
            writer = None
    if writer:
        writer.close()
    names = [f"train-{place:05d}-of-{len(parts):05d}.parquet" for place in range(len(parts))]
    return [part.rename(part.with_name(name)) for part, name in zip(parts, names, strict=True)]


def _features() -> Any:
    """The `datasets.Features` of a row; its Arrow schema carries them, so that pictures are loaded as pictures."""
    from datasets import Features, Image, List, Value

    text = Value("string")
    turn = {"from": text, "value": text}
    return Features({"id": text, "image": Image(), "conversations": List(turn), "tags": dict.fromkeys(TAGS, text)})


def _groups(project: Project, rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows with their pictures in place of the paths."""
    group: list[dict[str, Any]] = []
    size, path, picture = 0, "", b""
    for row in rows:
        if row["image"] != path:
            path = row["image"]
            picture = content(project.images, path)
        group.append({**row, "image": {"bytes": picture, "path": Path(path).name}})
        size += len(picture)
        if size > GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
