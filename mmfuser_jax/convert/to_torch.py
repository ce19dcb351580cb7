"""Ours → torch: a model folder as LLaVA/MMFuser or `llava-hf` safetensors, bit for bit, with config and tokenizer."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open

from mmfuser_jax import layout, model_folder
from mmfuser_jax.checkpoint import StoredParams
from mmfuser_jax.convert import configs, processor, vocabulary
from mmfuser_jax.convert.errors import ConversionError, listed
from mmfuser_jax.convert.folders import read_json
from mmfuser_jax.convert.layouts import hf_prefixes, llava_prefixes
from mmfuser_jax.convert.merging import MergedParams
from mmfuser_jax.convert.reading import TEMPLATE_FIELD, digest
from mmfuser_jax.convert.shards import Entry, write_json, write_shards
from mmfuser_jax.convert.tables import (
    VISION_NEVER_READ,
    Prefixes,
    Target,
    key_table,
    patch_shape,
    to_torch,
    torch_shape,
)
from mmfuser_jax.convert.to_ours import CHECKSUMS, TORCH, UNUSED, whole_folder
from mmfuser_jax.models import ClipVitConfig, VlmConfig

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

TEXT_FIELDS = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
"""Fields that describe a language model's use rather than its shape; vLLM takes its context length from the first."""

PER_RUN = {"image_aspect_ratio": "square", "mm_use_im_start_end": False}
"""Fields of LLaVA's config.json that say how pictures go in, and what their absence means."""

LAYOUTS: dict[str, Callable[[VlmConfig], Prefixes]] = {"llava": llava_prefixes, "hf": hf_prefixes}
"""What can be written, by name."""


