"""Writes a data set in the formats that are asked for: the whole of it beside its place, and then there at once.

FOLDER/
  README.md                  the card
  card/                      numbers and plots of the card
  NAME.jsonl, NAME.json      rows in LLaVA's words, with
  images/DOMAIN/SHA256.jpg   their pictures
  data/train-*.parquet       rows with their pictures
  NAME/1.0.0/                a TFDS dataset of ArrayRecord files
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax import files
from mmfuser_jax.locks import NAME as LOCK
from mmfuser_jax.locks import locked
from mmfuser_jax.mminstruct.export import card, parquet
from mmfuser_jax.mminstruct.export.array_records import write_array_records
from mmfuser_jax.mminstruct.export.errors import ExportError
from mmfuser_jax.mminstruct.export.llava import write_json, write_jsonl
from mmfuser_jax.mminstruct.export.selection import IMAGES, REASONS, Selection, select
from mmfuser_jax.mminstruct.export.statistics import statistics
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.schema import Export

LOG = logging.getLogger(__name__)

Writer = Callable[[Project, Selection, Path, str, int], list[Path]]
"""Writes a selection into a folder, under a name, with so many processes; returns the files."""

FORMATS: dict[str, Writer] = {
    "llava": write_json,
    "jsonl": write_jsonl,
    "parquet": parquet.write_parquet,
    "arrayrecord": write_array_records,
}

_NEEDS = {"parquet": "datasets", "arrayrecord": "tensorflow_datasets"}
_OWN_FOLDERS = (IMAGES, parquet.FOLDER, card.FOLDER)
_NUMBERS = f"{card.FOLDER}/statistics.json"
_EXCHANGE = 2
"""Flag of Linux's renameat2: two names change places."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """What was written.

    Attributes:
      items: questions and conversations.
      pictures: that they are about.
      left_out: code of `selection.REASONS` → items that are not there.
    """

    items: int
    pictures: int
    left_out: Mapping[str, int]

    def lines(self) -> list[str]:
        """What is not there and why, a line for each reason, the most frequent first."""
        return [f"{count:,} left out: {REASONS[code]}" for code, count in self.left_out.items()]


def export_project(
    project: Project, ledger: Ledger, folder: Path, formats: Sequence[str] = ("llava",), workers: int = 1
) -> Counts:
    """Writes the items that passed, with a card; what an earlier export has written there is replaced.

    What stands beside it in the folder stays, as it may be a clone that is pushed to a hub: its `.git`, `.gitattributes` and
    notes. What others put into folders of the export, as into `images`, goes with these. The same ledger gives the same bytes.
    Whatever stops this leaves what was there before, whole.

    Args:
      project: with the config.
      ledger: of the project.
      folder: of the data set: a new one, that of an earlier export, or one with hidden files alone, as a fresh clone has.
      formats: of `FORMATS`.
      workers: processes; the files do not depend on them.

    Raises:
      ExportError: no such format, nothing to write, something else in the folder, a picture is gone, or an earlier version wrote
        what is there.
      RuntimeError: another process writes there, or a library is missing.
    """
    folder = folder.resolve()
    _check(folder, formats)
    draft = folder.with_name(f".{folder.name}.draft")
    with locked(draft):
        _restore(folder)
        _empty(draft)
        try:
            counts, exports = _write(project, ledger, draft, formats, workers)
            _replace(folder, draft)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    for name, sha in exports.items():
        row = Export(os.fspath(folder), name, counts.items, counts.pictures, sha)
        if next(ledger.rows(Export, "path = ? AND format = ?", (row.path, name), "number DESC"), None) != row:
            ledger.add(row)
    LOG.info("%s: %s items about %s pictures", folder, f"{counts.items:,}", f"{counts.pictures:,}")
    return counts


def slug_of(name: str) -> str:
    """A data set's name as files begin with it: small letters, digits and _."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "set"
    return f"set_{slug}" if not slug[0].isalpha() or slug in _OWN_FOLDERS else slug


def _check(folder: Path, formats: Sequence[str]) -> None:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ExportError(f"no format {', '.join(unknown) or 'given'}; there are {', '.join(FORMATS)}")
    for name in formats:
        if name in _NEEDS and importlib.util.find_spec(_NEEDS[name]) is None:
            raise RuntimeError(f"{name} needs {_NEEDS[name]}: pip install 'mmfuser-jax[data]'")
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder}: is a file; choose another name")
    if folder.exists() and not _written(folder):
        seen = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if seen:
            raise ExportError(f"{folder}: holds something else than an export ({seen[0]}); choose another folder")


