"""Hugging Face and LLaVA config.json ↔ our `VlmConfig`, both ways; a setting we cannot honour is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.models import ClipVitConfig, FuserConfig, LlamaConfig, ProjectorConfig, VlmConfig
from mmfuser_jax.models.llama import RopeScaling

Json = dict[str, Any]

LLAVA_TYPES = ("llava", "llava_llama", "llava_mistral")  # the first: liuhaotian/llava-v1.5-* as first published
LLM_TYPES = ("llama", "mistral", *LLAVA_TYPES)

LLAMA_DEFAULTS: Json = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
}  # fmt: skip
"""What Hugging Face's LlamaConfig takes where a config.json is silent (the llava-hf folders leave out most of it)."""

FUSER_SHAPE = {"mm_fuser_levels": 4, "mm_fuser_heads": 16, "mm_fuser_points": 4}
"""What MMFuser's code fixes, under the names of our own config.json fields."""

MISTRAL_DEFAULTS: Json = {
    **LLAMA_DEFAULTS,
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}

CLIP_DEFAULTS: Json = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
"""What Hugging Face's CLIPVisionConfig takes where a config.json is silent."""


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Whatever a broken config.json leads to (text for a number, a zero, a missing field) becomes one line naming it."""
    try:
        yield
    except ConversionError:
        raise
    except (KeyError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
        raise ConversionError(
            f"{where}: not a usable config ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from None


def _need(fields: Mapping[str, Any], name: str, allowed: tuple[Any, ...], default: Any, where: str) -> None:
    value = fields.get(name, default)
    if value not in allowed:
        raise ConversionError(f"{where}: {name}={value!r} is not supported (only {', '.join(map(repr, allowed))})")


def llm_config(fields: Mapping[str, Any], where: str = "config.json") -> LlamaConfig:
    """The language model of a LLaMA, Vicuna, Mistral or LLaVA config.json.

    Raises:
      ConversionError: another architecture, or a variant that computes something else.
    """
    with _reading(where):
        return _llm_config(fields, where)


def _llm_config(fields: Mapping[str, Any], where: str) -> LlamaConfig:
    kind = fields.get("model_type", "llama")
    if kind not in LLM_TYPES:
        raise ConversionError(f"{where}: model_type {kind!r} is no LLaMA, Vicuna or Mistral")
    mistral = kind.endswith("mistral")
    full = {**(MISTRAL_DEFAULTS if mistral else LLAMA_DEFAULTS), **fields}
    _need(full, "hidden_act", ("silu",), "silu", where)
    for flag in ("attention_bias", "mlp_bias"):
        _need(full, flag, (False,), False, where)
    rope = full.get("rope_parameters") or {}  # transformers ≥ 5 keeps both there
    return LlamaConfig(
        vocab_size=full["vocab_size"],
        width=full["hidden_size"],
        depth=full["num_hidden_layers"],
        heads=full["num_attention_heads"],
        kv_heads=full.get("num_key_value_heads") or full["num_attention_heads"],
        mlp_width=full["intermediate_size"],
        head_width=full.get("head_dim") or 0,
        norm_epsilon=float(full["rms_norm_eps"]),
        rope_theta=float(rope.get("rope_theta", full["rope_theta"])),
        rope_scaling=_rope_scaling(full.get("rope_scaling") or rope, where),
        sliding_window=(full.get("sliding_window") or 0) if mistral else 0,
        tied_head=bool(full.get("tie_word_embeddings", False)),
    )


def _rope_scaling(fields: Mapping[str, Any], where: str) -> RopeScaling | None:
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind, float(fields["factor"]))
    if kind == "llama3":
        return RopeScaling(
            kind,
            float(fields["factor"]),
            float(fields["low_freq_factor"]),
            float(fields["high_freq_factor"]),
            int(fields["original_max_position_embeddings"]),
        )
    raise ConversionError(f"{where}: rope scaling {kind!r} is not supported (only linear and llama3)")


def vision_config(fields: Mapping[str, Any], where: str = "config.json") -> ClipVitConfig:
    """The vision encoder of a CLIP, CLIP vision or `llava-hf` config.json.

    Raises:
      ConversionError: another architecture.
    """
    with _reading(where):
        return _vision_config(fields.get("vision_config", fields), where)


def _vision_config(fields: Mapping[str, Any], where: str) -> ClipVitConfig:
    _need(fields, "model_type", ("clip_vision_model", "clip"), "clip_vision_model", where)
    full = {**CLIP_DEFAULTS, **fields}
    _need(full, "hidden_act", ("quick_gelu",), "quick_gelu", where)
    _need(full, "num_channels", (3,), 3, where)
    return ClipVitConfig(
        width=full["hidden_size"],
        depth=full["num_hidden_layers"],
        heads=full["num_attention_heads"],
        mlp_width=full["intermediate_size"],
        image_size=full["image_size"],
        patch_size=full["patch_size"],
        norm_epsilon=float(full["layer_norm_eps"]),
    )


def is_hf(fields: Mapping[str, Any]) -> bool:
    """Whether a config.json is of the `llava-hf` kind, with its parts' configs inside."""
    return "text_config" in fields and "vision_config" in fields


