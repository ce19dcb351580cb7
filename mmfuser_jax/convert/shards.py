"""Writing safetensors: one file, or numbered shards with an index, one shard in memory at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mmfuser_jax.convert.progress import byte_bar

SHARD_BYTES = 2 << 30
"""Weights are written in shards of at most this size: one is held in memory at a time."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor to write: its shape and dtype, and how to make it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write_shards(entries: dict[str, Entry], folder: Path, limit: int = SHARD_BYTES) -> None:
    """model.safetensors, or numbered shards and their index, of tensors made one shard at a time."""
    shards: list[dict[str, Entry]] = [{}]
    size = 0
    for key, entry in entries.items():
        if shards[-1] and size + entry.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][key] = entry
        size += entry.nbytes
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    total = sum(entry.nbytes for entry in entries.values())
    with byte_bar("writing", total) as bar:
        for name, shard in zip(names, shards, strict=True):
            write_file(shard, folder / name, bar)
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in sorted(shard)}
        write_json(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )


def write_file(entries: dict[str, Entry], path: Path, bar: Callable[[int], None] = lambda _: None) -> None:
    """One safetensors file, all of it in memory at once; `bar` hears the bytes of every tensor that was made."""
    tensors = {}
    for key, entry in entries.items():
        tensors[key] = entry.make()
        bar(tensors[key].nbytes)
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors leaves it readable by its owner alone


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Writes a JSON file the way Hugging Face lays it out."""
    path.write_text(json.dumps(fields, indent=2) + "\n")
