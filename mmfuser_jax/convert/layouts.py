"""Which layout a set of torch keys is in, read from the keys themselves and never from a folder's name."""

from __future__ import annotations

import re
from collections.abc import Collection

from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.convert.tables import Prefixes
from mmfuser_jax.models import VlmConfig

LORA = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
"""A PEFT adapter's key: the module it changes, and which of its two factors."""

_ANCHORS = {
    "vision": re.compile(r"(.*)embeddings\.class_embedding"),
    "llm": re.compile(r"(.*)embed_tokens\.weight"),
    "head": re.compile(r"(.*lm_head)\.weight"),
    "newline": re.compile(r"(.*image_newline)"),
}
"""One key by which each part gives its prefix away."""

_HF_PROJECTOR = re.compile(r"(.*multi_modal_projector\.linear_)(\d+)\.weight")
_LLAVA_PROJECTOR = re.compile(r"(.*mm_projector)(?:\.(\d+))?\.weight")
_FUSER = re.compile(r"(.*mm_projector\.\d+\.)cross_attn\.value_proj\.weight")


def detect(keys: Collection[str]) -> Prefixes:
    """Prefixes of the parts that `keys` hold: LLaVA, MMFuser, both `llava-hf` namings, bare towers, projectors alone.

    Raises:
      ConversionError: no key is known, or a part stands under two prefixes.
    """
    found = {
        name: _one(name, {m[1] for key in keys if (m := regex.fullmatch(key))}) for name, regex in _ANCHORS.items()
    }
    fuser = _one("fuser", {m[1] for key in keys if (m := _FUSER.fullmatch(key))})
    prefixes = Prefixes(fuser=fuser, projector=_projector(keys), **found)
    if not prefixes.parts:
        shown = ", ".join(sorted(keys)[:3]) or "nothing"
        raise ConversionError(f"no known layout: expected LLaVA, MMFuser, CLIP, LLaMA or LoRA keys, found {shown}")
    return prefixes


def _one(part: str, prefixes: set[str]) -> str | None:
    if len(prefixes) > 1:
        raise ConversionError(f"the {part} stands under several prefixes: {', '.join(sorted(prefixes))}")
    return prefixes.pop() if prefixes else None


def _projector(keys: Collection[str]) -> tuple[str, ...] | None:
    """Dense layers in order: `linear_1, linear_2` (Hugging Face), `0, 2, …` or `1, 3, …` (LLaVA), or one alone."""
    modules: dict[str, int] = {}
    for key in keys:
        if match := (_HF_PROJECTOR.fullmatch(key) or _LLAVA_PROJECTOR.fullmatch(key)):
            modules[key.removesuffix(".weight")] = int(match[2] or 0)
    return tuple(sorted(modules, key=modules.__getitem__)) or None


def llava_prefixes(config: VlmConfig) -> Prefixes:
    """The layout that MMFuser's and LLaVA's own code saves."""
    first = 0 if config.fuser is None else 1
    alone = config.projector.kind == "linear" and config.fuser is None
    modules = [f"model.mm_projector.{first + 2 * layer}" for layer in range(config.projector.depth)]
    return Prefixes(
        vision="model.vision_tower.vision_tower.vision_model.",
        llm="model.",
        head="lm_head",
        fuser=None if config.fuser is None else "model.mm_projector.0.",
        projector=("model.mm_projector",) if alone else tuple(modules),
        newline="model.image_newline" if config.tiles_end_rows else None,
    )


def hf_prefixes(config: VlmConfig) -> Prefixes:
    """The `llava-hf` layout in its old naming, which every version of transformers, vLLM and llama.cpp reads.

    Raises:
      ConversionError: a fuser, a projector that is not two dense layers, or tiles that are merged another way.
    """
    if bool(config.grid_pinpoints) != config.tiles_end_rows:
        tiled = "tiles" if config.grid_pinpoints else "whole pictures"
        raise ConversionError(f"the llava-hf layout cannot say {tiled} merged {config.tile_merge!r}; use --to=llava")
    if config.fuser is not None or config.projector.kind != "mlp2x_gelu":
        kind = "an MMFuser" if config.fuser is not None else f"a {config.projector.kind} projector"
        raise ConversionError(f"the llava-hf layout has no place for {kind}; use --to=llava")
    return Prefixes(
        vision="vision_tower.vision_model.",
        llm="language_model.model.",
        head="language_model.lm_head",
        projector=("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
        newline="image_newline" if config.tiles_end_rows else None,
    )
