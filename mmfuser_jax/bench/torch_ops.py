"""The peers of the ops benchmark, as PyTorch users write them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from mmfuser_jax.types import IGNORE_INDEX


def deformable_attention(
    value: torch.Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> torch.Tensor:
    """[B, Q, N*H] by one `grid_sample` a level; arguments as in `mmfuser_jax.ops.deformable_attention`."""
    batch, _, heads, width = value.shape
    queries = sampling_locations.shape[1]
    grids = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)  # [B N, Q, F, K, 2]
    levels = value.split([rows * columns for rows, columns in spatial_shapes], dim=1)
    sampled = [
        functional.grid_sample(
            level.flatten(2).transpose(1, 2).reshape(batch * heads, width, *shape), grids[:, :, index],
            mode="bilinear", padding_mode="zeros", align_corners=False,
        )
        for index, (level, shape) in enumerate(zip(levels, spatial_shapes, strict=True))
    ]  # fmt: skip
    weights = attention_weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    out = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(dim=-1)
    return out.view(batch, heads * width, queries).transpose(1, 2)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool) -> torch.Tensor:
    """[B, T, N, H] by torch's fused kernel."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value, is_causal=causal).transpose(1, 2)


def head_cross_entropy(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean loss of the logits hidden [B, T, D] @ head [V, D].T."""
    logits = functional.linear(hidden, head)
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
