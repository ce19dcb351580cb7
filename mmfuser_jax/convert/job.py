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
    target, sources = target.expanduser(), [str(Path(source).expanduser()) for source in sources]
    ours = any(map(_is_ours, sources))
    _check_options(ours, len(sources), to, template=template, scan=scan, step=step, dtype=dtype, verify=verify)
    if not (verify and target.exists()):
        if ours:
            _from_ours(Path(sources[0]), target, to, scan, step, dtype)
        else:
            _from_torch(sources, target, to, template, scan, dtype, allow_pickle)
        LOG.info("wrote %s", target)
    if verify:
        from mmfuser_jax.convert.verify import check

        model, torch = (sources[0], [str(target)]) if ours else (str(target), sources)
        check(Path(model), torch, allow_pickle=allow_pickle, step=step)


def _check_options(
    ours: bool, sources: int, to: str, *, template: str, scan: bool, step: int | None, dtype: str, verify: bool
) -> None:
    """Refuses what would be ignored."""
    if template:
        get_template(template)
    problems = {
        "a model folder of ours converts alone; give one --source": ours and sources > 1,
        "--template is for PyTorch sources; a model folder of ours has its own": ours and template,
        "--step is for model folders of ours": not ours and step is not None,
        "--scan is for --to=orbax": scan and to != "orbax",
        "--dtype is for --to=llava and --to=hf": dtype and to == "orbax",
        "--verify compares PyTorch with ours: one of the two folders must be of either kind": verify
        and ours == (to == "orbax"),
    }
    for message, wrong in problems.items():
        if wrong:
            raise ConversionError(message)


def _from_ours(source: Path, target: Path, to: str, scan: bool, step: int | None, dtype: str) -> None:
    if to == "orbax":
        relayout(source, target, scan=scan, step=step)
    else:
        write_torch_folder(source, target, to, step=step, dtype=dtype)


def _from_torch(
    sources: Sequence[str], target: Path, to: str, template: str, scan: bool, dtype: str, allow_pickle: bool
) -> None:
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
