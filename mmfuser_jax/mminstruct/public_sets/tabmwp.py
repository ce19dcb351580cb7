"""TabMWP: sums and comparisons with the numbers of a table, each with a worked solution.

As its authors publish it (github.com/lupantech/PromptPG, data/tabmwp; arXiv 2209.14610):

    problems_train.json, problems_dev.json, problems_test.json    {"17": a problem, …}; …1k.json are parts of these
    tables/17.png, …                                              the table of a problem

A problem has `question`, `choices` (a list, or null), `answer`, `unit` (of the answer, or null) and `solution`. Where there
is a unit, the question ends in "(Unit: $)", as in the prompts of the authors (run_gpt3/base_prompt.py), and the answer is
the bare number. The solution is the answer of a second item, the same question as a long one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax import files
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct.public_sets.imported import (
    Found,
    PublicSetError,
    Row,
    choice,
    imported,
    judgement_or_short,
    picture,
    require,
    words,
)
from mmfuser_jax.mminstruct.questions.items import Item

UNIT = " (Unit: "
"""Before the unit in a question, which is no part of it in the files."""


def read_tabmwp(folder: Path, splits: Sequence[str]) -> Iterator[Found]:
    """Problems of splits, named "train/17", and their solutions, "train/17/long".

    Raises:
      PublicSetError: the folder has no such files or splits, or one is not JSON.
    """
    paths = require(folder, "TabMWP", splits, _split, "problems_*[!k].json", "tables")
    read = functools.partial(_problem, folder / "tables")
    return (found for path in paths for found in imported(_rows(path), read))


def _split(path: Path) -> str:
    return path.stem.removeprefix("problems_")


def _rows(path: Path) -> Iterator[Row]:
    try:
        problems = files.read_json(path)
    except ValueError as error:
        raise PublicSetError(str(error)) from None
    for number, fields in problems.items():
        row = (number, fields) if isinstance(fields, dict) else RecordError("expected an object", "field")
        yield f"{_split(path)}/{number}", row


def _problem(tables: Path, row: tuple[str, dict[str, Any]]) -> tuple[Path, list[Item]]:
    number, fields = row
    question = words(fields, "question")
    if fields.get("unit"):
        question += f"{UNIT}{words(fields, 'unit')})"
    item = _item(question, words(fields, "answer"), fields.get("choices"))
    return picture(tables, f"{number}.png"), [item, Item("long", question, words(fields, "solution"))]


def _item(question: str, answer: str, options: Any) -> Item:
    if not options:
        return judgement_or_short(question, answer)
    if not isinstance(options, list):
        raise RecordError(f"choices: expected a list, not {repr(options)[:80]}", "field")
    item = choice(question, options, answer)
    yes_no = {option.lower() for option in item.options} == {"yes", "no"}
    return judgement_or_short(question, item.answer_text) if yes_no else item
