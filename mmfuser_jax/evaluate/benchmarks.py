"""Benchmarks by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmfuser_jax.data.sources import SourceSpec
from mmfuser_jax.evaluate.run import evaluate
from mmfuser_jax.facade import load

BENCHMARKS = {"easy_vqa": "easy_vqa/questions"}
"""Benchmark → data source."""


def run_benchmark(
    model: str | Path, benchmark: str, split: str, out: Path, max_new_tokens: int, *, allow_pickle: bool = False
) -> dict[str, Any]:
    """Loads a model, scores it, and writes the files of `evaluate` to `out`.

    Raises:
      ValueError: no such benchmark or split.
      ModelFolderError, CheckpointError: not a model.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"no benchmark {benchmark!r}; there are {', '.join(BENCHMARKS)}")
    spec = SourceSpec(BENCHMARKS[benchmark], split)
    return evaluate(load(model, allow_pickle=allow_pickle), spec, out, max_new_tokens=max_new_tokens)
