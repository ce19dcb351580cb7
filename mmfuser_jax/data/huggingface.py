"""Tables of Hugging Face `datasets`: folders written by `save_to_disk`, and parquet files."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax.data.llava_rows import record_from_llava
from mmfuser_jax.data.records import Record

SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*\.parquet")
"""How the hub names the files of a split."""


class TableRows:
    """The rows of a `datasets.Dataset` as records; columns as in `record_from_llava`.

    The table is a memory-mapped Arrow file, so that a row costs what it holds: pictures stay as the bytes they are.
    """

    def __init__(self, dataset: Any, path: Path, files: Sequence[Path], image_folder: Path) -> None:
        """`dataset` holds the rows of `path`, whose content is in `files`."""
        self.path = path
        self._dataset = dataset.with_format("arrow")  # as stored: neither decodes pictures nor makes arrays
        self._files = files
        self._image_folder = image_folder

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Record:
        """Raises RecordError where the row is not valid; the message names it."""
        index = range(len(self))[index]
        (row,) = self._dataset[index].to_pylist()
        return record_from_llava(row, f"{self.path.name}:{index}", self._image_folder)

    def fingerprint(self) -> list[Any]:
        """Names and sizes of the files, and how many rows they have."""
        return [len(self), *([file.name, os.path.getsize(file)] for file in self._files)]


def open_saved(folder: Path, split: str, image_folder: Path) -> TableRows:
    """A folder written by `save_to_disk` of a Dataset, which is one split "train", or of a DatasetDict.

    Raises:
      ValueError: no such split, or no such dataset.
    """
    datasets = _library()
    splits = (folder / "dataset_dict.json").is_file()
    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever pyarrow and the json module say of damaged files
        raise ValueError(f"{folder}: not a dataset written by save_to_disk ({_line(error)})") from None
    if splits:
        dataset = dataset[_known_split(folder, split, list(dataset))]
    else:
        _known_split(folder, split, ["train"])
    files = sorted((folder / split if splits else folder).glob("*.arrow"))
    return TableRows(dataset, folder, files, image_folder)


def open_parquet(path: Path, split: str, image_folder: Path) -> TableRows:
    """A parquet file, or a folder of them: its own, or those in its folder `data`, as the hub lays them out.

    Files that the hub names SPLIT-00000-of-00004.parquet belong to that split, others to "train". They are converted to
    an Arrow file in the cache of `datasets` once (HF_DATASETS_CACHE says where). Reading rows straight from parquet
    would need no cache, but reads a whole row group for one row: 31 ms instead of 0.04 ms with pictures of 50 KB.

    Raises:
      ValueError: no such split, or no parquet.
      OSError: a file cannot be read.
    """
    datasets = _library()
    splits = defaultdict(list)
    for file in sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")]) if path.is_dir() else [path]:
        match = SHARD.fullmatch(file.name) if path.is_dir() else None
        splits[match[1] if match else "train"].append(file)
    files = splits[_known_split(path, split, list(splits))]
    for file in files:
        file.stat()  # the library's error about a missing file does not name it
    try:
        dataset = datasets.Dataset.from_parquet([str(file) for file in files])
    except Exception as error:
        raise ValueError(f"{path}: not readable as parquet ({_line(error.__cause__ or error)})") from None
    return TableRows(dataset, path, files, image_folder)


def _known_split(path: Path, split: str, splits: Sequence[str]) -> str:
    if split not in splits:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(splits)}")
    return split


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise RuntimeError("Hugging Face datasets are not installed; run: pip install 'mmfuser-jax[data]'") from None
    return datasets


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
