"""Compiled functions of a model's parameters, on whatever devices these are spread over."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from mmfuser_jax import sharding
from mmfuser_jax.compilation import frugal_jit


def params_jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`frugal_jit` of `function(model, params, …)`, which places activations on the mesh of `params`.

    The results are whole on every device, so that every process of a run can read them. The rows of arguments must
    divide over the mesh, see `sharding.padded_rows`; all processes give the same.

    Args:
      function: of a static model, its parameters and arrays.
      options: of `jax.jit`.
    """

    @functools.cache
    def compiled(mesh: Mesh | None) -> Callable[..., Any]:
        def on_mesh(model: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
            with sharding.use_mesh(mesh):
                return sharding.gathered(function(model, params, *args, **kwargs))

        return frugal_jit(on_mesh, static_argnums=0, **options)

    @functools.wraps(function)
    def call(model: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        return compiled(sharding.mesh_of(params))(model, params, *args, **kwargs)

    return call
