"""Rows of LLaVA's and MMInstruct's JSON → validated records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfuser_jax.data import labels
from mmfuser_jax.data.records import Record, RecordError, turns_from_llava


def record_from_llava(row: Any, default_id: str, image_folder: Path) -> Record:
    """A validated record from a row of LLaVA's or MMInstruct's JSON.

    Args:
      row: {"id": text or number, "image": path or list of paths, "conversations": [{"from", "value"}, …]}; without a
        picture there is no "image". What "tags" holds, a mapping of texts, goes before what is detected.
      default_id: for a row without an id.
      image_folder: what picture paths are relative to.

    Raises:
      RecordError: the row breaks the schema; the message names it.
    """
    if not isinstance(row, Mapping):
        raise RecordError(f"record {default_id}: not a JSON object")
    name = str(default_id if row.get("id") is None else row["id"])
    conversation = row.get("conversations")
    if not isinstance(conversation, list):
        raise RecordError(f"record {name}: no list under 'conversations'")
    paths = _image_paths(row, name)
    turns = turns_from_llava(conversation, name)
    images = tuple(resolve_image(path, image_folder, name) for path in paths)
    given = row.get("tags")
    tags = labels.detect(paths, turns) | ({k: str(v) for k, v in given.items()} if isinstance(given, Mapping) else {})
    return Record(name, images, (turns,), (tags,)).validate()


def _image_paths(row: Mapping[str, Any], record: str) -> list[str]:
    value = row.get("image")
    paths = [] if value in (None, "") else value if isinstance(value, list) else [value]
    if not all(isinstance(path, str) and path for path in paths):
        raise RecordError(f"record {record}: 'image' must be a path or a list of paths")
    return paths


def resolve_image(path: str, folder: Path, record: str) -> Path:
    """`path` inside `folder`. Nothing is read; symbolic links are the user's own and are not followed.

    Raises:
      RecordError: it leads out of the folder.
    """
    resolved = os.path.normpath(os.path.join(folder, path))
    if "\0" in path or not resolved.startswith(os.path.join(os.path.normpath(folder), "")):
        raise RecordError(f"record {record}: picture {path!r} leaves the image folder {folder}", "image_path")
    return Path(resolved)