def vlm_config(fields: Mapping[str, Any], vision: ClipVitConfig, fuser: bool, projector: int, where: str) -> VlmConfig:
    """The whole model.

    Args:
      fields: config.json of a LLaVA, MMFuser or `llava-hf` model.
      vision: its vision encoder, which LLaVA keeps in a folder of its own.
      fuser: whether the checkpoint has a fuser.
      projector: dense layers of its projector.
      where: names the file in errors.

    Raises:
      ConversionError: a setting that we cannot honour, or that contradicts the tensors.
    """
    with _reading(where):
        return _vlm_config(fields, vision, fuser, projector, where)


def _vlm_config(fields: Mapping[str, Any], vision: ClipVitConfig, fuser: bool, projector: int, where: str) -> VlmConfig:
    if is_hf(fields):
        llm, kind = llm_config(fields["text_config"], where), fields.get("projector_hidden_act", "gelu")
        if kind != "gelu" or projector != 2:
            raise ConversionError(f"{where}: a projector of {projector} layers with {kind} is not LLaVA's")
        layer, select = fields.get("vision_feature_layer", -2), fields.get("vision_feature_select_strategy", "default")
        merge = "spatial_unpad" if fields.get("model_type") == "llava_next" else "flat"
        pinpoints = tuple(pin[::-1] for pin in fields.get("image_grid_pinpoints") or ())  # theirs are (height, width)
        feature = {"default": "patch", "full": "cls_patch"}.get(select, select)
    else:
        llm = llm_config(fields, where)
        layer, feature = fields.get("mm_vision_select_layer", -2), fields.get("mm_vision_select_feature", "patch")
        merge = fields.get("mm_patch_merge_type") or "flat"
        pinpoints = _pinpoints(fields.get("image_grid_pinpoints"), where)
        _check_projector(fields, projector, where)
    layers = list(layer) if isinstance(layer, list | tuple) else [int(layer)]
    if fuser != (len(layers) > 1):
        have = "a fuser" if fuser else "no fuser"
        raise ConversionError(f"{where}: selects vision layers {layers}, but the checkpoint has {have}")
    return VlmConfig(
        vision=vision,
        llm=llm,
        projector=ProjectorConfig({0: "identity", 1: _one_layer(fields)}.get(projector, f"mlp{projector}x_gelu")),
        fuser=_fuser(fields, layers) if fuser else None,
        select_layer=layers[-1],
        select_feature=feature,
        tile_merge=merge,
        grid_pinpoints=tuple(tuple(pin) for pin in pinpoints),
    )


def _pinpoints(value: Any, where: str) -> tuple[tuple[int, int], ...]:
    """LLaVA-1.6's `image_grid_pinpoints`: a list of (width, height), in some checkpoints written out as text."""
    try:
        pins = json.loads(value.replace("(", "[").replace(")", "]")) if isinstance(value, str) else value or ()
        return tuple((int(width), int(height)) for width, height in pins)
    except (ValueError, TypeError):
        raise ConversionError(f"{where}: image_grid_pinpoints {value!r} is no list of (width, height)") from None


