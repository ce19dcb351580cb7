"""Sources → mixed, packed, batched, resumable stream of `Batch`es, through Grain."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import grain
import numpy as np
from absl import flags

from mmfuser_jax.data.grouping import GroupedOrder, modality_lengths
from mmfuser_jax.data.rows import Assemble, Augmentation, Drawn, Encode, Rejected, Row, RowFormat
from mmfuser_jax.data.sources import Source
from mmfuser_jax.data.tokenizer import Tokenizer
from mmfuser_jax.data.windows import PackedRows
from mmfuser_jax.processes import end_with_parent

GROUPINGS = ("packed", "length")
BUCKET = 64
"""Rows that are not packed are as long as the longest of their batch, rounded up to this: few shapes are compiled."""

PREFETCH = 16
"""Examples encoded ahead of the packer, and so many files or rows read ahead."""

READY = 2
"""Batches kept ready, by every worker."""


@dataclasses.dataclass(frozen=True)
class Weighted:
    """One component of a mixture: its records, and its share of the examples relative to the others'."""

    source: Source
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Loading:
    """How a process makes its batches.

    Attributes:
      batch_size: rows a batch, of this process.
      grouping: "packed" lays examples into rows of one length; "length" gives each its own row, see `grouping.py`.
      window: examples packed together, see `windows.py`. They wait with the content of their picture files where the
        source has no files: 1,024 of 55 KB are 56 MB.
      workers: processes that prepare batches; 0 for a thread of this one.
      threads: that decode pictures, in each of them.
    """

    batch_size: int
    grouping: str = "packed"
    window: int = 1024
    workers: int = 0
    threads: int = 4


class Alone(grain.transforms.Map):
    """Every example gets a row for itself."""

    def map(self, element: Drawn | Rejected) -> Row:
        """One row, empty for a refused record."""
        return Row((), (element,)) if isinstance(element, Rejected) else Row((element,))


def make_loader(
    sources: Mapping[str, Weighted],
    tokenizer: Tokenizer,
    row_format: RowFormat,
    loading: Loading,
    *,
    conversations: int = 1,
    augmentation: Augmentation = Augmentation(),  # noqa: B008
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Endless stream of (`Batch`, `Report`); every epoch of a source is a fresh permutation, split between processes.

    Each source is shuffled, repeated and split on its own and mixed after that, in `windows.PackedRows`. (Mixed before,
    a split by every n-th element would give one process all of one source: the pattern of a mixture is periodic.)

    Args:
      sources: components by name; the name seeds its order.
      tokenizer, row_format, conversations: see `rows.Encode`.
      augmentation: of pictures.
      loading: by whom, and how many rows.
      seed: of order, choices and augmentation; the stream is a pure function of it, of the split and the position.
      process_index, process_count: this process, and how many share the records.

    Returns:
      A dataset whose iterator has `get_state`, `set_state` and `close`, and saves through `checkpoint.py`. Weights may
      differ when a state is set; anything else must be as it was, see `fingerprint`.

    Raises:
      ValueError: a source without a record for every process and worker, no sources, or "length" of several.
    """
    check_shares({name: len(part.source) for name, part in sources.items()}, loading, process_count)
    grouped = loading.grouping == "length"
    streams = {}
    for name, part in sources.items():
        component_seed = named_seed(seed, name)
        if grouped:
            global_batch = loading.batch_size * process_count * max(1, loading.workers)
            order = GroupedOrder(modality_lengths(part.source), global_batch, component_seed)
            indices = grain.MapDataset.range(sys.maxsize // len(part.source)).seed(component_seed).map(order)
        else:
            indices = grain.MapDataset.range(len(part.source)).seed(component_seed).shuffle().repeat()
        encode = Encode(part.source, tokenizer, row_format, conversations)
        # Drawn by global index before the split: what is drawn does not depend on the number of processes.
        examples = indices.random_map(encode)[process_index::process_count]
        streams[name] = examples.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH))
    if grouped:
        (stream,) = streams.values()
        rows = stream.map(Alone())
    else:
        weights = {name: part.weight for name, part in sources.items()}
        rows = PackedRows(
            streams, weights, length=row_format.length, tiles=row_format.tiles, window=loading.window, seed=seed
        )
    # Processes of one step must agree on shapes, and cannot know each other's longest row.
    bucket = BUCKET if grouped and process_count == 1 else 0
    batches = rows.batch(loading.batch_size, drop_remainder=True, batch_fn=list)
    batches = batches.map(Assemble(row_format, augmentation, loading.threads, bucket))
    if not loading.workers:
        return grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=READY)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads a flag of its own; scripts and notebooks without absl parse none
    options = grain.MultiprocessingOptions(loading.workers, per_worker_buffer_size=READY)
    return batches.mp_prefetch(options, worker_init_fn=_begin_worker)


def _begin_worker(index: int, count: int) -> None:
    end_with_parent()


def check_shares(counts: Mapping[str, int], loading: Loading, process_count: int) -> None:
    """Raises ValueError where sources of these record counts cannot be loaded so; see `make_loader`."""
    shares = process_count * max(1, loading.workers)
    for name, count in counts.items():
        if count < shares:
            raise ValueError(f"source {name}: {count} records cannot be split into {shares} shares")
    if loading.grouping == "length" and len(counts) > 1:
        raise ValueError("length grouping takes one source; a .yaml mixture of several files is one")


def fingerprint(sources: Mapping[str, Weighted], loading: Loading, process_count: int) -> dict[str, Any]:
    """JSON values that must be the same when a stream is resumed: a position means nothing in other data."""
    return {
        "sources": {name: part.source.fingerprint() for name, part in sources.items()},
        "processes": process_count,
        "workers": loading.workers,
        "batch_size": loading.batch_size,
        "grouping": loading.grouping,
        "window": loading.window,
    }


def named_seed(seed: int, name: str) -> int:
    """A seed of its own for everything that has a name: stages and sources must not see their data in one order."""
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0])
