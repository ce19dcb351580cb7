"""Vision-language models with MMFuser in JAX: train, evaluate, ask.

    import mmfuser_jax as mm
    vlm = mm.load("runs/demo")
    vlm.generate(["what color is the shape?"], [image], max_new_tokens=8)

Names are imported when first used, so that data-loader workers that need only `mmfuser_jax.data` stay light.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {"load": "mmfuser_jax.facade", "VisionLanguageModel": "mmfuser_jax.facade"}
_SUBPACKAGES = ("data", "evaluate", "generate", "jobs", "models", "ops", "presets", "sharding", "train", "types")


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"mmfuser_jax.{name}")
    raise AttributeError(f"module 'mmfuser_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS, *_SUBPACKAGES])
