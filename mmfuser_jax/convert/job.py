"""The conversion job: which way to go, then the report where asked."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmfuser_jax import model_folder
from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.convert.reading import open_checkpoint
from mmfuser_jax.convert.to_ours import relayout, write_model_folder
from mmfuser_jax.convert.to_torch import write_torch_folder
from mmfuser_jax.data.conversation import get_template

LOG = logging.getLogger(__name__)


def convert(
    sources: Sequence[str],
    target: Path | None,
    *,
    to: str = "orbax",
    template: str = "",
    scan: bool = False,
    step: int | None = None,
    dtype: str = "",
    allow_pickle: bool = False,
    verify: bool = False,
) -> None:
    """Converts `sources` into `target`, and with `verify` compares the two; a target that exists is only verified.

    Args:
      sources: one of our model folders, or torch folders that make up one model.
      target: folder to make.
      to: "orbax" (our model folder), "llava" or "hf".
      template, scan, allow_pickle: see `to_ours.write_model_folder` and `reading.open_checkpoint`.
      step, dtype: see `to_torch.write_torch_folder`.
      verify: print the report of `verify.check`.

    Raises:
      ConversionError: something does not fit, or the report is past its tolerance.
    """
    if target is None:
        raise ConversionError("no --target given")
    if verify and to == "orbax" and any(_is_ours(source) for source in sources):
        raise ConversionError(
            "--verify compares with PyTorch, and neither side is: verify --source=TORCH_FOLDER instead"
        )
    if template:
        get_template(template)
    if not (verify and target.exists()):
        _convert(sources, target, to, template, scan, step, dtype, allow_pickle)
        LOG.info("wrote %s", target)
    if verify:
        from mmfuser_jax.convert.verify import check

        ours, torch = ([target], sources) if to == "orbax" else (sources, [target])
        check(Path(ours[0]), [str(folder) for folder in torch], allow_pickle=allow_pickle, step=step)


def _convert(
    sources: Sequence[str],
    target: Path,
    to: str,
    template: str,
    scan: bool,
    step: int | None,
    dtype: str,
    allow_pickle: bool,
) -> None:
    if any(_is_ours(source) for source in sources):
        if len(sources) > 1:
            raise ConversionError("a model folder of ours converts alone; give one --source")
        if to == "orbax":
            relayout(Path(sources[0]), target, scan=scan, step=step)
        else:
            write_torch_folder(Path(sources[0]), target, to, step=step, dtype=dtype)
        return
    checkpoint = open_checkpoint(sources, allow_pickle=allow_pickle)
    if to == "orbax":
        write_model_folder(checkpoint, target, template=template, scan=scan)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as between:
        write_model_folder(checkpoint, Path(between) / "model", template=template)
        write_torch_folder(Path(between) / "model", target, to, dtype=dtype)


def _is_ours(source: str) -> bool:
    return (Path(source) / model_folder.MODEL_FILE).exists()
