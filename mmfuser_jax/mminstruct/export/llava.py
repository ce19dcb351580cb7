"""Rows as LLaVA's and MMInstruct's JSON has them, with their pictures in a folder `images` beside the file."""

from __future__ import annotations

import json
from pathlib import Path

from mmfuser_jax.mminstruct.export.pictures import place_pictures
from mmfuser_jax.mminstruct.export.selection import IMAGES, Selection
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.prepare.progress import shown


def write_jsonl(project: Project, selection: Selection, folder: Path, name: str, workers: int) -> list[Path]:
    """A row a line; returns the file. Rows come by picture, one for every item: see `Selection.rows`.

    Raises:
      ExportError: see `pictures.content`.
    """
    return _write(project, selection, folder, f"{name}.jsonl", workers, ("", "\n", "\n"))


def write_json(project: Project, selection: Selection, folder: Path, name: str, workers: int) -> list[Path]:
    """One list of rows, as LLaVA's own training reads it; else as `write_jsonl`."""
    return _write(project, selection, folder, f"{name}.json", workers, ("[\n", ",\n", "\n]\n"))


def _write(
    project: Project, selection: Selection, folder: Path, name: str, workers: int, marks: tuple[str, str, str]
) -> list[Path]:
    """`marks`: at the beginning, between rows, at the end."""
    path = folder / name
    with path.open("w", encoding="utf-8") as file:
        for place, row in enumerate(shown(selection.rows(), "rows", selection.count(), lambda _: 1)):
            file.write(marks[1 if place else 0] + json.dumps(row, ensure_ascii=False))
        file.write(marks[2])
    if not (folder / IMAGES).exists():  # of the other of these two formats
        place_pictures(project, selection, folder, workers)
    return [path]
