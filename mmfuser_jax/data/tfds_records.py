"""Records as TensorFlow Datasets store them: tf.train.Example in ArrayRecord files, written and read without TensorFlow.

One example is one `Record`:

    id                            text
    images                        content of each picture's file, as it is
    conversations/conversation    which conversation a turn belongs to, counted from 0
    conversations/from, /value    its role and its words, as in LLaVA's JSON
    tags                          one JSON object per conversation
    domain, language, type        from the tags; "mixed" where conversations differ, "" where none has it

The last three are for those who filter or count without this package; `parse` reads `tags`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfuser_jax.data.records import Record, RecordError, Turn

LABELS = ("domain", "language", "type")
SUFFIX = ".array_record"
INFO_FILE = "dataset_info.json"

WRITER_OPTIONS = "group_size:1,zstd:3"
"""Random access wants groups of one. zstd halves text and costs little beside reading pictures."""

# The index in memory is 16 bytes a record; left on disk, random reads were 10 to 30 times slower.
_READER_OPTIONS = {"max_parallelism": "0"}


def _tfds() -> Any:
    """The library; imported late, as it is an extra and takes a third of a second."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise RuntimeError(f"TFDS records need an extra ({error}): pip install 'mmfuser-jax[data]'") from None
    return tensorflow_datasets


def features() -> Any:
    """The `tfds.features.FeaturesDict` of a record."""
    types = _tfds().features
    return types.FeaturesDict(
        {
            "id": types.Text(),
            **{label: types.Text() for label in LABELS},
            "images": types.Sequence(types.Image()),
            "conversations": types.Sequence({"conversation": np.int32, "from": types.Text(), "value": types.Text()}),
            "tags": types.Sequence(types.Text()),
        }
    )


def serialize(record: Record, images: Sequence[bytes]) -> bytes:
    """A record as a tf.train.Example; the same bytes everywhere.

    Args:
      record: validated.
      images: content of its picture files, in the order of `record.images`.

    Raises:
      RecordError: pictures are missing or too many, or a text is no Unicode (half a surrogate pair).
    """
    if len(images) != len(record.images):
        raise RecordError(f"record {record.id}: {len(images)} picture files for {len(record.images)} images")
    _tfds()
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    turns = [(index, turn) for index, turns in enumerate(record.conversations) for turn in turns]
    columns: dict[str, list[str]] = {
        "id": [record.id],
        **{label: [_common(record.tags, label)] for label in LABELS},
        "conversations/from": [turn.role for _, turn in turns],
        "conversations/value": [turn.text for _, turn in turns],
        "tags": [json.dumps(dict(tags), ensure_ascii=False) for tags in record.tags],
    }
    try:
        contents = {name: [text.encode() for text in texts] for name, texts in columns.items()}
    except UnicodeEncodeError as error:
        raise RecordError(f"record {record.id}: a text is not Unicode ({error.reason})") from None
    contents["images"] = list(images)
    feature, byte_list = tf_feature_pb2.Feature, tf_feature_pb2.BytesList
    table = {name: feature(bytes_list=byte_list(value=values)) for name, values in contents.items()}
    places = tf_feature_pb2.Int64List(value=[index for index, _ in turns])
    table["conversations/conversation"] = feature(int64_list=places)
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=table))
    # Without this the order of the columns changes from process to process.
    return example.SerializeToString(deterministic=True)


def _common(tags: Sequence[Mapping[str, str]], label: str) -> str:
    """What all conversations have under this label."""
    values = {tag.get(label, "") for tag in tags} or {""}
    return values.pop() if len(values) == 1 else "mixed"


def parse(example: bytes, name: str = "?") -> Record:
    """The record of a serialised example; its pictures are bytes. Pictures are not decoded, as TFDS's own reading would.

    Args:
      example: what `serialize` returned.
      name: what an error calls it.

    Raises:
      RecordError: it is something else, or breaks the schema.
    """
    _tfds()
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        columns = tf_example_pb2.Example.FromString(example).features.feature

        def texts(column: str) -> list[str]:
            return [value.decode() for value in columns[column].bytes_list.value]

        (identity,) = texts("id")
        tags = tuple(json.loads(text) for text in texts("tags"))
        places = columns["conversations/conversation"].int64_list.value
        turns = zip(places, texts("conversations/from"), texts("conversations/value"), strict=True)
        conversations: dict[int, list[Turn]] = {}
        for place, role, text in turns:
            conversations.setdefault(place, []).append(Turn(role, text))
    except (DecodeError, ValueError, RecursionError) as error:
        raise RecordError(f"record {name}: not a record of this package ({error})") from None
    if sorted(conversations) != list(range(len(conversations))) or not all(_is_tags(tag) for tag in tags):
        raise RecordError(f"record {name}: conversations or tags are not as this package writes them")
    pictures = tuple(columns["images"].bytes_list.value)
    ordered = tuple(tuple(conversations[place]) for place in sorted(conversations))
    return Record(identity, pictures, ordered, tags).validate()


