"""What the readers of public question sets share: what comes out of them, rows of large files, checks of fields."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax.data.json_files import JsonRows
from mmfuser_jax.data.llava_rows import resolve_image
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct.questions.items import LETTERS, Item

BLOCK = 1 << 20
"""Characters of a file that are read at a time; no row may be longer."""

_BETWEEN = re.compile(r"[\s,]*")


class PublicSetError(ValueError):
    """A folder is not what its set looks like; the message names it and what was expected there."""


@dataclasses.dataclass(frozen=True)
class Imported:
    """A question of a public set.

    Attributes:
      name: of the question within the set; the same whenever the same files are read.
      file: the picture, which is there; whether it can be opened is for `inspection` to say.
      item: the question and its answer; options are in the set's order.
    """

    name: str
    file: Path
    item: Item


@dataclasses.dataclass(frozen=True)
class Unusable:
    """A question that no item can be made of.

    Attributes:
      name: as that of `Imported`.
      reason: of `reasons.SETS`.
      text: what exactly is wrong.
    """

    name: str
    reason: str
    text: str


Found = Imported | Unusable
Reader = Callable[[Path, Sequence[str]], Iterator[Found]]
"""(folder, names of splits) → the questions of these splits."""

Row = tuple[str, Any]
"""Name and fields of a question; instead of fields, a RecordError that says why there are none."""


def require(
    folder: Path, title: str, splits: Sequence[str], split_of: Callable[[Path], str], *patterns: str
) -> list[Path]:
    """Files of some splits of a set, in order.

    Args:
      folder: of the set.
      title: of the set.
      splits: as the authors name them, with or without a number at the end: "train" also stands for "train1".
      split_of: name of the split that a file is of.
      patterns: all of which there must be; the files are those of the first.

    Raises:
      PublicSetError: nothing matches one of the patterns, or there is no such split.
    """
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            raise PublicSetError(f"{folder}: does not look like {title}: expected {pattern} in it")
    names = {path: {split_of(path), split_of(path).rstrip("0123456789")} for path in sorted(folder.glob(patterns[0]))}
    for split in splits:
        if not any(split in both for both in names.values()):
            there = ", ".join(sorted(set(map(split_of, names))))
            raise PublicSetError(f"{folder}: splits: no {split!r} of {title} is here; there are {there}")
    return [path for path, both in names.items() if not both.isdisjoint(splits)]


def imported(rows: Iterable[Row], read: Callable[[Any], tuple[Path, Sequence[Item]]]) -> Iterator[Found]:
    """Questions of rows.

    Args:
      rows: of one file.
      read: fields of a row → its picture and items; raises RecordError where there are none. A second item, such as a
        worked solution, has its type added to its name.
    """
    for name, row in rows:
        try:
            if isinstance(row, RecordError):
                raise row
            file, items = read(row)
        except RecordError as error:
            yield Unusable(name, error.reason, str(error))
            continue
        for place, item in enumerate(items):
            yield Imported(f"{name}/{item.type}" if place else name, file, item)


def rows_of_list(path: Path) -> Iterator[Any]:
    """Rows of the list that a JSON file is, one in memory at a time; a RecordError for one that is not JSON.

    Raises:
      PublicSetError: the file is something else.
    """
    try:
        rows = JsonRows(path, path.parent)
    except ValueError as error:
        raise PublicSetError(str(error)) from None
    for index in range(len(rows)):
        try:
            yield rows.row(index)
        except RecordError as error:
            yield error


def rows_under(path: Path, key: str) -> Iterator[Any]:
    """Objects of the list under a key of the object that a JSON file is, a block of the file in memory at a time.

    Raises:
      PublicSetError: there is no such list near the file's beginning, or it is not JSON to its end.
    """
    decoder, count = json.JSONDecoder(), 0
    # Bytes that are no text come through as halves of characters, which `words` refuses question by question.
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        text = file.read(BLOCK)
        begun = re.search(rf'"{key}"\s*:\s*\[', text)
        if begun is None:
            raise PublicSetError(f'{path}: expected a list under "{key}" near its beginning')
        at = begun.end()
        while True:
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing at all, too
            if text.startswith("]", at):
                return
            try:
                row, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                more = file.read(BLOCK) if len(text) - at < BLOCK else ""
                if not more:
                    raise PublicSetError(f"{path}: not JSON, or cut off, after row {count} of {key!r}") from None
                text, at = text[at:] + more, 0
                continue
            yield row
            count += 1


def words(fields: Any, *path: str) -> str:
    """The text under a field, or under a field of a field.

    Raises:
      RecordError: there is none, or nothing in it, or half of a character.
    """
    value = fields
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, str) or not value.strip() or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RecordError(f"{'.'.join(path)}: expected text, not {repr(value)[:80]}", "field")
    return value.strip()


def picture(folder: Path, path: str) -> Path:
    """The file of a picture.

    Raises:
      RecordError: it is not there, or outside of the folder.
    """
    file = resolve_image(path, folder, path)
    if not file.is_file():
        raise RecordError(f"{file}: no such picture", "missing_image")
    return file


def judgement_or_short(question: str, answer: str) -> Item:
    """A question for yes or no, or for a few words, as its answer says."""
    truth = answer.lower()
    return Item("judgement", question, truth) if truth in ("yes", "no") else Item("short", question, answer)


def choice(question: str, options: Sequence[Any], answer: str, keys: Sequence[str] = ()) -> Item:
    """A choice.

    Args:
      question: without options.
      options: texts, in the set's order.
      answer: one of `keys`, by which the set names the options; without keys, one of the options.
      keys: in the order of the options.

    Raises:
      RecordError: too few options or too many, one that is no text or twice there, or no such answer.
    """
    texts = [words({"option": option}, "option") for option in options]
    if not 2 <= len(texts) <= len(LETTERS):
        raise RecordError(f"{len(texts)} options", "few_options" if len(texts) < 2 else "many_options")
    if len(set(texts)) < len(texts):  # as they are written: genes "Tt" and "TT" differ, and so do "-5" and "5"
        raise RecordError(f"options {texts}", "same_options")
    names = list(keys or texts)
    if answer not in names[: len(texts)]:
        raise RecordError(f"answer {answer!r}, options {names[: len(texts)]}", "answer_is_no_option")
    return Item("choice", question, LETTERS[names.index(answer)], tuple(texts))
