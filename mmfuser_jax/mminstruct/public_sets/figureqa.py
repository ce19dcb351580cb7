"""FigureQA: drawn plots, bar and pie charts, each question of them for yes or no.

As its authors publish it (github.com/Maluuba/FigureQA, docs/json_png_format.md; arXiv 1710.07300), an archive a split:

    train1/qa_pairs.json    {"qa_pairs": [a question, …], …}; likewise validation1, validation2, no_annot_test1 and …2
    train1/png/0.png, …     named by `image_index`

A question has `question_string`, `image_index` and `answer`, which is 1 for yes and 0 for no and not published for the
test splits. Its `question_id` is that of a template.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct.public_sets.imported import Found, Row, imported, picture, require, rows_under, words
from mmfuser_jax.mminstruct.questions.items import Item


def read_figureqa(folder: Path, splits: Sequence[str]) -> Iterator[Found]:
    """Questions of splits, named "train1/17" by their place in the file, as they have no other name.

    Raises:
      PublicSetError: the folder has no such files or splits, or one is not JSON.
    """
    paths = require(folder, "FigureQA", splits, _split, "*/qa_pairs.json", "*/png")
    return (x for path in paths for x in imported(_rows(path), functools.partial(_question, path.parent / "png")))


def _split(path: Path) -> str:
    return path.parent.name


def _rows(path: Path) -> Iterator[Row]:
    return ((f"{_split(path)}/{place}", row) for place, row in enumerate(rows_under(path, "qa_pairs")))


def _question(images: Path, row: Any) -> tuple[Path, list[Item]]:
    question = words(row, "question_string")
    if row.get("answer") is None:
        raise RecordError("answer: there is none", "no_answer")
    if row["answer"] not in (0, 1):
        raise RecordError(f"answer: expected 0 or 1, not {repr(row['answer'])[:80]}", "field")
    file = picture(images, f"{row.get('image_index')}.png")
    return file, [Item("judgement", question, "yes" if row["answer"] else "no")]