class Exporter:
    """A model folder seen as torch tensors.

    Attributes:
      config: shape of the model, as one without adapters and with kernels in numbers.
      stored: its parameters.
      original: config.json that the model came with; empty for one that never was in torch.
    """

    def __init__(self, folder: Path, step: int | None = None, dtype: str = "", *, merge: bool = True) -> None:
        """Opens a model folder.

        Args:
          folder: model folder.
          step: which checkpoint; None for the newest.
          dtype: turns all floating point tensors into it, "" leaves them as stored.
          merge: merge adapters into kernels in numbers; without, there are only the adapters and what needs no merging.

        Raises:
          ModelFolderError, CheckpointError, ConversionError: no model folder, not a whole model, unknown dtype.
        """
        if dtype and dtype not in DTYPES:
            raise ConversionError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self.card = model_folder.read_card(folder)
        self.config = dataclasses.replace(self.card.config, llm=self.card.config.llm.merged)
        stored = StoredParams(folder / model_folder.CHECKPOINTS, step)
        merged = MergedParams(stored, self.card.config)
        self.stored = merged if merge else stored
        self._made = merged.made
        self._dtype = np.dtype(DTYPES[dtype]) if dtype else None
        self._unused = folder / TORCH / UNUSED
        self.original = read_json(folder / TORCH / "config.json")
        self._last: tuple[str, np.ndarray] = ("", np.empty(0))
        self._checksums = read_json(folder / CHECKSUMS) if self.stored.step == 0 else {}

    @property
    def rounds(self) -> bool:
        """Whether tensors are written in another dtype than the one stored."""
        return self._dtype is not None

    @property
    def dtype(self) -> str:
        """Name of the tensors' dtype."""
        return str(self._dtype or next(iter(self.stored.shapes.values())).dtype)

    def entries(self, prefixes: Prefixes, wanted: Callable[[Target], bool] = lambda _: True) -> dict[str, Entry]:
        """Every tensor of a layout by key; of those only the `wanted`.

        Raises:
          ConversionError: the checkpoint lacks some.
        """
        entries: dict[str, Entry] = {}
        missing = []
        kept = self._kept
        for key, target in key_table(self.card.config, prefixes).items():
            if not wanted(target):
                continue
            entry = self._param(target) or kept.get(target.home) or self._neutral(target, bool(kept))
            if entry is not None:
                entries[key] = entry
            elif target.path is not None:
                missing.append(key)
        if missing:
            raise ConversionError(f"the checkpoint lacks {listed(missing)}")
        return entries

    def _param(self, target: Target) -> Entry | None:
        """A tensor made of one of our parameters."""
        found = layout.sources(target.path, (), self.stored.shapes) if target.path else ()
        if not found:
            return None
        ours = layout.assembled_shape(self.stored.shapes, found)
        shape = torch_shape(ours, target.kind, patch_shape(self.config))
        dtype = self._dtype or np.dtype(self.stored.shapes[found[0][0]].dtype)

        def make() -> np.ndarray:
            arrays = {path: self._read(path) for path, _ in found}
            tensor = to_torch(layout.assemble(arrays, found), target.kind, shape)
            known = None if found[0][0] in self._made else self._checksums.get(target.home)
            if known is not None and known != digest(tensor):
                raise ConversionError(f"{target.path}: damaged on disk (its checksum is not the one it was saved with)")
            return tensor.astype(dtype, copy=False)

        return Entry(shape, dtype, make)

    def _read(self, path: str) -> np.ndarray:
        """One parameter; the last one is kept, because the layers of a stacked one are asked for in turn."""
        if self._last[0] != path:
            self._last = ("", np.empty(0))  # let go of it before the next is read
            self._last = (path, self.stored.read([path])[path])
        return self._last[1]

    @functools.cached_property
    def _kept(self) -> dict[str, Entry]:
        """Tensors that came along unused."""
        if not self._unused.exists():
            return {}
        with safe_open(self._unused, "np") as opened:
            kept = {home: opened.get_tensor(home) for home in opened.keys()}  # noqa: SIM118 (not a mapping)
        kept = {
            home: x.astype(self._dtype if self._dtype and x.dtype.kind in "fV" else x.dtype, copy=False)
            for home, x in kept.items()
        }
        return {home: Entry(x.shape, x.dtype, functools.partial(np.asarray, x)) for home, x in kept.items()}

    def _neutral(self, target: Target, came_from_torch: bool) -> Entry | None:
        """What a model that never was in torch lacks: the last vision layers and norm, which no output depends on.

        A block of zeros hands its input on, so that whoever does read them gets the last hidden state there is.
        """
        if came_from_torch or not target.home.startswith("vision_encoder:") or target.home.endswith("position_ids"):
            return None
        example = self.config.vision
        width, wide = example.width, example.mlp_width
        name = target.home.removeprefix("vision_encoder:")
        matrix = {"fc1.weight": (wide, width), "fc2.weight": (width, wide), "fc1.bias": (wide,)}
        attention = (width, width) if "_proj.weight" in name else (width,)
        shape = next((shape for end, shape in matrix.items() if name.endswith(end)), attention)
        is_scale = name.endswith(("layer_norm1.weight", "layer_norm2.weight", VISION_NEVER_READ[0]))
        dtype = self._dtype or np.dtype(np.float32)
        return Entry(shape, dtype, lambda: np.full(shape, float(is_scale), dtype))


def write_torch_folder(folder: Path, target: Path, to: str, *, step: int | None = None, dtype: str = "") -> None:
    """Writes a model folder as a torch checkpoint; it appears whole or not at all.

    Args:
      folder: model folder.
      target: folder to make.
      to: "llava" (LLaVA's and MMFuser's own layout) or "hf" (`llava-hf`, models without a fuser only).
      step: which checkpoint; None for the newest.
      dtype: of the tensors; "" as stored.

    Raises:
      ConversionError: `target` exists, damaged data, or a model that the layout has no place for.
    """
    exporter = Exporter(folder, step, dtype)
    prefixes = LAYOUTS[to](exporter.config)
    entries = exporter.entries(prefixes)
    with whole_folder(target) as draft:
        copy_texts(folder, draft)
        if to == "hf":
            entries, token = vocabulary.with_image_token(
                entries, prefixes, exporter.config, draft, _original(exporter, "hf")
            )
            rows = entries[f"{prefixes.llm}embed_tokens.weight"].shape[0]
            config = dataclasses.replace(exporter.config, llm=dataclasses.replace(exporter.config.llm, vocab_size=rows))
            write_config(draft, exporter, configs.hf_fields(config, token), config)
            _write_hf_processor(draft, folder, exporter)
        else:
            made = configs.llava_fields(exporter.config, exporter.card.aspect, exporter.card.im_start_end)
            write_config(draft, exporter, made)
            _write_clip_folder(folder, draft / "clip", exporter)
        write_shards(entries, draft)


