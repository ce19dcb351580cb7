"""The report on a conversion: our model and PyTorch's side by side, stage by stage, one decoder layer at a time."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmfuser_jax import model_folder
from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.convert.probe import At, Stage, random_probe
from mmfuser_jax.convert.reading import TorchCheckpoint, open_checkpoint
from mmfuser_jax.convert.streamed_model import StreamedModel
from mmfuser_jax.convert.to_ours import relayout
from mmfuser_jax.models import VlmConfig
from mmfuser_jax.types import Array

TOLERANCES = {
    At.HIDDEN: 1e-5, At.SELECTED: 1e-5, At.FUSED: 1e-5, At.PROJECTED: 1e-5, At.MERGED: 1e-5,
    At.LAYER: 1e-4, At.LOGITS: 1e-4, At.LOSS: 1e-6, At.TOKENS: 1e-2,
}  # fmt: skip
"""Largest relative error of a stage; of the last, the share of positions, where two tokens may be equally likely."""

TINY = 1e-30
"""Keeps the error of what should be all zero finite."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
      stage: which.
      shape: of the arrays compared.
      error: norm of the difference over norm of PyTorch's; infinite where something is not finite.
      index: of several hidden states or layers the worst, or the first past the tolerance, where things go wrong.
    """

    stage: At
    shape: tuple[int, ...]
    error: float
    index: int | None = None

    @property
    def ok(self) -> bool:
        """Whether it is within the tolerance."""
        return self.error <= TOLERANCES[self.stage]

    @property
    def title(self) -> str:
        """Stage, and which of several."""
        if self.index is None:
            return self.stage
        return f"{self.stage}, worst {self.index}" if self.ok else f"{self.stage} from {self.index} on"


def check(
    ours: Path, torch_sources: Sequence[str], *, allow_pickle: bool = False, step: int | None = None
) -> list[Row]:
    """Compares a model folder with the torch checkpoint it was made from, or that was made from it; prints the report.

    Both get the same noise: pictures, token ids and labels. Both compute in float32 from what they have on disk, and
    each goes on from its own numbers, so that errors add up as they would in use. Beside the vision encoder, the
    embedding and the head, one decoder layer is in memory at a time on either side.

    Args:
      ours: model folder.
      torch_sources: folders or hub ids that make up the torch checkpoint.
      allow_pickle: see `reading.open_checkpoint`.
      step: of ours; None for the newest.

    Returns:
      The lines of the report.

    Raises:
      ConversionError: PyTorch is not installed, the two are not of one shape, or a stage is past its tolerance.
    """
    started = time.perf_counter()
    checkpoint = open_checkpoint(torch_sources, allow_pickle=allow_pickle)
    if not checkpoint.whole:
        raise ConversionError(f"only whole models can be verified, not {', '.join(checkpoint.parts)} alone")
    reference = _torch_reference(checkpoint)
    dtypes = {path: matched.tensor.dtype for path, matched in checkpoint.params.items()}
    with _unrolled(ours, step) as folder, jax.default_matmul_precision("highest"):
        model = StreamedModel(folder, step, dtypes)
        probe = random_probe(model.config, min(model.config.llm.vocab_size, checkpoint.config.llm.vocab_size))
        rows = compare(_watched(zip(model.stages(probe), reference.stages(probe), strict=False), model.config))
    _print(rows, time.perf_counter() - started)
    failed = [row.title for row in rows if not row.ok]
    if failed:
        raise ConversionError(f"{ours} computes something else than {', '.join(torch_sources)}: {', '.join(failed)}")
    return rows


@contextmanager
def _unrolled(folder: Path, step: int | None) -> Iterator[Path]:
    """The model folder itself, or a passing copy of it whose stacked layers can be read one at a time."""
    if not model_folder.read_card(folder).config.llm.scan_layers:
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as between:
        relayout(folder, Path(between) / "model", scan=False, step=step)
        yield Path(between) / "model"


def _torch_reference(checkpoint: TorchCheckpoint) -> Any:
    try:
        from mmfuser_jax.convert.torch_reference import TorchReference
    except ImportError as error:
        raise ConversionError(f"--verify needs PyTorch: pip install 'mmfuser-jax[convert]' ({error})") from None
    return TorchReference(checkpoint)


def compare(pairs: Iterable[tuple[Stage, Stage]]) -> list[Row]:
    """Lines of the report for pairs of (our, PyTorch's) stages in the order of computation.

    Raises:
      ConversionError: the two sides compute different stages, or arrays of different shapes.
    """
    rows: dict[str, Row] = {}
    for ours, theirs in pairs:
        if (ours.at, ours.index, ours.value.shape) != (theirs.at, theirs.index, theirs.value.shape):
            raise ConversionError(f"not the same model: {_described(ours)} here, {_described(theirs)} in PyTorch")
        row = Row(ours.at, ours.value.shape, relative_error(ours.value, theirs.value), ours.index)
        before = rows.get(row.stage)
        if before is None or (before.ok and not row.error <= before.error):
            rows[row.stage] = row
        if row.stage == At.LOGITS:
            tokens = np.argmax(ours.value, axis=-1), np.argmax(theirs.value, axis=-1)
            differ = Row(At.TOKENS, tokens[0].shape, float(np.mean(tokens[0] != tokens[1])))
    return [*rows.values(), differ]


def _described(stage: Stage) -> str:
    return f"{stage.at}{'' if stage.index is None else f' {stage.index}'} {list(stage.value.shape)}"


def relative_error(ours: Array, theirs: Array) -> float:
    """Norm of the difference over the norm of `theirs`; infinite where either is not finite."""
    expected = np.asarray(theirs, np.float64)
    error = float(np.linalg.norm(np.asarray(ours, np.float64) - expected))
    error /= max(float(np.linalg.norm(expected)), TINY)
    return error if math.isfinite(error) else math.inf


def _watched(pairs: Iterable[tuple[Stage, Stage]], config: VlmConfig) -> Iterable[tuple[Stage, Stage]]:
    """`pairs` with a progress bar, where somebody watches."""
    console = Console(stderr=True)
    total = len(config.states) + config.llm.depth + (5 if config.fuser is None else 6)
    return track(pairs, "verifying", total, console=console, transient=True, disable=not console.is_terminal)


def _print(rows: list[Row], seconds: float) -> None:
    table = Table(caption=f"relative errors, float32 on both sides; {seconds:.0f} s", caption_justify="left")
    table.add_column("stage")
    table.add_column("shape")
    for name in ("error", "tolerance"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        verdict = "[green]ok[/]" if row.ok else "[bold red]FAIL[/]"
        tolerance = TOLERANCES[row.stage]
        table.add_row(row.title, "×".join(map(str, row.shape)), f"{row.error:.1e}", f"{tolerance:.0e}", verdict)
    Console().print(table)
