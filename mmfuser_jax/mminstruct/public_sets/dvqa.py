"""DVQA: bar charts, asked about their structure, their data, and what follows from these.

As its authors publish it (github.com/kushalkafle/DVQA_dataset; arXiv 1801.08163):

    train_qa.json, val_easy_qa.json, val_hard_qa.json    a list of questions each; the first is 2.3 million long
    images/bar_train_00000001.png, …                     of all three

A question has `question_id`, `image` (the file's name), `question` and `answer`, all that is used here. Its type and the
place of its answer have other names in the files (`template_id`, `answer_bbox`) than in the authors' description.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax.mminstruct.public_sets.imported import (
    Found,
    Row,
    imported,
    judgement_or_short,
    picture,
    require,
    rows_of_list,
    words,
)
from mmfuser_jax.mminstruct.questions.items import Item


def read_dvqa(folder: Path, splits: Sequence[str]) -> Iterator[Found]:
    """Questions of splits, named "train/17" by their `question_id`.

    Raises:
      PublicSetError: the folder has no such files or splits, or one is not a list.
    """
    paths = require(folder, "DVQA", splits, _split, "*_qa.json", "images")
    read = functools.partial(_question, folder / "images")
    return (found for path in paths for found in imported(_rows(path), read))


def _split(path: Path) -> str:
    return path.stem.removesuffix("_qa")


def _rows(path: Path) -> Iterator[Row]:
    for place, row in enumerate(rows_of_list(path)):
        name = row.get("question_id") if isinstance(row, Mapping) else None
        yield f"{_split(path)}/{f'row {place}' if name is None else name}", row


def _question(images: Path, row: Any) -> tuple[Path, list[Item]]:
    item = judgement_or_short(words(row, "question"), words(row, "answer"))
    return picture(images, words(row, "image")), [item]
