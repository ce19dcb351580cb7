"""A model of ours with adapters or a quantised base, read as the plain model that computes the same."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mmfuser_jax import layout
from mmfuser_jax.checkpoint import StoredParams
from mmfuser_jax.models import VLM, VlmConfig
from mmfuser_jax.models.lora import merged
from mmfuser_jax.models.params import boxed_params
from mmfuser_jax.models.quantized import KERNEL, dequantize
from mmfuser_jax.train.optim import flatten


class MergedParams:
    """Parameters of one checkpoint with kernels in numbers, and adapters merged into them when they are read.

    Attributes:
      step: of the checkpoint.
      shapes: jax.ShapeDtypeStruct of every parameter of the plain model by path: as stored, and float32 for kernels
        that are stored in codes.
      made: paths of the kernels that are not stored like this.
    """

    def __init__(self, stored: StoredParams, config: VlmConfig) -> None:
        """`config` describes what is stored."""
        self._stored = stored
        self._llm = config.llm
        self.step = stored.step
        plain = flatten(boxed_params(VLM(dataclasses.replace(config, llm=config.llm.merged))))
        parts = [path for path in stored.shapes if KERNEL.fullmatch(path) or path.endswith(("/lora_a", "/lora_b"))]
        self.made = {f"{path.removesuffix('/kernel')}/kernel" for path in (p.rsplit("/", 1)[0] for p in parts)}
        self.shapes = {path: x for path, x in stored.shapes.items() if path not in parts}
        for path in self.made:
            dtype = stored.shapes[path].dtype if path in stored.shapes else np.dtype(np.float32)
            self.shapes[path] = jax.ShapeDtypeStruct(plain[path].unbox().shape, dtype)

    def read(self, paths: Iterable[str]) -> dict[str, np.ndarray]:
        """Some parameters as NumPy arrays.

        Raises:
          CheckpointError: damaged data.
        """
        paths = set(paths)
        same = self._stored.read(paths - self.made) if paths - self.made else {}
        return {**same, **{path: self._make(path) for path in paths & self.made}}

    def _make(self, path: str) -> np.ndarray:
        """A kernel, rounded once; layer by layer where layers are stacked."""
        stem, shape = path.removesuffix("kernel"), self.shapes[path].shape
        names = [name for name in self._stored.shapes if name.startswith(stem)]
        parts = {name.removeprefix(stem): x for name, x in self._stored.read(names).items()}
        if not layout.is_stacked(path):
            return self._one(parts, shape).astype(self.shapes[path].dtype)
        kernel = np.empty(shape, self.shapes[path].dtype)
        for layer in range(len(kernel)):
            kernel[layer] = self._one({name: x[layer] for name, x in parts.items()}, shape[1:])
        return kernel

    def _one(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        llm = self._llm
        if "kernel" in parts:
            kernel = parts["kernel"].astype(np.float32)
        else:
            codes = {name.removeprefix("kernel/"): jnp.asarray(x) for name, x in parts.items() if "/" in name}
            kernel = np.asarray(_dequantize(codes, llm.quantize)).reshape(shape)
        if llm.lora is None or "lora_a" not in parts:
            return kernel
        down, up = (parts[name].astype(np.float32) for name in ("lora_a", "lora_b"))
        return merged(kernel, down, up, llm.lora)


_dequantize = functools.partial(jax.jit, static_argnums=1)(dequantize)
