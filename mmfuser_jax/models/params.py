"""Parameters of a model, made without a second copy: abstract shapes → shardings → materialised in place."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax.core import meta
from jax.sharding import Mesh

from mmfuser_jax import sharding
from mmfuser_jax.models.vlm import VLM
from mmfuser_jax.types import Batch


def dummy_batch(model: VLM) -> Batch:
    """The smallest batch the model accepts, for tracing its initialisation."""
    row = np.zeros((1, 1), np.int32)
    size = model.config.vision.image_size
    return Batch(row, row, row, row, row, row, np.zeros((1, 1, size, size, 3), np.uint8))


def boxed_params(model: VLM) -> Any:
    """Parameter shapes that carry their logical axis names; costs no memory at any size."""
    return jax.eval_shape(model.init, jax.random.key(0), dummy_batch(model))["params"]


def abstract_params(model: VLM, mesh: sharding.AnyMesh) -> Any:
    """Parameters as jax.ShapeDtypeStruct with their shardings.

    Raises:
      ShardingError: a dimension does not divide over its mesh axes.
    """
    boxed = boxed_params(model)
    return with_shardings(meta.unbox(boxed), sharding.param_shardings(boxed, mesh))


def init_params(model: VLM, seed: int, mesh: Mesh) -> Any:
    """Fresh parameters, made in place on the mesh.

    Raises:
      ShardingError: a dimension does not divide over its mesh axes.
    """
    shardings = sharding.param_shardings(boxed_params(model), mesh)
    init = jax.jit(lambda key: meta.unbox(model.init(key, dummy_batch(model))["params"]), out_shardings=shardings)
    return init(jax.random.key(seed))


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """A tree of shapes with a tree of shardings attached."""
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, shardings)
