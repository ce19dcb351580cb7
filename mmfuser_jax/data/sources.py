"""Where records come from: a name, file or folder → random access to its records."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmfuser_jax.data import easy_vqa
from mmfuser_jax.data.json_files import JsonRows
from mmfuser_jax.data.records import Record, RecordError


@runtime_checkable
class Source(Protocol):
    """Random access to records. Pickles small, so that worker processes can have it; threads may share it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Raises RecordError where the record cannot be used."""

    def fingerprint(self) -> list[Any]:
        """JSON values that differ where the content does, found without reading it."""


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """What to read.

    Attributes:
      source: a registered name (`SOURCES`), a file, or a folder, see `KINDS`.
      split: of sources that have splits; files of rows have only "train", which is all of them.
      image_folder: what picture paths are relative to; by default the folder of the file, and in the MMInstruct release
        its folder `images`, or where there is none the release itself.
    """

    source: str
    split: str = "train"
    image_folder: str = ""


class InMemory(list[Record]):
    """Records that are small enough to be held."""

    def fingerprint(self) -> list[Any]:
        """How many there are, and the first and last."""
        return [len(self), *(record.id for record in (*self[:1], *self[-1:]))]


class Concatenation:
    """Several sources one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._ends = np.cumsum([len(source) for source in sources], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Record:
        """Raises RecordError where the record cannot be used."""
        index = range(len(self))[index]
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[part][index - int(self._ends[part - 1] if part else 0)]

    def fingerprint(self) -> list[Any]:
        """Those of the sources."""
        return [source.fingerprint() for source in self.sources]


class Subset:
    """Some records of a source, by their indices there."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source = source
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        """Raises RecordError where the record cannot be used."""
        return self.source[int(self.indices[index])]

    def fingerprint(self) -> list[Any]:
        """That of the source, and which of its records these are."""
        return [self.source.fingerprint(), len(self), zlib.crc32(self.indices.astype(np.int64).tobytes())]


def concatenate(sources: Iterable[Source]) -> Source:
    """One source of several; a single one is itself."""
    parts = list(sources)
    return parts[0] if len(parts) == 1 else Concatenation(parts)


SOURCES: dict[str, Callable[[str], Sequence[Record]]] = {
    "easy_vqa/questions": easy_vqa.questions,
    "easy_vqa/captions": easy_vqa.captions,
    "easy_vqa/matches": easy_vqa.matches,
}
"""Names → records of a split."""

RELEASE = ("jsons_all", "jsons_per_domain")
"""Folders of the MMInstruct release that hold the same rows; the first that is there is read."""


def open_source(spec: SourceSpec) -> Source:
    """The records of a source, in a fixed order.

    Raises:
      ValueError: no such source or split, or not what its name says; the message lists what there is.
      OSError: a file cannot be read.
    """
    for kind in KINDS:
        if kind.fits(spec.source):
            return kind.open(spec)
    if not Path(spec.source).exists() and (os.sep in spec.source or Path(spec.source).suffix):
        raise FileNotFoundError(f"no such file or folder: {spec.source}")
    understood = "; ".join(kind.what for kind in KINDS[1:])
    raise ValueError(f"no data source {spec.source!r}; there are {', '.join(SOURCES)}; {understood}")


def check_images(source: Source, count: int = 16) -> None:
    """Looks whether pictures are where the records say, for some records spread over the source.

    Records without pictures, and broken ones, say nothing.

    Raises:
      ValueError: none of the pictures is there; the message names one and what to change.
    """
    missing = None
    for index in np.unique(np.linspace(0, len(source) - 1, count).astype(int)) if len(source) else ():
        try:
            record = source[int(index)]
        except RecordError:
            continue
        for image in record.images:
            if isinstance(image, bytes) or os.path.exists(image):
                return
            missing = missing or (record.id, image)
    if missing:
        raise ValueError(
            f"record {missing[0]}: no picture {missing[1]}, and of the other records looked at none has its pictures "
            "either; set image_folder to the folder that picture paths are relative to"
        )


def expand_braces(text: str) -> list[str]:
    """`a_{1,2}.json` → `a_1.json`, `a_2.json`, as in a shell; text without braces is itself."""
    parts = re.split(r"\{([^{}]*)\}", text)  # what is in braces is at odd places
    choices = [part.split(",") if place % 2 else [part] for place, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of source: what it is in words, how it is recognised by its name, and how it is opened."""

    what: str
    fits: Callable[[str], bool]
    open: Callable[[SourceSpec], Source]


def _suffix(*suffixes: str) -> Callable[[str], bool]:
    return lambda source: Path(source).suffix in suffixes and not Path(source).is_dir()


def _holds(*patterns: str) -> Callable[[str], bool]:
    """A folder in which one of these glob patterns finds something."""
    return lambda source: Path(source).is_dir() and any(next(Path(source).glob(p), None) for p in patterns)


def _files(folder: Path, *patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())


def _only_train(spec: SourceSpec) -> Path:
    if spec.split != "train":
        raise ValueError(f"{spec.source}: files of rows have one split, 'train', and no {spec.split!r}")
    return Path(spec.source)


def _own_pictures(spec: SourceSpec) -> SourceSpec:
    if spec.image_folder:
        raise ValueError(f"{spec.source} has its pictures with it; leave image_folder out (it is {spec.image_folder})")
    return spec


def _images(spec: SourceSpec) -> Path:
    """What picture paths are relative to."""
    path = Path(spec.source)
    if spec.image_folder:
        return Path(spec.image_folder)
    rows = next((folder for folder in (path, *path.absolute().parents) if folder.name in RELEASE), None)
    release = rows.parent if rows else path if any((path / name).is_dir() for name in RELEASE) else None
    if release:
        return release / "images" if (release / "images").is_dir() else release
    return path if path.is_dir() else path.parent


def _json_rows(spec: SourceSpec, paths: Sequence[Path]) -> Source:
    _only_train(spec)
    images = _images(spec)
    return concatenate(JsonRows(path, images) for path in paths)


def _open_registered(spec: SourceSpec) -> Source:
    return InMemory(SOURCES[_own_pictures(spec).source](spec.split))


def _open_braces(spec: SourceSpec) -> Source:
    return concatenate(open_source(dataclasses.replace(spec, source=path)) for path in expand_braces(spec.source))


def _open_json(spec: SourceSpec) -> Source:
    return _json_rows(spec, [Path(spec.source)])


def _open_json_folder(spec: SourceSpec) -> Source:
    return _json_rows(spec, _files(Path(spec.source), "*.json", "*.jsonl"))


def _open_release(spec: SourceSpec) -> Source:
    path = Path(spec.source)
    folder = next((path / name for name in RELEASE if (path / name).is_dir()), path)
    return _json_rows(spec, _files(folder, "**/*.jsonl"))


def _open_mixture(spec: SourceSpec) -> Source:
    from mmfuser_jax.data import mixtures

    return mixtures.open_mixture(_only_train(spec), spec.image_folder)


def _open_parquet(spec: SourceSpec) -> Source:
    from mmfuser_jax.data import huggingface

    return huggingface.open_parquet(Path(spec.source), spec.split, _images(spec))


def _open_saved(spec: SourceSpec) -> Source:
    from mmfuser_jax.data import huggingface

    return huggingface.open_saved(Path(spec.source), spec.split, _images(spec))


def _open_tfds_name(spec: SourceSpec) -> Source:
    from mmfuser_jax.data import tfds_records

    return tfds_records.open_name(_own_pictures(spec).source.removeprefix("tfds:"), spec.split)


def _open_tfds_folder(spec: SourceSpec) -> Source:
    from mmfuser_jax.data import tfds_records

    return tfds_records.open_dataset(Path(_own_pictures(spec).source), spec.split)


def _open_array_records(spec: SourceSpec) -> Source:
    from mmfuser_jax.data import tfds_records

    path = _only_train(_own_pictures(spec))
    return tfds_records.ArrayRecords(_files(path, "*.array_record*") if path.is_dir() else [path])


KINDS: tuple[Kind, ...] = (
    Kind("a registered name", lambda source: source in SOURCES, _open_registered),
    Kind("tfds:NAME or tfds:NAME/CONFIG", lambda source: source.startswith("tfds:"), _open_tfds_name),
    Kind(
        "several files as a_{1,2}.json",
        lambda source: len(expand_braces(source)) > 1 and not Path(source).exists(),
        _open_braces,
    ),
    Kind("a .jsonl file of rows, a .json file with one list of rows", _suffix(".json", ".jsonl"), _open_json),
    Kind("a LLaVA-NeXT mixture (.yaml)", _suffix(".yaml", ".yml"), _open_mixture),
    Kind("a .parquet file", _suffix(".parquet"), _open_parquet),
    Kind(
        "an .array_record file or shard",
        lambda source: ".array_record" in Path(source).name and not Path(source).is_dir(),
        _open_array_records,
    ),
    Kind(
        "a TFDS dataset's folder",
        _holds("features.json", "*/features.json", "*/*/features.json", "*/*/*/features.json"),
        _open_tfds_folder,
    ),
    Kind("a folder written by save_to_disk", _holds("state.json", "dataset_dict.json"), _open_saved),
    Kind("a folder of parquet files", _holds("*.parquet", "data/*.parquet"), _open_parquet),
    Kind(
        "the MMInstruct release, its jsons_all or jsons_per_domain",
        lambda source: (
            _holds(*(f"{name}/**/*.jsonl" for name in RELEASE))(source)
            or (Path(source).name in RELEASE and _holds("**/*.jsonl")(source))
        ),
        _open_release,
    ),
    Kind("a folder of .json or .jsonl files", _holds("*.json", "*.jsonl"), _open_json_folder),
    Kind("a folder of .array_record files", _holds("*.array_record*"), _open_array_records),
)
"""What a source can be; the first row that fits says how it is opened."""