def _written(folder: Path) -> set[str]:
    """Names in a folder that an export has written; with those of folders goes all that is in them."""
    numbers = files.read_json(folder / _NUMBERS)
    if numbers and "files" not in numbers:
        raise ExportError(
            f"{folder / _NUMBERS}: has no field files, which says what the export wrote, so an earlier version did; "
            "delete what that wrote, or choose another folder"
        )
    return set(numbers.get("files", ()))


def _empty(draft: Path) -> None:
    """Clears away what a killed export has written."""
    for path in draft.iterdir():
        if path.name != LOCK:
            path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def _write(
    project: Project, ledger: Ledger, draft: Path, formats: Sequence[str], workers: int
) -> tuple[Counts, dict[str, str]]:
    """Fills the draft; returns counts, and a checksum of each format."""
    place, slug = draft / ".selection", slug_of(project.config.name)
    ordered = [name for name in FORMATS if name in formats]
    with contextlib.closing(Selection(place)) as selection:
        select(project, ledger, selection)
        numbers = statistics(selection, ledger, project.config.export)
        if not numbers["items"]:
            reasons = ", ".join(f"{count:,} {code} ({REASONS[code]})" for code, count in numbers["left_out"].items())
            raise ExportError(f"nothing to export: {reasons or 'there are no items yet; give the command run first'}")
        written = {name: FORMATS[name](project, selection, draft, slug, workers) for name in ordered}
    place.unlink()
    shas = {name: _checksum(draft, paths) for name, paths in written.items()}
    _write_card(project, numbers, draft, slug, ordered)
    return Counts(numbers["items"], numbers["pictures"], numbers["left_out"]), shas


def _checksum(draft: Path, paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(f"{path.relative_to(draft)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _write_card(project: Project, numbers: Mapping[str, Any], draft: Path, slug: str, formats: Sequence[str]) -> None:
    shows = draft / card.FOLDER
    shows.mkdir()
    plots: list[str] = []
    if importlib.util.find_spec("matplotlib") is None:
        LOG.warning("no plots: they need matplotlib, pip install 'mmfuser-jax[data]'")
    else:
        from mmfuser_jax.mminstruct.export.plots import plot_card

        plots = plot_card(numbers, shows)
    config = project.config
    text = card.card_text(config.name, slug, config.export.licence, formats, plots, numbers)
    (draft / "README.md").write_text(text, encoding="utf-8")
    named = {**numbers, "files": sorted(path.name for path in draft.iterdir() if path.name != LOCK)}
    (draft / _NUMBERS).write_text(json.dumps(named, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace(folder: Path, draft: Path) -> None:
    """The draft takes the folder's place; in no moment is there less than one of them, where the system can do it."""
    if folder.exists():
        _carry(folder, draft)
    (draft / LOCK).unlink()
    if not folder.exists():
        draft.rename(folder)
    elif not _exchange(draft, folder):
        folder.rename(_old(folder))
        draft.rename(folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def _carry(folder: Path, draft: Path) -> None:
    """What stands in the folder beside the export gets a place in the draft too.

    Files are not moved but get a second name, until the old folder goes with the first: so in every moment the folder, old or
    new, has all of them, and a draft that a kill leaves can be thrown away like any other.
    """
    written = _written(folder)
    for path in folder.iterdir():
        if path.name not in written and os.path.lexists(draft / path.name):
            raise ExportError(f"{path}: the export has something of that name, and no export wrote this; move it away")
    shutil.copytree(
        folder, draft, symlinks=True, ignore=lambda place, _: written if Path(place) == folder else set(),
        copy_function=_link, dirs_exist_ok=True,
    )  # fmt: skip


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no second names
        shutil.copy2(source, target)


def _exchange(one: Path, other: Path) -> bool:
    """Two folders change their names in one step; False where the system cannot do it."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here = -100  # paths are not relative to an open folder
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), _EXCHANGE) == 0


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _restore(folder: Path) -> None:
    """Puts back what an export has moved away that was killed before it put the new one there."""
    if not folder.exists() and _old(folder).exists():
        _old(folder).rename(folder)
    shutil.rmtree(_old(folder), ignore_errors=True)