def _fuser(fields: Mapping[str, Any], layers: list[int]) -> FuserConfig:
    """The reference's block reads the first four selected layers, whatever their number, and queries with the last.

    Its shape is fixed in its code; models of another shape, trained here, say so in fields of ours.
    """
    levels = fields.get("mm_fuser_levels", FUSER_SHAPE["mm_fuser_levels"])
    if len(layers) < levels:
        raise ValueError(f"a fuser needs {levels} vision layers, mm_vision_select_layer has {layers}")
    heads, points = (fields.get(name, FUSER_SHAPE[name]) for name in ("mm_fuser_heads", "mm_fuser_points"))
    return FuserConfig(tuple(layers[:levels]), heads=heads, points=points)


def _one_layer(fields: Mapping[str, Any]) -> str:
    kind = fields.get("mm_projector_type", "linear")
    return kind if kind == "mlp1x_gelu" else "linear"


def _check_projector(fields: Mapping[str, Any], layers: int, where: str) -> None:
    kind = fields.get("mm_projector_type", "linear")
    try:
        wanted = ProjectorConfig(kind).depth
    except ValueError as error:
        raise ConversionError(f"{where}: mm_projector_type: {error}") from None
    if wanted != layers:
        raise ConversionError(f"{where}: mm_projector_type {kind!r} has {wanted} layers, the checkpoint {layers}")


def llm_fields(config: LlamaConfig) -> Json:
    """config.json fields of the language model, readable by transformers 4 and 5."""
    fields: Json = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_fields(config.rope_scaling),
        "tie_word_embeddings": config.tied_head,
    }
    return {**fields, "sliding_window": config.sliding_window} if config.sliding_window else fields


def _rope_fields(scaling: RopeScaling | None) -> Json | None:
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"type": "linear", "rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": scaling.kind,
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_positions,
    }


def vision_fields(config: ClipVitConfig) -> Json:
    """config.json fields of the vision encoder."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": config.norm_epsilon,
    }


def llava_fields(config: VlmConfig, aspect: str, im_start_end: bool = False) -> Json:
    """config.json fields of a LLaVA or MMFuser folder, without what the original file may say besides."""
    layers = [*config.fuser.key_layers, config.select_layer] if config.fuser else config.select_layer
    mistral = bool(config.llm.sliding_window)
    fuser: Json = {}
    if config.fuser is not None:
        shape = (len(config.fuser.key_layers), config.fuser.heads, config.fuser.points)
        fuser = {n: x for (n, usual), x in zip(FUSER_SHAPE.items(), shape, strict=True) if x != usual}
    return {
        **llm_fields(config.llm),
        "model_type": "llava_mistral" if mistral else "llava_llama",
        "architectures": ["LlavaMistralForCausalLM" if mistral else "LlavaLlamaForCausalLM"],
        "use_mm_proj": True,
        "mm_vision_tower": "clip",
        "mm_projector_type": config.projector.kind,
        "mm_hidden_size": config.vision.width,
        "mm_vision_select_layer": layers,
        "mm_vision_select_feature": config.select_feature,
        "mm_patch_merge_type": config.tile_merge,
        "image_aspect_ratio": aspect,
        "mm_use_im_start_end": im_start_end,
        "mm_use_im_patch_token": False,
        **({"image_grid_pinpoints": [list(pin) for pin in config.grid_pinpoints]} if config.grid_pinpoints else {}),
        **fuser,
    }


def hf_fields(config: VlmConfig, image_token: int) -> Json:
    """config.json fields of a `llava-hf` folder; `image_token` is the id that stands for an image's places."""
    mistral = bool(config.llm.sliding_window)
    text = {**llm_fields(config.llm), "model_type": "mistral" if mistral else "llama"}
    fields: Json = {
        "model_type": "llava_next" if config.grid_pinpoints else "llava",
        "architectures": [
            "LlavaNextForConditionalGeneration" if config.grid_pinpoints else "LlavaForConditionalGeneration"
        ],
        "text_config": text,
        "vision_config": vision_fields(config.vision),
        "image_token_index": image_token,
        "image_seq_length": config.image_tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": config.select_layer,
        "vision_feature_select_strategy": {"patch": "default", "cls_patch": "full"}[config.select_feature],
        "tie_word_embeddings": config.llm.tied_head,
    }
    if config.grid_pinpoints:
        fields["image_grid_pinpoints"] = [list(pin)[::-1] for pin in config.grid_pinpoints]
        fields["use_image_newline_parameter"] = config.tiles_end_rows
    return fields
