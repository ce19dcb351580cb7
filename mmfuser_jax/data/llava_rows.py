"""Rows of LLaVA's and MMInstruct's JSON, or the same as columns of a table → validated records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax.data import labels
from mmfuser_jax.data.records import Record, RecordError, turns_from_llava


def record_from_llava(row: Any, default_id: str, image_folder: Path) -> Record:
    """A validated record from a row of LLaVA's or MMInstruct's JSON.

    Args:
      row: {"id": text or number, "image": picture or list of pictures, "conversations": [{"from", "value"}, …]}. A picture
        is a path, or as Hugging Face stores it {"bytes", "path"}, one of which may be None; without a picture there is
        no "image", and "images" is another name for it. Conversations may also be {"from": [...], "value": [...]}.
        What "tags" holds, a mapping of texts, goes before what is detected.
      default_id: for a row without an id.
      image_folder: what picture paths are relative to.

    Raises:
      RecordError: the row breaks the schema; the message names it.
    """
    if not isinstance(row, Mapping):
        raise RecordError(f"record {default_id}: not a JSON object")
    name = _name(row, default_id)
    pictures = _pictures(row, name)
    turns = turns_from_llava(_entries(row, name), name)
    for index, turn in enumerate(turns):
        _check_text(turn.text, f"turn {index}", name)
    images = tuple(
        picture if isinstance(picture, bytes) else resolve_image(picture, image_folder, name) for _, picture in pictures
    )
    tags = labels.detect([path for path, _ in pictures], turns) | _given_tags(row, name)
    return Record(name, images, (turns,), (tags,)).validate()


def _name(row: Mapping[str, Any], default_id: str) -> str:
    value = row.get("id")
    if value is None or value == "":
        return default_id
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecordError(f"record {default_id}: 'id' must be text or a number")
    _check_text(str(value), "'id'", default_id)
    return str(value)


def _entries(row: Mapping[str, Any], record: str) -> Sequence[Mapping[str, Any]]:
    """The conversation as a list of entries, also where a table holds it as one list of speakers and one of texts."""
    value = row.get("conversations")
    if isinstance(value, Mapping):
        roles, texts = value.get("from"), value.get("value")
        if isinstance(roles, list) and isinstance(texts, list) and len(roles) == len(texts):
            return [{"from": role, "value": text} for role, text in zip(roles, texts, strict=True)]
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise RecordError(f"record {record}: 'conversations' must be a list of objects with 'from' and 'value'")
    return value


def _pictures(row: Mapping[str, Any], record: str) -> list[tuple[str, str | bytes]]:
    """(path, content or else path) of each picture of the row; the path may be empty where there is content."""
    value = row.get("images") if row.get("image") is None else row["image"]
    values = [] if value is None or value == "" else value if isinstance(value, list) else [value]
    pictures = []
    for picture in values:
        path, content = (None, picture) if isinstance(picture, bytes) else (picture, None)
        if isinstance(picture, Mapping):
            path, content = picture.get("path"), picture.get("bytes")
        if not isinstance(path, str | None) or not isinstance(content, bytes | None) or not (path or content):
            raise RecordError(f"record {record}: 'image' must be a path or a list of paths")
        _check_text(path or "", "'image'", record)
        pictures.append((path or "", content or path or ""))
    return pictures


def _given_tags(row: Mapping[str, Any], record: str) -> dict[str, str]:
    tags = row.get("tags") or {}
    known = {key: value for key, value in tags.items() if value is not None} if isinstance(tags, Mapping) else None
    if known is None or not all(isinstance(text, str) for item in known.items() for text in item):
        raise RecordError(f"record {record}: 'tags' must be an object of texts")
    return known


def _check_text(text: str, place: str, record: str) -> None:
    """JSON can write halves of a surrogate pair, such as a cut emoji; no tokenizer and no file name can hold them."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise RecordError(f"record {record}: {place} holds half of a character (a lone surrogate)") from None


def resolve_image(path: str, folder: Path, record: str) -> Path:
    """`path` inside `folder`. Nothing is read; symbolic links are the user's own and are not followed.

    Raises:
      RecordError: it leads out of the folder.
    """
    inside = os.path.relpath(path, folder) if os.path.isabs(path) else os.path.normpath(path)
    if "\0" in path or inside == os.curdir or inside.split(os.sep, 1)[0] == os.pardir:
        raise RecordError(f"record {record}: picture {path!r} leaves the image folder {folder}", "image_path")
    return folder / inside
