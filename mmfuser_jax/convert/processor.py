"""preprocessor_config.json (CLIP's and LLaVA's image processors) ↔ our picture format."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.convert.folders import read_json
from mmfuser_jax.data.images import ASPECTS
from mmfuser_jax.models import VlmConfig

FILE = "preprocessor_config.json"
WHOLE_FILE = "processor_config.json"
"""Where transformers ≥ 5 keeps the image processor too, as `image_processor`."""
PLACES = (FILE, f"clip/{FILE}", WHOLE_FILE)
"""Where a checkpoint folder may describe its image processor."""


def find(folders: Sequence[Path]) -> Path | None:
    """The first image processor's file in some checkpoint folders."""
    files = (folder / place for folder in folders for place in PLACES)
    return next((file for file in files if file.exists() and _fields(file)), None)


def read(folders: Sequence[Path]) -> dict[str, Any]:
    """What the first image processor's file in some checkpoint folders says; empty if there is none."""
    file = find(folders)
    return {} if file is None else _fields(file)


def _fields(file: Path) -> dict[str, Any]:
    fields = read_json(file)
    return fields.get("image_processor", {}) if file.name == WHOLE_FILE else fields


def with_statistics(config: VlmConfig, folders: Sequence[Path]) -> VlmConfig:
    """The config with the processor's pixel statistics, where a file gives them.

    Raises:
      ConversionError: the processor makes pictures of another size than the vision encoder takes.
    """
    file = find(folders)
    if file is None:
        return config
    try:
        fields = _fields(file)
        mean, std = (_channels(fields[name]) for name in ("image_mean", "image_std"))
        crop = fields.get("crop_size", config.vision.image_size)
        size = crop["height"] if isinstance(crop, dict) else crop
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{file}: not an image processor ({error})") from None
    if size != config.vision.image_size:
        raise ConversionError(f"{file}: makes pictures of {size} pixels, the encoder takes {config.vision.image_size}")
    return dataclasses.replace(config, image_mean=mean, image_std=std)


def _channels(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def aspect(fields: dict[str, Any], folder: Path) -> str:
    """How pictures are brought to size, from config.json (LLaVA) or the processor (`llava-hf`).

    Raises:
      ConversionError: a way that we do not know.
    """
    if fields.get("model_type") == "llava_next":
        return "anyres"
    if "text_config" in fields:
        return "pad" if read([folder]).get("do_pad") else "square"
    name = fields.get("image_aspect_ratio") or "square"
    if name not in ASPECTS:
        raise ConversionError(f"{folder / 'config.json'}: image_aspect_ratio {name!r} is not {', '.join(ASPECTS)}")
    return name


def processor_fields(config: VlmConfig, aspect: str = "square") -> dict[str, Any]:
    """preprocessor_config.json for a model of this shape: CLIP's processor, or LLaVA's that pads or cuts into tiles."""
    size = config.vision.image_size
    kind = {"pad": "LlavaImageProcessor", "anyres": "LlavaNextImageProcessor"}.get(aspect, "CLIPImageProcessor")
    fields: dict[str, Any] = {
        "image_processor_type": kind,
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": size},
    }
    if aspect in ("pad", "anyres"):
        fields["do_pad"] = True
    if aspect == "anyres":
        fields["image_grid_pinpoints"] = [list(pin)[::-1] for pin in config.grid_pinpoints]
    return fields


def whole_fields(config: VlmConfig, aspect: str) -> dict[str, Any]:
    """processor_config.json: how many `<image>` a picture needs. CLIP's class token counts, and "default" drops it."""
    return {
        "processor_class": "LlavaNextProcessor" if aspect == "anyres" else "LlavaProcessor",
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": config.vision.patch_size,
        "vision_feature_select_strategy": {"patch": "default", "cls_patch": "full"}[config.select_feature],
    }
