"""The data path against LLaVA's own: samples a second, full rows, memory, and the time until the first batch."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmfuser_jax.bench.rows import BenchRow
from mmfuser_jax.data.json_files import JsonRows
from mmfuser_jax.data.pictures import ImageFormat
from mmfuser_jax.data.pipeline import Loading, Weighted, make_loader
from mmfuser_jax.data.records import usable
from mmfuser_jax.data.rows import Report, RowFormat
from mmfuser_jax.data.sources import Source, SourceSpec, open_source
from mmfuser_jax.data.tokenizer import Tokenizer, load_tokenizer, train_bpe_tokenizer
from mmfuser_jax.models.vlm import normalize_pixels
from mmfuser_jax.prepare.build import build
from mmfuser_jax.prepare.plan import Options
from mmfuser_jax.synthetic.generate import generate
from mmfuser_jax.types import CLIP_MEAN, CLIP_STD, Batch

IMAGE_SIZE, PATCH = 336, 14
LENGTH, TILES, BATCH = 2048, 4, 4
WORKERS = 2
SAMPLES, PEER_SAMPLES = 6144, 1500
"""Ours over three windows of both workers: in one alone, reading and encoding would fall before the first batch."""
MANY_ROWS = 973_000
VOCABULARY = 8192


def run(rows: int = 2000) -> list[BenchRow]:
    """All rows of the benchmark, on a generated MMInstruct-shaped set of so many rows, in a few minutes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        generate(folder / "set", rows=rows, workers=WORKERS)
        spec = SourceSpec(str(folder / "set"))
        source = open_source(spec)
        texts = (turn.text for record in usable(source) for turns in record.conversations for turn in turns)
        tokenizer = train_bpe_tokenizer(texts, folder / "tokenizer", VOCABULARY)
        build(spec, folder / "small", Options(max_side=IMAGE_SIZE), workers=WORKERS)
        small = open_source(SourceSpec(str(folder / "small" / "mminstruct" / "qa_en")))
        return [
            *_speed(folder / "set", source, small, tokenizer),
            *_fill(source, tokenizer),
            *_many_rows(folder, tokenizer),
        ]


