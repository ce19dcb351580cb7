"""Geometry3K: problems of school geometry, each with a diagram and four options.

As its authors publish it (github.com/lupantech/InterGPS; arXiv 2105.04165), with train.zip, val.zip and test.zip
unpacked beside each other:

    train/17/data.json          a problem
    train/17/img_diagram.png    its diagram

A problem has its text three times: `problem_text` as words with spaces, `compact_text` without, and `annotat_text`, which is
LaTeX between dollars and is used here; `compact_choices` are the options, as `choices` without needless spaces; `answer` is
a letter. There are no worked solutions: `detailed_solution` is blank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax import files
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct.public_sets.imported import Found, Row, choice, imported, picture, require, words
from mmfuser_jax.mminstruct.questions.items import LETTERS, Item


def read_geometry3k(folder: Path, splits: Sequence[str]) -> Iterator[Found]:
    """Problems of splits, named "train/17" by their folders.

    Raises:
      PublicSetError: the folder has none, or no such splits.
    """
    paths = require(folder, "Geometry3K", splits, _split, "*/*/data.json")
    return imported((_row(folder, path) for path in paths), _problem)


def _split(path: Path) -> str:
    return path.parent.parent.name


def _row(folder: Path, path: Path) -> Row:
    name = path.parent.relative_to(folder).as_posix()
    try:
        return name, (path.parent, files.read_json(path))
    except ValueError as error:
        return name, RecordError(str(error), "bad_json")


def _problem(row: tuple[Path, dict[str, Any]]) -> tuple[Path, list[Item]]:
    folder, fields = row
    options = fields.get("compact_choices")
    if not isinstance(options, list):
        raise RecordError(f"compact_choices: expected a list, not {repr(options)[:80]}", "field")
    item = choice(words(fields, "annotat_text"), options, words(fields, "answer"), LETTERS)
    return picture(folder, "img_diagram.png"), [item]
