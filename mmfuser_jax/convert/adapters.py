"""PEFT's LoRA adapters: merged into the weights they change, or kept beside them; adapter_config.json ↔ `LoraConfig`."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import numpy as np

from mmfuser_jax.convert.errors import ConversionError, listed
from mmfuser_jax.convert.layouts import LORA
from mmfuser_jax.convert.source import Tensor, Tensors
from mmfuser_jax.convert.tables import ADAPTED, LLM_PREFIXES
from mmfuser_jax.models import LoraConfig
from mmfuser_jax.models.lora import TARGETS

PREFIX = "base_model.model."
"""What PEFT puts before the keys of the model that it wraps."""

CONFIG = "adapter_config.json"

_LLM = re.compile(rf"(?:{'|'.join(map(re.escape, LLM_PREFIXES))})(layers\.\d+\.(.+))")
"""A decoder layer's module, whatever model it is a part of."""


def split_lora(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """(adapter factors, other tensors with PEFT's `base_model.model.` taken off) of a LoRA folder."""
    factors = {key: tensor for key, tensor in tensors.items() if LORA.fullmatch(key)}
    rest = {key.removeprefix(PREFIX): tensors[key] for key in tensors.keys() - factors.keys()}
    return factors, rest


def adapter_fields(lora: LoraConfig, base: str) -> dict[str, Any]:
    """adapter_config.json of our adapters; `base` is what their base model is called, "" for no name."""
    alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [module.split(".")[-1] for module, name in ADAPTED.items() if name in lora.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }


def lora_config(factors: Tensors, adapter: dict[str, Any]) -> LoraConfig:
    """The adapters as a part of our model.

    Args:
      factors: PEFT adapter keys, A [r, in] and B [out, r].
      adapter: adapter_config.json.

    Raises:
      ConversionError: they are not plain LoRA, or on something else than the matrices of decoder layers.
    """
    _check_plain(adapter)
    found = {key: _LLM.fullmatch(match[1]) for key in factors if (match := LORA.fullmatch(key))}
    if odd := [key for key, match in found.items() if match is None or match[2] not in ADAPTED]:
        raise ConversionError(f"adapters outside the decoder layers can be merged, not kept: {listed(odd)}")
    rank = min(min(tensor.shape) for tensor in factors.values())
    modules = {match[2] for match in found.values() if match}
    targets = tuple(name for name in TARGETS if any(ADAPTED[module] == name for module in modules))
    return LoraConfig(rank, _scale(adapter, rank) * rank, float(adapter.get("lora_dropout") or 0.0), targets)


def kept_factors(factors: Tensors) -> Tensors:
    """Factors of decoder layers under the keys that a LLaMA's have, whatever model they were trained in."""
    kept = {}
    for key, tensor in factors.items():
        match = LORA.fullmatch(key)
        layer = _LLM.fullmatch(match[1]) if match else None
        if match and layer:
            kept[f"{PREFIX}model.{layer[1]}.lora_{match[2]}.weight"] = tensor
    return kept


def merge_lora(base: Tensors, llm: str, factors: Tensors, adapter: dict[str, Any]) -> Tensors:
    """`base` with every adapted weight W replaced by W + scale * B A (arXiv 2106.09685, equation 3), when read.

    Args:
      base: tensors by key, as in the adapter's base model.
      llm: what stands before the keys of its language model.
      factors: PEFT adapter keys, A [r, in] and B [out, r].
      adapter: adapter_config.json: `lora_alpha`, `r`, `use_rslora`.

    Raises:
      ConversionError: a factor without partner or base weight, wrong shapes, or an adapter that is not plain LoRA.
    """
    _check_plain(adapter)
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in factors.items():
        if match := LORA.fullmatch(key):
            layer = _LLM.fullmatch(match[1])  # the wrapped model may have named it otherwise than the file does
            module = match[1] if layer is None or f"{match[1]}.weight" in base else llm + layer[1]
            pairs.setdefault(f"{module}.weight", {})[match[2]] = tensor
    lonely = [key for key, pair in pairs.items() if pair.keys() != {"A", "B"} or key not in base]
    if lonely:
        raise ConversionError(f"LoRA factors without partner or base weight: {listed(lonely)}")
    merged = dict(base)
    for key, pair in pairs.items():
        weight, down, up = base[key], pair["A"], pair["B"]
        flat = any(len(factor.shape) != 2 or 0 in factor.shape for factor in (up, down))
        if flat or (up.shape[0], down.shape[1]) != weight.shape or up.shape[1] != down.shape[0]:
            raise ConversionError(f"{key}: LoRA B {up.shape} times A {down.shape} does not fit weight {weight.shape}")
        read = functools.partial(_read_merged, weight, down, up, _scale(adapter, down.shape[0]))
        merged[key] = dataclasses.replace(weight, read=read)
    return merged


def _read_merged(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> np.ndarray:
    # float32, rounded once: adding in 16 bits would round twice.
    change = up.read().astype(np.float32) @ down.read().astype(np.float32)
    return (weight.read().astype(np.float32) + np.float32(scale) * change).astype(weight.dtype)


def _check_plain(adapter: dict[str, Any]) -> None:
    if not isinstance(alpha := adapter.get("lora_alpha"), int | float):
        raise ConversionError(f"{CONFIG}: lora_alpha {alpha!r} is not a number")
    odd = [name for name in ("use_dora", "fan_in_fan_out", "alpha_pattern", "rank_pattern") if adapter.get(name)]
    if odd or adapter.get("peft_type", "LORA") != "LORA":
        raise ConversionError(f"{CONFIG}: only plain LoRA is supported; this one has {listed(odd or ['peft_type'])}")


def _scale(adapter: dict[str, Any], rank: int) -> float:
    """What B A is multiplied with."""
    return adapter["lora_alpha"] / (rank**0.5 if adapter.get("use_rslora") else rank)
