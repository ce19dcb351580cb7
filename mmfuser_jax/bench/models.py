"""The models and batches that are measured: shapes, random parameters, random text under a picture."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmfuser_jax import presets, sharding
from mmfuser_jax.models import VLM, ClipVitConfig, FuserConfig, LlamaConfig, VlmConfig
from mmfuser_jax.models.params import boxed_params, init_params
from mmfuser_jax.types import IGNORE_INDEX, TEXT_SLOT, Batch

VOCABULARY = 32_000


def vlm(depth: int = 8, *, scan: bool = False) -> VlmConfig:
    """A whole MMFuser model of 80 M parameters at depth 8: pictures of 256 patches, LLaMA's vocabulary."""
    return VlmConfig(
        vision=ClipVitConfig(
            width=512, depth=7, heads=8, mlp_width=2048, image_size=224, patch_size=14, scan_layers=scan
        ),
        llm=LlamaConfig(VOCABULARY, width=512, depth=depth, heads=8, kv_heads=8, mlp_width=1376, scan_layers=scan),
        fuser=FuserConfig(key_layers=(1, 2, 4, 5), heads=8, points=4),
    )


def llm(width: int, depth: int, heads: int, mlp_width: int) -> VlmConfig:
    """A language model with LLaMA's vocabulary, behind as little vision as a VLM can have."""
    return VlmConfig(
        vision=ClipVitConfig(width=8, depth=2, heads=1, mlp_width=8, image_size=14, patch_size=14),
        llm=LlamaConfig(VOCABULARY, width=width, depth=depth, heads=heads, kv_heads=heads, mlp_width=mlp_width),
    )


LLM_134M = llm(768, 12, 12, 2048)
"""The smallest shape for which people use LLaMA's architecture (134 M parameters, 110 M of them read for every token)."""

LLM_505M = llm(1536, 14, 12, 4096)
"""505 M parameters, 2 GB in float32."""


def large_vision() -> VlmConfig:
    """The published visual path at full size, into Vicuna-7B's width; no language model behind it."""
    whole = presets.PRESETS["mmfuser_7b"]()
    return dataclasses.replace(whole, llm=dataclasses.replace(whole.llm, vocab_size=8, depth=0, scan_layers=False))


def one_device() -> Mesh:
    """A mesh of the first device."""
    return sharding.make_mesh(devices=jax.devices()[:1])


def count(config: VlmConfig) -> int:
    """Parameters of a model."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(boxed_params(VLM(config))))


def params(model: VLM, seed: int = 0) -> Any:
    """Fresh parameters, but for the fuser's gammas: at zero, as they start, nothing would depend on the fuser."""
    fresh = init_params(model, seed, one_device())
    if model.config.fuser is not None:
        fresh["fuser"] |= {name: fresh["fuser"][name] + 0.5 for name in ("gamma1", "gamma2")}
    return fresh


def random_batch(config: VlmConfig, rows: int, length: int, seed: int = 0, tiles: int = 1) -> Batch:
    """Each row: a token, as many of its `tiles` pictures as leave room, then random text, all of it to be predicted."""
    rng = np.random.default_rng(seed)
    size, shown = config.vision.image_size, min(tiles, (length - 2) // config.image_tokens)
    patches = config.image_tokens * shown
    tokens = rng.integers(1, config.llm.vocab_size, (rows, length)).astype(np.int32)
    image_index = np.full((rows, length), TEXT_SLOT, np.int32)
    image_index[:, 1 : 1 + patches] = np.arange(patches)
    targets = np.full((rows, length), IGNORE_INDEX, np.int32)
    targets[:, patches:-1] = tokens[:, 1 + patches :]
    return Batch(
        tokens=tokens,
        targets=targets,
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        segment_ids=np.ones((rows, length), np.int32),
        branch_ids=None,
        image_index=image_index,
        pixels=rng.integers(0, 256, (rows, tiles, size, size, 3)).astype(np.uint8),
    )
