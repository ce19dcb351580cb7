"""Torch checkpoints on disk as one mapping from key to tensor, read one tensor at a time and never executed."""

from __future__ import annotations

import dataclasses
import functools
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from mmfuser_jax.convert.errors import ConversionError, listed

SAFETENSORS_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip

TORCH_DTYPES = {
    "torch.float64": np.float64, "torch.float32": np.float32, "torch.float16": np.float16,
    "torch.bfloat16": ml_dtypes.bfloat16, "torch.int64": np.int64, "torch.int32": np.int32, "torch.int16": np.int16,
    "torch.int8": np.int8, "torch.uint8": np.uint8, "torch.bool": np.bool_,
}  # fmt: skip

WEIGHT_FILES = ("model", "pytorch_model", "adapter_model", "non_lora_trainables", "mm_projector")
"""Names a checkpoint's weights go by, without shard number and ending."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor on disk: shape, dtype, and how to read it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


Tensors = dict[str, Tensor]


def open_folder(folder: Path, allow_pickle: bool = False) -> Tensors:
    """All tensors of a checkpoint folder (or of one weight file) by key; only headers are read.

    Args:
      folder: with safetensors (one file, or shards and an index), or `.bin` pickles.
      allow_pickle: read `.bin` files, with torch's restricted unpickler (`weights_only=True`).

    Raises:
      ConversionError: no weights, a damaged file, a shard missing or outside the folder, a key twice, or a pickle that
        was not allowed.
    """
    tensors: Tensors = {}
    for file in weight_files(folder, allow_pickle):
        opened = _open_safetensors(file) if file.suffix == ".safetensors" else _open_pickle(file)
        twice = tensors.keys() & opened.keys()
        if twice:
            raise ConversionError(f"{file}: has tensors that another file has too: {listed(twice)}")
        tensors.update(opened)
    return tensors


def has_weights(folder: Path) -> bool:
    """Whether a folder (or file) looks like a torch checkpoint at all."""
    return folder.is_file() or any(any(folder.glob(f"*{ending}")) for ending in (".safetensors", ".bin"))


def weight_files(folder: Path, allow_pickle: bool) -> list[Path]:
    """Weight files of a folder: safetensors where there are any, else pickles where they are allowed.

    Raises:
      ConversionError: see `open_folder`.
    """
    if folder.is_file():
        files = [folder]
    elif folder.is_dir():
        files = _listed_in_index(folder) or _by_name(folder)
    else:
        raise ConversionError(f"{folder}: no such folder")
    if not files:
        raise ConversionError(f"{folder}: no weights here (expected model.safetensors, shards with an index, or .bin)")
    pickles = [file.name for file in files if file.suffix != ".safetensors"]
    if pickles and not allow_pickle:
        raise ConversionError(
            f"{folder}: {listed(pickles)} are pickles, which can run code when loaded; pass --allow_pickle if you trust "
            "whoever made them"
        )
    return files


def _listed_in_index(folder: Path) -> list[Path]:
    """Shards named by an index file, each checked to exist in the folder itself."""
    for name, whole in (("model.safetensors.index.json", ""), ("pytorch_model.bin.index.json", "model.safetensors")):
        index = folder / name
        if index.exists() and not (whole and (folder / whole).exists()):
            try:
                shards = set(json.loads(index.read_text())["weight_map"].values())
            except (ValueError, KeyError, AttributeError, TypeError):
                raise ConversionError(f"{index}: not an index of shards (no weight_map)") from None
            outside = [shard for shard in shards if not isinstance(shard, str) or Path(shard).name != shard]
            if outside:
                raise ConversionError(f"{index}: shards must lie beside the index, not at {listed(map(str, outside))}")
            missing = [shard for shard in shards if not (folder / shard).exists()]
            if missing:
                raise ConversionError(f"{folder}: shards missing: {listed(missing)}")
            return [folder / shard for shard in sorted(shards)]
    return []


def _by_name(folder: Path) -> list[Path]:
    """Files of a known name; where one exists as safetensors and as a pickle, the former."""
    found: dict[str, Path] = {}
    for ending in (".safetensors", ".bin"):
        for file in sorted(folder.glob(f"*{ending}")):
            if file.stem.split("-0")[0] in WEIGHT_FILES:
                found.setdefault(file.stem.replace("pytorch_model", "model"), file)
    full = {stem: file for stem, file in found.items() if stem != "mm_projector"}
    return list((full or found).values())  # a full model's folder may keep the projector a second time


def _open_safetensors(file: Path) -> Tensors:
    try:
        with safe_open(file, "np") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (not a mapping)
            heads = {key: (tuple(piece.get_shape()), piece.get_dtype()) for key, piece in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"{file}: not a whole safetensors file ({error})") from None
    strange = [f"{key} ({dtype})" for key, (_, dtype) in heads.items() if dtype not in SAFETENSORS_DTYPES]
    if strange:
        raise ConversionError(f"{file}: quantised or unknown dtypes: {listed(strange)}")
    return {
        key: Tensor(shape, np.dtype(SAFETENSORS_DTYPES[dtype]), functools.partial(_read_safetensors, file, key))
        for key, (shape, dtype) in heads.items()
    }


def _read_safetensors(file: Path, key: str) -> np.ndarray:
    # Opened anew for every tensor: the pages of a mapping that stays open count as resident memory.
    with safe_open(file, "np") as opened:
        return opened.get_tensor(key)


def _open_pickle(file: Path) -> Tensors:
    state = _load_pickle(file)
    tensors = {}
    for key, value in state.items():
        kind = np.dtype(TORCH_DTYPES[str(value.dtype)])
        tensors[key] = Tensor(tuple(value.shape), kind, functools.partial(_read_pickle, file, key))
    return tensors


def _read_pickle(file: Path, key: str) -> np.ndarray:
    import torch

    value = _load_pickle(file)[key].detach().contiguous()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return value.numpy().copy()


def _load_pickle(file: Path) -> dict[str, Any]:
    """The state dict of a `.bin` file; zip files stay on disk and only the tensors used are read."""
    try:
        import torch
    except ModuleNotFoundError:
        raise ConversionError(f"{file}: reading pickles needs PyTorch: pip install 'mmfuser-jax[convert]'") from None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch raises whatever the pickle's bytes lead to
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(f"{file}: refused, not plain tensors ({reason[:200]})") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConversionError(f"{file}: not a state dict of tensors")
    odd = [
        str(key)
        for key, value in state.items()
        if not isinstance(key, str) or value.layout != torch.strided or str(value.dtype) not in TORCH_DTYPES
    ]
    if odd:
        raise ConversionError(f"{file}: no plain tensors under names: {listed(odd)}")
    return state
