"""TQA, Textbook Question Answering: choices of two to seven options about the diagrams of school books.

As its authors publish it (tqa_train_val_test.zip of the Allen Institute for AI, with its README; Kembhavi et al.,
CVPR 2017):

    train/tqa_v1_train.json, val/tqa_v1_val.json, test/tqa_v2_test.json    a list of lessons each
    train/question_images/…, train/abc_question_images/…                   diagrams

A lesson's `questions` are `diagramQuestions` and `nonDiagramQuestions`, each {"DQ_000017": a question, …}. A question has
`beingAsked`, `answerChoices` ({"a": an option, …}) and `correctAnswer`, of each of which `processedText` is used, the last
one being a key of the options; those with a diagram also have `imagePath`, relative to the folder of the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct.public_sets.imported import (
    Found,
    Row,
    choice,
    imported,
    picture,
    require,
    rows_of_list,
    words,
)
from mmfuser_jax.mminstruct.questions.items import Item


def read_tqa(folder: Path, splits: Sequence[str]) -> Iterator[Found]:
    """Questions of the lessons of splits, named "train/DQ_000017"; those without a diagram are unusable.

    Raises:
      PublicSetError: the folder has no such files or splits, or one is not a list.
    """
    paths = require(folder, "TQA", splits, _split, "*/tqa_v*.json")
    return (found for path in paths for found in imported(_rows(path), _question))


def _split(path: Path) -> str:
    return path.parent.name


def _rows(path: Path) -> Iterator[Row]:
    for place, lesson in enumerate(rows_of_list(path)):
        try:
            shown, unshown = _asked(lesson, "diagramQuestions"), _asked(lesson, "nonDiagramQuestions")
        except RecordError as error:
            yield f"{_split(path)}/lesson {place}", error
            continue
        for name, fields in shown.items():
            yield f"{_split(path)}/{name}", (path.parent, fields)
        for name in unshown:
            yield f"{_split(path)}/{name}", RecordError("one of nonDiagramQuestions", "no_picture")


def _asked(lesson: Any, kind: str) -> Mapping[str, Any]:
    if isinstance(lesson, RecordError):
        raise lesson
    questions = lesson.get("questions") if isinstance(lesson, Mapping) else None
    asked = questions.get(kind) if isinstance(questions, Mapping) else None
    if not isinstance(asked, Mapping):
        raise RecordError(f"questions.{kind}: expected an object, not {repr(asked)[:80]}", "field")
    return asked


def _question(row: tuple[Path, Any]) -> tuple[Path, list[Item]]:
    folder, fields = row
    question, answer = words(fields, "beingAsked", "processedText"), words(fields, "correctAnswer", "processedText")
    options = fields.get("answerChoices")
    if not isinstance(options, Mapping):
        raise RecordError(f"answerChoices: expected an object, not {repr(options)[:80]}", "field")
    texts = [words(option, "processedText") for option in options.values()]
    return picture(folder, words(fields, "imagePath")), [choice(question, texts, answer, list(options))]
