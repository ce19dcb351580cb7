"""The data path against LLaVA's own: samples a second, full rows, memory, and the time until the first batch."""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmfuser_jax.bench.rows import BenchRow
from mmfuser_jax.data.json_files import JsonRows
from mmfuser_jax.data.pictures import ImageFormat
from mmfuser_jax.data.pipeline import Loading, Weighted, make_loader
from mmfuser_jax.data.records import usable
from mmfuser_jax.data.rows import RowFormat
from mmfuser_jax.data.sources import Source, SourceSpec, open_source
from mmfuser_jax.data.tokenizer import Tokenizer, train_bpe_tokenizer
from mmfuser_jax.prepare.build import build
from mmfuser_jax.prepare.plan import Options
from mmfuser_jax.synthetic.generate import generate
from mmfuser_jax.types import CLIP_MEAN

IMAGE_SIZE, PATCH = 336, 14
LENGTH, TILES, BATCH = 2048, 4, 4
WORKERS = 2
SAMPLES = 1500
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
            *_many_rows(folder),
        ]


def _images(patch: int = PATCH) -> ImageFormat:
    return ImageFormat("pad", IMAGE_SIZE, CLIP_MEAN, tokens=(IMAGE_SIZE // patch) ** 2)


def _loader(source: Source, tokenizer: Tokenizer, loading: Loading, images: ImageFormat) -> Any:
    row = RowFormat("v1", images, length=LENGTH, tiles=TILES if images.tokens > 300 else 4 * TILES)
    return iter(make_loader({"data": Weighted(source)}, tokenizer, row, loading, seed=0))


def _speed(folder: Path, source: Source, small: Source, tokenizer: Tokenizer) -> Iterator[BenchRow]:
    from mmfuser_jax.bench import torch_loader

    files = sorted((folder / "jsons_all").glob("*.jsonl"))
    dataset = torch_loader.LlavaDataset(files, folder / "images", tokenizer.file, IMAGE_SIZE)
    peer = torch_loader.batches(dataset, 16, WORKERS)
    theirs, their_memory = _samples_per_second(peer, lambda batch: len(batch["input_ids"]))
    del peer, dataset
    loading = Loading(BATCH, workers=WORKERS, threads=1)
    for name, records in (("JSON and picture files", source), (f"build with pictures of {IMAGE_SIZE} pixels", small)):
        stream = _loader(records, tokenizer, loading, _images())
        ours, our_memory = _samples_per_second(stream, lambda batch: batch[1].seen)
        stream.close()
        name_of_peer = "torch DataLoader on the JSON and picture files"
        yield BenchRow(f"samples from {name}", ours, theirs, "samples/s", name_of_peer, f"{WORKERS} workers each")
        yield BenchRow(
            f"memory of a worker, {name}", our_memory, their_memory, "MB", "the same", "resident, at the end"
        )


def _samples_per_second(stream: Iterator[Any], count: Callable[[Any], int]) -> tuple[float, float]:
    """Samples a second after the first batch, and the largest memory of a worker in MB."""
    next(stream)
    started, seen = time.perf_counter(), 0
    while seen < SAMPLES:
        seen += count(next(stream))
    elapsed = time.perf_counter() - started
    return seen / elapsed, max((_resident(child.pid) for child in multiprocessing.active_children()), default=0.0)


def _resident(pid: int | None) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _fill(source: Source, tokenizer: Tokenizer) -> Iterator[BenchRow]:
    """Share of slots with a token; pictures are not decoded for it, only counted."""
    for patch, kind in ((14, "576 image tokens"), (28, "144 image tokens")):
        images = _images(patch)
        shares = []
        for loading in (Loading(BATCH, workers=0), Loading(16, "length", workers=0)):
            stream = _loader(source, tokenizer, loading, images)
            filled = [batch.segment_ids > 0 for batch, _ in (next(stream) for _ in range(40))]
            stream.close()
            shares.append(100 * sum(x.sum() for x in filled) / sum(x.size for x in filled))
        yield BenchRow(f"slots in use, {kind}", shares[0], shares[1], "%", "length grouping", f"rows of {LENGTH}")


def _many_rows(folder: Path) -> Iterator[BenchRow]:
    """A source of as many rows as MMInstruct has instructions."""
    path = folder / "many.json"
    text = "What is written on the sign beside the door of the shop? Answer with a word or a short phrase. " * 4
    with path.open("w") as file:
        for index in range(MANY_ROWS):
            turns = [{"from": "human", "value": text}, {"from": "gpt", "value": f"sign {index}"}]
            file.write(("[" if index == 0 else ",\n") + json.dumps({"id": index, "conversations": turns}))
        file.write("]")
    ours, theirs = (_in_a_process(function, path) for function in (_open_index, _open_whole))
    name = f"{MANY_ROWS:,} rows of .json ({path.stat().st_size / 1e9:.1f} GB)"
    yield BenchRow(f"first record of {name}", ours[0], theirs[0], "s", "json.load, as LLaVA", "file cached")
    yield BenchRow(f"memory for {name}", ours[1], theirs[1], "MB", "json.load, as LLaVA", "peak above the imports")
    yield BenchRow(f"memory after 200,000 of {name}", ours[2], theirs[2], "MB", "json.load, as LLaVA", "the same")


def _in_a_process(function: Callable[[Path], tuple[float, float, float]], path: Path) -> tuple[float, float, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (path,))


def _peak() -> float:
    """Peak memory of this process in MB. (getrusage counts what the parent had when it forked.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def _open_index(path: Path) -> tuple[float, float, float]:
    before, started = _peak(), time.perf_counter()
    source = JsonRows(path, path.parent)
    source[len(source) // 2]
    seconds, memory = time.perf_counter() - started, _peak() - before
    for index in np.random.default_rng(0).permutation(len(source))[:200_000]:
        source[int(index)]
    return seconds, memory, _peak() - before


def _open_whole(path: Path) -> tuple[float, float, float]:
    before, started = _peak(), time.perf_counter()
    rows = json.loads(path.read_bytes())
    rows[len(rows) // 2]["conversations"]
    memory = _peak() - before
    return time.perf_counter() - started, memory, memory