def _is_tags(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


class ArrayRecords:
    """The records of ArrayRecord files, one file after the other.

    A file is opened when it is first read from, in every process for itself; threads may share one object.
    """

    def __init__(self, paths: Sequence[Path], ranges: Sequence[tuple[int, int]] | None = None) -> None:
        """Counts the records of every file.

        Args:
          paths: the files, in order.
          ranges: [start, end) of the records of each file that are wanted; None takes all.

        Raises:
          OSError: a file is missing or cannot be read.
          ValueError: no files, or a file holds fewer records than `ranges` says.
          RuntimeError: the library that reads them is missing.
        """
        _tfds()
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        if not paths:
            raise ValueError(f"no {SUFFIX} files given")
        counts = [count_records(path) for path in paths]
        spans = ranges if ranges is not None else [(0, count) for count in counts]
        for path, count, (_, end) in zip(paths, counts, spans, strict=True):
            if end > count:
                raise ValueError(f"{path}: {count} records, expected {end}; the file was replaced or cut off")
        self._names = [Path(path).name for path in paths]
        self._spans = [list(span) for span in spans]
        self._sizes = [os.path.getsize(path) for path in paths]
        sliced = [f"{path}[{start}:{end}]" for path, (start, end) in zip(paths, spans, strict=True)]
        self._source = ArrayRecordDataSource(sliced, reader_options=_READER_OPTIONS)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Raises RecordError where the record is damaged; the message names it."""
        place = range(len(self))[index]
        try:
            example = self._source[place]
        except (ValueError, RuntimeError, IndexError) as error:
            raise RecordError(f"record {self._name(place)}: damaged ({error})") from None
        return parse(example, self._name(place))

    def fingerprint(self) -> list[Any]:
        """Name, size and [start, end) of the records of every file."""
        return [list(entry) for entry in zip(self._names, self._sizes, self._spans, strict=True)]

    def _name(self, place: int) -> str:
        for name, (start, end) in zip(self._names, self._spans, strict=True):
            if place < end - start:
                return f"{name}:{start + place}"
            place -= end - start
        raise IndexError(place)


def count_records(path: Path) -> int:
    """How many records an ArrayRecord file has.

    Raises:
      OSError: there is no such file, or it is no ArrayRecord; the library itself would report no records.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        reader = ArrayRecordReader(str(path))
        if reader.ok():
            return reader.num_records()
    except (ValueError, RuntimeError):
        pass
    raise OSError(f"{path}: not an ArrayRecord file, or cut off")


def open_dataset(folder: Path, split: str) -> ArrayRecords:
    """The records of a split of a TFDS dataset on disk.

    Args:
      folder: holds one dataset_info.json, in itself or in its one version, config's version, or dataset.
      split: a split or a slice of it in TFDS's words, such as "train[:10%]".

    Raises:
      ValueError: no dataset or several, not of this package's features, not ArrayRecord, or no such split.
      OSError: a file of the split is missing or damaged.
    """
    levels = ("", "*/", "*/*/", "*/*/*/")
    found = next((found for level in levels if (found := sorted(folder.glob(f"{level}{INFO_FILE}")))), [])
    if len(found) != 1:
        names = ", ".join(str(path.parent.relative_to(folder)) for path in found)
        raise ValueError(f"{folder}: {f'several datasets ({names}); name one' if found else f'no {INFO_FILE} in it'}")
    return _open_builder(_tfds().builder_from_directory(found[0].parent), split)


def open_name(name: str, split: str) -> ArrayRecords:
    """The records of a dataset that `tfds.data_source` finds by name, in $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Args:
      name: as "mminstruct/qa_en" or "mminstruct/qa_en:1.0.0".
      split: see `open_dataset`.

    Raises:
      ValueError, OSError: see `open_dataset`.
    """
    tfds = _tfds()
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"TFDS finds no dataset {name!r} in {tfds.core.constants.DATA_DIR} ({reason})") from None
    return _open_builder(builder, split)


def _open_builder(builder: Any, split: str) -> ArrayRecords:
    name, info = builder.info.full_name, builder.info
    wanted = set(features())
    if set(info.features or {}) != wanted:
        raise ValueError(f"{name}: its features are not a record's ({', '.join(sorted(wanted))})")
    if f".{info.file_format.file_suffix}" != SUFFIX:
        raise ValueError(f"{name}: stored as {info.file_format.file_suffix}, only {SUFFIX[1:]} can be read at random")
    known = ", ".join(info.splits)
    if re.split(r"[\[+]", split)[0] not in info.splits:
        raise ValueError(f"{name}: no split {split!r}; there are {known}")
    try:
        files = info.splits[split].file_instructions
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{name}: cannot read split {split!r} ({error}); there are {known}") from None
    if not files:
        raise ValueError(f"{name}: split {split!r} is empty")
    ranges = [(file.skip, file.skip + file.take) for file in files]
    return ArrayRecords([Path(file.filename) for file in files], ranges)
