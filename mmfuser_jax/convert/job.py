"""The conversion job: which way to go, then the report where asked."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmfuser_jax import model_folder
from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.convert.reading import TorchCheckpoint, open_checkpoint
from mmfuser_jax.convert.to_ours import relayout, write_model_folder
from mmfuser_jax.convert.to_peft import write_adapter_folder
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
    adapters: str = "",
    base: str = "",
    allow_pickle: bool = False,
    verify: bool = False,
) -> None:
    """Converts `sources` into `target`, and with `verify` compares the two; a target that exists is only verified.

    Args:
      sources: one of our model folders, or torch folders that make up one model.
      target: folder to make.
      to: "orbax" (our model folder), "llava", "hf" or "peft" (the adapters of a model folder of ours).
      template, scan, allow_pickle: see `to_ours.write_model_folder` and `reading.open_checkpoint`.
      step, dtype: see `to_torch.write_torch_folder`.
      adapters: what "orbax" does with LoRA adapters: "merge" or "keep"; "" merges PyTorch's and keeps ours.
      base: see `to_peft.write_adapter_folder`.
      verify: print the report of `verify.check`.

    Raises:
      ConversionError: something does not fit, or the report is past its tolerance.
    """
    if target is None:
        raise ConversionError("no --target given")
    target, sources = target.expanduser(), [str(Path(source).expanduser()) for source in sources]
    ours = any(map(_is_ours, sources))
    if template:
        get_template(template)
    refuse = {
        "a model folder of ours converts alone; give one --source": ours and len(sources) > 1,
        "--template is for PyTorch sources; a model folder of ours has its own": ours and template,
        "--step is for model folders of ours": not ours and step is not None,
        "--scan is for --to=orbax": scan and to != "orbax",
        "--dtype is for --to=llava, --to=hf and --to=peft": dtype and to == "orbax",
        "--to=peft is for model folders of ours": to == "peft" and not ours,
        "--base is for --to=peft": base and to != "peft",
        "--adapters is for --to=orbax; other layouts have them merged, or nothing else": adapters and to != "orbax",
        "--verify compares whole models; put the adapters and their base together again first": verify and to == "peft",
        "--verify compares PyTorch with ours: one of the two folders must be of either kind": verify
        and ours == (to == "orbax"),
    }
    if problem := next((message for message, wrong in refuse.items() if wrong), None):
        raise ConversionError(problem)
    if not (verify and target.exists()):
        if not ours:
            checkpoint = open_checkpoint(sources, allow_pickle=allow_pickle, keep_adapters=adapters == "keep")
            _from_torch(checkpoint, target, to, template, scan, dtype)
        elif to == "orbax":
            relayout(Path(sources[0]), target, scan=scan, step=step, merge=adapters == "merge")
        elif to == "peft":
            write_adapter_folder(Path(sources[0]), target, base=base, step=step, dtype=dtype)
        else:
            write_torch_folder(Path(sources[0]), target, to, step=step, dtype=dtype)
        LOG.info("wrote %s", target)
    if verify:
        from mmfuser_jax.convert.verify import check

        model, torch = (sources[0], [str(target)]) if ours else (str(target), sources)
        check(Path(model), torch, allow_pickle=allow_pickle, step=step)


def _from_torch(checkpoint: TorchCheckpoint, target: Path, to: str, template: str, scan: bool, dtype: str) -> None:
    if to == "orbax":
        write_model_folder(checkpoint, target, template=template, scan=scan)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as between:
        write_model_folder(checkpoint, Path(between) / "model", template=template)
        write_torch_folder(Path(between) / "model", target, to, dtype=dtype)


def _is_ours(source: str) -> bool:
    return (Path(source) / model_folder.MODEL_FILE).exists()