def _images(patch: int = PATCH) -> ImageFormat:
    return ImageFormat("pad", IMAGE_SIZE, CLIP_MEAN, tokens=(IMAGE_SIZE // patch) ** 2)


def _loader(source: Source, tokenizer: Tokenizer, loading: Loading) -> Any:
    row = RowFormat("v1", _images(), length=LENGTH, tiles=TILES)
    return iter(make_loader({"data": Weighted(source)}, tokenizer, row, loading, seed=0))


def _speed(folder: Path, source: Source, small: Source, tokenizer: Tokenizer) -> Iterator[BenchRow]:
    from mmfuser_jax.bench import torch_loader

    files = sorted((folder / "jsons_all").glob("*.jsonl"))
    dataset = torch_loader.LlavaDataset(files, folder / "images", tokenizer.file, IMAGE_SIZE)
    peer = torch_loader.batches(dataset, 16, WORKERS)
    theirs, their_memory = _samples_per_second(peer, PEER_SAMPLES, lambda batch: len(batch["input_ids"]))
    del peer, dataset
    loading = Loading(BATCH, workers=WORKERS, threads=1)
    for name, records in (("JSON and picture files", source), (f"build with pictures of {IMAGE_SIZE} pixels", small)):
        stream = _loader(records, tokenizer, loading)
        ours, our_memory = _samples_per_second(stream, SAMPLES, _normalized)
        stream.close()
        name_of_peer = "torch DataLoader on the JSON and picture files"
        yield BenchRow(f"samples from {name}", ours, theirs, "samples/s", name_of_peer, f"{WORKERS} workers each")
        yield BenchRow(
            f"memory of a worker, {name}", our_memory, their_memory, "MB", "the same", "resident, at the end"
        )


_normalize = jax.jit(lambda pixels: normalize_pixels(pixels, CLIP_MEAN, CLIP_STD))


def _normalized(loaded: tuple[Batch, Report]) -> int:
    """Normalises the pixels, as the first step of the model does, and counts the samples."""
    batch, report = loaded
    _normalize(batch.pixels).block_until_ready()
    return report.seen


def _samples_per_second(stream: Iterator[Any], samples: int, count: Callable[[Any], int]) -> tuple[float, float]:
    """Samples a second after the first batch, and the largest memory of a worker in MB."""
    count(next(stream))
    started, seen = time.perf_counter(), 0
    while seen < samples:
        seen += count(next(stream))
    elapsed = time.perf_counter() - started
    return seen / elapsed, max((_resident(child.pid) for child in multiprocessing.active_children()), default=0.0)


def _resident(pid: int | None) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _fill(source: Source, tokenizer: Tokenizer) -> Iterator[BenchRow]:
    """Share of slots with a token."""
    for patch, length in ((28, 2048), (14, 2048), (14, 4096)):
        images = dataclasses.replace(_images(patch), size=PATCH)  # as many tokens, but few pixels to make
        row = RowFormat("v1", images, length=length, tiles=32)
        shares = []
        for loading in (Loading(1), Loading(16, "length")):
            filled = [batch.segment_ids > 0 for batch in _epoch(source, tokenizer, row, loading)]
            shares.append(100 * sum(x.sum() for x in filled) / sum(x.size for x in filled))
        name = f"slots in use, pictures of {images.tokens} tokens"
        yield BenchRow(name, shares[0], shares[1], "%", "length grouping", f"rows of {length}")


def _epoch(source: Source, tokenizer: Tokenizer, row: RowFormat, loading: Loading) -> Iterator[Batch]:
    """Batches of one epoch."""
    stream = iter(make_loader({"data": Weighted(source)}, tokenizer, row, loading, seed=0))
    seen = 0
    while seen < len(source):
        batch, report = next(stream)
        seen += report.seen
        yield batch
    stream.close()


def _many_rows(folder: Path, tokenizer: Tokenizer) -> Iterator[BenchRow]:
    """A source of as many rows as MMInstruct has instructions."""
    path = folder / "many.json"
    text = "What is written on the sign beside the door of the shop? Answer with a word or a short phrase. " * 4
    with path.open("w") as file:
        for index in range(MANY_ROWS):
            turns = [{"from": "human", "value": text}, {"from": "gpt", "value": f"sign {index}"}]
            file.write(("[" if index == 0 else ",\n") + json.dumps({"id": index, "conversations": turns}))
        file.write("]")
    ours = _in_a_process(_open_index, path, tokenizer.folder)
    theirs = _in_a_process(_open_whole, path)
    name, peer = f"{MANY_ROWS:,} rows of .json", "json.load, as LLaVA"
    size = f"a file of {path.stat().st_size / 1e9:.1f} GB, cached"
    yield BenchRow(f"first batch of {name}", ours.first, theirs.first, "s", "the first row after json.load", size)
    yield BenchRow(f"memory with {name}", ours.opened, theirs.opened, "MB", peer, "peak above the imports")
    yield BenchRow(f"after reading 200,000 of {name}", ours.read, theirs.read, "MB", peer, "the same")


@dataclasses.dataclass(frozen=True)
class _Opened:
    """Seconds to the first batch, and peak memory in MB after it and after many rows, above what the imports took."""

    first: float
    opened: float
    read: float


def _in_a_process(function: Callable[..., _Opened], *args: Path) -> _Opened:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def _peak() -> float:
    """Peak memory of this process in MB. (getrusage counts what the parent had when it forked.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def _open_index(path: Path, tokenizer: Path) -> _Opened:
    words = load_tokenizer(tokenizer)
    before, started = _peak(), time.perf_counter()
    source = JsonRows(path, path.parent)
    stream = _loader(source, words, Loading(BATCH))
    next(stream)
    seconds, opened = time.perf_counter() - started, _peak() - before
    stream.close()
    for index in np.random.default_rng(0).permutation(len(source))[:200_000]:
        source[int(index)]
    return _Opened(seconds, opened, _peak() - before)


def _open_whole(path: Path) -> _Opened:
    before, started = _peak(), time.perf_counter()
    rows = json.loads(path.read_bytes())
    rows[len(rows) // 2]["conversations"]
    seconds = time.perf_counter() - started
    return _Opened(seconds, _peak() - before, _peak() - before)
