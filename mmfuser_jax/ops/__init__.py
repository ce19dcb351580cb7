"""Numerical building blocks below the modules: pure functions of arrays."""

from mmfuser_jax.ops.attention import Packed, attention
from mmfuser_jax.ops.cross_entropy import cross_entropy
from mmfuser_jax.ops.deformable_attention import deformable_attention

__all__ = ["Packed", "attention", "cross_entropy", "deformable_attention"]
