"""Lists of addresses of pictures, and what their makers know about each."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmfuser_jax.data.json_files import JsonRows
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.mminstruct.project import ProjectError

SHA = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Listed:
    """A row of a list.

    Attributes:
      url: of a picture, as it stands there.
      sha256: of its file, in small letters; "" where it is not known.
      licence: of it alone; "" where there is none.
      tags: words about it.
    """

    url: str
    sha256: str = ""
    licence: str = ""
    tags: tuple[str, ...] = ()


def read_list(path: Path) -> Iterator[Listed]:
    """The rows of a list, in order.

    Args:
      path: of a .txt file with one address a line, where # begins a comment; of a .csv or .tsv file whose first line names
        its columns; or of a .jsonl file. Columns are url and, if there are any, sha256, licence (or license) and tags, in
        one text between commas (or, in JSON, a list of texts). Others are passed over.

    Raises:
      ProjectError: it is not there, or is no such list; the message names file and row.
    """
    if not path.is_file():
        raise ProjectError(f"{path}: no such list (collect.sources, urls)")
    try:
        readers = {".txt": _lines, ".csv": _table, ".tsv": _table, ".jsonl": _json}
        if path.suffix.lower() not in readers:
            raise ProjectError(f"{path}: a list of addresses is one of {', '.join(readers)}")
        for row, fields in readers[path.suffix.lower()](path):
            yield _listed(fields, f"{path}: {row}")
    except (csv.Error, RecordError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path}: cannot be read ({error})") from None


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            url = re.sub(r"(^|\s)#.*", "", line).strip()  # within an address, # begins a part of it
            if url:
                yield f"line {number}", {"url": url}


def _table(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        if "url" not in (rows.fieldnames or ()):
            raise ProjectError(
                f"{path}: its first line names no column url, but {', '.join(rows.fieldnames or ['none'])}"
            )
        for fields in rows:
            yield f"line {rows.line_num}", fields


def _json(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rows = JsonRows(path, path.parent)
    for index in range(len(rows)):
        fields = rows.row(index)
        yield f"row {index + 1}", fields if isinstance(fields, dict) else {}


def _listed(fields: Mapping[str, Any], name: str) -> Listed:
    tags = fields.get("tags") or ""
    if isinstance(tags, list):
        tags = ",".join(map(str, tags))
    texts = {key: fields.get(key) or "" for key in ("url", "sha256", "licence", "license")} | {"tags": tags}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ProjectError(f"{name}: {key} is {text!r} and no text")
    if not texts["url"].strip():
        raise ProjectError(f"{name}: there is no url")
    sha256 = texts["sha256"].strip().lower()
    if sha256 and not SHA.fullmatch(sha256):
        raise ProjectError(f"{name}: sha256 is {sha256!r}, and not 64 hexadecimal digits")
    licence = texts["licence"].strip() or texts["license"].strip()
    return Listed(texts["url"].strip(), sha256, licence, tuple(filter(None, map(str.strip, tags.split(",")))))
