"""CLEVR-Math: what adding and taking away leaves of the things in CLEVR's drawn scenes.

As its authors publish it (huggingface.co/datasets/dali-does/clevr-math, github.com/dali-does/clevr-math; arXiv
2208.05358), with CLEVR's pictures (CLEVR_v1.0.zip, and clevr-math-test-images.zip) unpacked beside the questions:

    clevr-math-train.json, …-val.json, …-test.json      {"info": …, "questions": [a question, …]}
    CLEVR_v1.0/images/train/CLEVR_train_000000.png, …

A question has `question`, `answer` (a number), `split` (a folder of pictures) and `image_filename`. The archive of multihop
questions has files of the same names: unpack it into a folder of its own, with the pictures or a link to them, and give it
a `name` in the config.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct.public_sets.imported import Found, Row, imported, picture, require, rows_under, words
from mmfuser_jax.mminstruct.questions.items import Item


def read_clevr_math(folder: Path, splits: Sequence[str]) -> Iterator[Found]:
    """Questions of splits, named "train/17" by their place in the file.

    Raises:
      PublicSetError: the folder has no such files or splits, or one is not JSON.
    """
    paths = require(folder, "CLEVR-Math", splits, _split, "clevr-math-*.json", "CLEVR_v1.0/images")
    read = functools.partial(_question, folder / "CLEVR_v1.0" / "images")
    return (found for path in paths for found in imported(_rows(path), read))


def _split(path: Path) -> str:
    return path.stem.removeprefix("clevr-math-")


def _rows(path: Path) -> Iterator[Row]:
    return ((f"{_split(path)}/{place}", row) for place, row in enumerate(rows_under(path, "questions")))


def _question(images: Path, row: Any) -> tuple[Path, list[Item]]:
    question = words(row, "question")
    answer = str(row.get("answer"))
    if not answer.isdecimal():
        raise RecordError(f"answer: expected a number, not {answer[:80]!r}", "field")
    file = picture(images, f"{words(row, 'split')}/{words(row, 'image_filename')}")
    return file, [Item("short", question, answer)]
