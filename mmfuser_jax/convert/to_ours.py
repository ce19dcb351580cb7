"""Torch → ours: a checkpoint streamed into a model folder, or straight onto devices."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from mmfuser_jax import files, layout, model_folder
from mmfuser_jax.checkpoint import ParamsWriter, StoredParams
from mmfuser_jax.convert import processor
from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.convert.merging import MergedParams
from mmfuser_jax.convert.progress import byte_bar
from mmfuser_jax.convert.reading import TorchCheckpoint
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import boxed_params
from mmfuser_jax.train.optim import flatten, unflatten

LOG = logging.getLogger(__name__)

TORCH = "torch"
"""Folder of what PyTorch's side has and we do not use: its config files, and tensors no output depends on."""

UNUSED = "unused.safetensors"
CHECKSUMS = "checksums.json"

CARRIED = (
    "config.json",
    "generation_config.json",
    "clip/config.json",
    f"clip/{processor.FILE}",
    processor.FILE,
    processor.WHOLE_FILE,
    "chat_template.json",
    "chat_template.jinja",
)
"""Config files that travel along word for word, so that the way back gives them as they were."""


def write_model_folder(checkpoint: TorchCheckpoint, target: Path, *, template: str, scan: bool = False) -> None:
    """Writes a model folder with the checkpoint's parameters as step 0; it appears whole or not at all.

    Holds a few hundred MB at a time (with `scan`, one stacked parameter).

    Args:
      checkpoint: whole, or some parts to start training from.
      target: folder to make.
      template: conversation template to remember.
      scan: stack equal layers, the layout that compiles fast.

    Raises:
      ConversionError: `target` exists, or the source is damaged.
    """
    card = checkpoint.card(template)
    card = dataclasses.replace(card, config=model_folder.with_layout(card.config, scan))
    with whole_folder(target) as draft:
        shapes = _stacked(checkpoint) if scan else checkpoint.shapes
        checksums: dict[str, str] = {}
        with (
            ParamsWriter(draft / model_folder.CHECKPOINTS) as writer,
            byte_bar("converting", _bytes(checkpoint)) as bar,
        ):
            for path, array in checkpoint.stream(shapes, checksums):
                writer.add(path, array)
                bar(array.nbytes)
        files.write_text(draft / CHECKSUMS, json.dumps(checksums, indent=0, sort_keys=True) + "\n")
        model_folder.write_card(draft, card)
        _carry(checkpoint, draft)


def relayout(folder: Path, target: Path, *, scan: bool, step: int | None = None, merge: bool = False) -> None:
    """Writes one checkpoint of a model folder into a new one, with equal layers stacked or not.

    With `merge`, adapters are merged into the kernels, and quantised kernels become numbers.

    Raises:
      ConversionError: `target` exists.
      ModelFolderError, CheckpointError: `folder` is no model, or has no such step.
    """
    card = model_folder.read_card(folder)
    as_it_is = StoredParams(folder / model_folder.CHECKPOINTS, step)
    stored = MergedParams(as_it_is, card.config) if merge else as_it_is
    if merge:
        card = dataclasses.replace(card, config=dataclasses.replace(card.config, llm=card.config.llm.merged))
    card = dataclasses.replace(card, config=model_folder.with_layout(card.config, scan))
    wanted = {path: leaf.unbox() for path, leaf in flatten(boxed_params(VLM(card.config))).items()}
    with whole_folder(target) as draft:
        with ParamsWriter(draft / model_folder.CHECKPOINTS, stored.step) as writer:
            found = {path: layout.sources(path, leaf.shape, stored.shapes) for path, leaf in wanted.items()}
            arrays: dict[str, np.ndarray] = {}
            for path, sources in sorted(found.items(), key=lambda item: item[1][0][0]):
                if arrays.keys() != {source for source, _ in sources}:  # all layers of a stack are taken out at once
                    arrays = {}
                    arrays = stored.read({source for source, _ in sources})
                writer.add(path, np.array(layout.assemble(arrays, sources)))
        model_folder.write_card(draft, card)
        for name in (model_folder.TOKENIZER, TORCH):
            if (folder / name).is_dir():
                shutil.copytree(folder / name, draft / name)
        if (folder / CHECKSUMS).exists() and not merge:
            shutil.copyfile(folder / CHECKSUMS, draft / CHECKSUMS)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill beside `target`, which it becomes when the block ends without an error, and else vanishes.

    Raises:
      ConversionError: `target` exists already.
    """
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise ConversionError(f"{target}: exists already; choose another --target or delete it")
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    draft.mkdir(parents=True)
    try:
        yield draft
        if target.exists():
            target.rmdir()
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def place_params(checkpoint: TorchCheckpoint, shapes: Any) -> Any:
    """Parameters read tensor by tensor onto the devices of abstract `shapes` (a tree with shardings), in stored dtypes."""
    flat = flatten(shapes)
    placed = {}
    with byte_bar("loading", _bytes(checkpoint)) as bar:
        for path, array in checkpoint.stream({path: x.shape for path, x in flat.items()}):
            placed[path] = jax.device_put(array, flat[path].sharding)
            bar(array.nbytes)
    return unflatten(placed)


def _bytes(checkpoint: TorchCheckpoint) -> int:
    return sum(matched.tensor.nbytes for matched in checkpoint.params.values())


def _stacked(checkpoint: TorchCheckpoint) -> dict[str, tuple[int, ...]]:
    """Shapes with equal layers stacked."""
    stacked: dict[str, tuple[int, ...]] = {}
    for path, shape in checkpoint.shapes.items():
        depth, name = layout.stacked(path)
        stacked[name] = shape if depth is None else (max(depth + 1, stacked.get(name, (0,))[0]), *shape)
    return stacked


def _carry(checkpoint: TorchCheckpoint, draft: Path) -> None:
    """Tokenizer, config files and unused tensors."""
    if checkpoint.tokenizer is not None:
        model_folder.copy_tokenizer(checkpoint.tokenizer, draft)
    else:
        LOG.warning("no tokenizer beside the weights: the model folder works on token ids only")
    torch = draft / TORCH
    (torch / "clip").mkdir(parents=True)
    for folder in checkpoint.folders:
        inside = "clip/" if folder.prefixes.parts == ("vision_encoder",) else ""
        for name in CARRIED:
            if (folder.path / name).exists() and not (torch / inside / name).exists():
                shutil.copyfile(folder.path / name, torch / inside / name)
    save_file({home: tensor.read() for home, tensor in checkpoint.unused.items()}, torch / UNUSED)