def copy_texts(folder: Path, draft: Path) -> None:
    """Tokenizer, generation settings and chat template."""
    tokenizer = folder / model_folder.TOKENIZER
    if tokenizer.is_dir():
        shutil.copytree(tokenizer, draft, dirs_exist_ok=True)
    for name in ("generation_config.json", "chat_template.json", "chat_template.jinja"):
        if (folder / TORCH / name).exists():
            shutil.copyfile(folder / TORCH / name, draft / name)
    if not (draft / "generation_config.json").exists():
        write_json(draft / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})


def _original(exporter: Exporter, to: str) -> dict[str, Any]:
    """config.json that the model came with, if it is of the layout `to`; else empty."""
    return exporter.original if configs.is_hf(exporter.original) == (to == "hf") else {}


def write_config(draft: Path, exporter: Exporter, made: dict[str, Any], config: VlmConfig | None = None) -> None:
    """config.json: the original word for word where it still describes the model, else `made` around it.

    Args:
      draft: folder to write it into.
      exporter: the model.
      made: fields that describe it.
      config: its shape as written, where that differs from the exporter's.
    """
    config = config or exporter.config
    before = _original(exporter, "hf" if configs.is_hf(made) else "llava")
    made |= {"torch_dtype": exporter.dtype, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    said = exporter.original.get("text_config", exporter.original)  # in whichever layout it came
    made.get("text_config", made).update({name: said[name] for name in TEXT_FIELDS if name in said})
    fields = {**before} if before and _describes(before, config) else {**before, **made}
    for name, usual in PER_RUN.items():  # training may have changed these and left the shape alone
        if name in made and made[name] != (fields.get(name) or usual):
            fields[name] = made[name]
    for name in ("torch_dtype", "dtype"):
        if name in fields and exporter.rounds:
            fields[name] = exporter.dtype
    fields[TEMPLATE_FIELD] = exporter.card.template
    write_json(draft / "config.json", fields)


def _describes(fields: dict[str, Any], config: VlmConfig) -> bool:
    """Whether a config.json, read back, gives this very model."""
    try:
        read = configs.vlm_config(
            fields, config.vision, config.fuser is not None, config.projector.depth, "config.json"
        )
    except ConversionError:
        return False
    read = dataclasses.replace(read, image_mean=config.image_mean, image_std=config.image_std)
    same = model_folder.with_layout(read, scan=False) == model_folder.with_layout(config, scan=False)
    return same and (not configs.is_hf(fields) or _is_tower(configs.vision_config(fields), config))


def _is_tower(vision: ClipVitConfig, config: VlmConfig) -> bool:
    return dataclasses.replace(vision, scan_layers=config.vision.scan_layers) == config.vision


def _write_clip_folder(folder: Path, draft: Path, exporter: Exporter) -> None:
    """The vision tower as a folder of its own: LLaVA's code loads it from one, by path or hub id, not from the model."""
    draft.mkdir()
    vision = exporter.config.vision
    before = read_json(folder / TORCH / "clip" / "config.json")
    same = before and _is_tower(configs.vision_config(before), exporter.config)
    made = {"architectures": ["CLIPVisionModel"], **configs.vision_fields(vision)}
    write_json(draft / "config.json", before if same else made)
    write_processor(folder, draft, exporter)
    write_shards(exporter.entries(Prefixes(vision="vision_model.")), draft)


def write_processor(folder: Path, draft: Path, exporter: Exporter) -> None:
    """The image processor it came with, or one made from the pixel statistics."""
    original = processor.find([folder / TORCH])
    if original is not None:
        shutil.copyfile(original, draft / processor.FILE)
    else:
        write_json(draft / processor.FILE, processor.processor_fields(exporter.config))


def _write_hf_processor(draft: Path, folder: Path, exporter: Exporter) -> None:
    """What `AutoProcessor` needs besides a tokenizer: the files it came with, or made to prepare pictures as we do."""
    config, aspect = exporter.config, exporter.card.aspect
    came_with = processor.read([folder / TORCH, draft]) if _original(exporter, "hf") else {}
    write_json(draft / processor.FILE, came_with or processor.processor_fields(config, aspect))
    if not (draft / processor.WHOLE_FILE).exists():
        write_json(draft / processor.WHOLE_FILE, processor.whole_fields(config, aspect))
