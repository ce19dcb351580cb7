"""Our side of a verification: a model folder run with one decoder layer in memory at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmfuser_jax import model_folder
from mmfuser_jax.checkpoint import StoredParams
from mmfuser_jax.convert.errors import ConversionError, listed
from mmfuser_jax.convert.merging import MergedParams
from mmfuser_jax.convert.probe import At, Probe, Stage
from mmfuser_jax.data.packing import expand_images
from mmfuser_jax.models import VLM, VlmConfig
from mmfuser_jax.models.llama import LlamaBlock, rotary_turns
from mmfuser_jax.models.params import boxed_params
from mmfuser_jax.ops import cross_entropy
from mmfuser_jax.ops.attention import Packed
from mmfuser_jax.train.optim import flatten, unflatten
from mmfuser_jax.types import NEWLINE_SLOT


class StreamedModel:
    """A model folder, run in float32 by our own modules; decoder layers are read one at a time."""

    def __init__(self, folder: Path, step: int | None, dtypes: Mapping[str, np.dtype]) -> None:
        """Opens a model folder.

        Args:
          folder: model folder with unrolled layers, which can be read one at a time; adapters are merged.
          step: which checkpoint; None for the newest.
          dtypes: parameters are rounded to these first, by path: what the other side was asked to store.

        Raises:
          ModelFolderError, CheckpointError: no model, or no such step.
        """
        config = model_folder.with_layout(model_folder.read_card(folder).config, scan=False)
        self.config = dataclasses.replace(config, llm=config.llm.merged)
        self._stored = MergedParams(StoredParams(folder / model_folder.CHECKPOINTS, step), config)
        self._dtypes = dtypes

    def stages(self, probe: Probe) -> Iterator[Stage]:
        """Every stage from pixels to loss, in the order of computation.

        Raises:
          ConversionError, CheckpointError: parameters are missing or damaged.
        """
        config = self.config
        bare = VLM(dataclasses.replace(config, llm=dataclasses.replace(config.llm, depth=0)))
        params = {"params": self._read(flatten(boxed_params(bare)))}
        model = bare.bind(params)
        features = jax.jit(functools.partial(bare.apply, method="visual_features"))(params, probe.pixels)
        for index, state in zip(config.states, (*features.levels, features.query), strict=True):
            yield Stage(At.HIDDEN, state, index)
        yield Stage(At.SELECTED, features.query)
        if config.fuser is not None:
            yield Stage(At.FUSED, features.fused)
        yield Stage(At.PROJECTED, features.projected)
        tokens, image_index = _expanded(config, probe)
        state = model.merge(tokens, image_index, features.projected)
        yield Stage(At.MERGED, state)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        mask = Packed(jnp.ones_like(positions), None, positions, config.llm.sliding_window)
        decode = self._decoder(positions, mask)
        for index in range(config.llm.depth):
            yield Stage(At.LAYER, state := decode(index, state), index)
        hidden, _ = model.llm(state, positions=positions, mask=mask)
        logits = model.llm.logits(hidden)[..., : probe.vocab]
        yield Stage(At.LOGITS, logits)
        yield Stage(At.LOSS, cross_entropy(logits, probe.targets.astype(np.int32)).mean)

    def _decoder(self, positions: jax.Array, mask: Packed) -> Callable[[int, jax.Array], jax.Array]:
        """Gives a function from (layer number, hidden state) to the next hidden state; all layers compile as one."""
        config = self.config.llm
        turns = rotary_turns(config, positions)
        paths = [path for path in flatten(boxed_params(VLM(self.config))) if path.startswith("llm/decoder/")]
        block = jax.jit(LlamaBlock(config, jnp.float32).apply)

        def decode(index: int, state: jax.Array) -> jax.Array:
            layer = f"layers_{index}"
            params = self._read(path for path in paths if f"/{layer}/" in path)["llm"]["decoder"][layer]
            return block({"params": params}, state, None, turns, mask, None)[0]

        return decode

    def _read(self, paths: Iterable[str]) -> Any:
        """The tree of some parameters, in the dtype stored; modules compute in float32 from them."""
        paths = list(paths)
        if lacking := [path for path in paths if path not in self._stored.shapes]:
            raise ConversionError(f"the checkpoint lacks {listed(lacking)}")
        return unflatten({path: jnp.asarray(self._rounded(path, x)) for path, x in self._stored.read(paths).items()})

    def _rounded(self, path: str, x: np.ndarray) -> np.ndarray:
        return x.astype(self._dtypes.get(path, x.dtype), copy=False)


def _expanded(config: VlmConfig, probe: Probe) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, image_index), both int32[B, T], as the data pipeline lays them out."""
    slots = np.arange(config.image_tokens)
    if config.tiles_end_rows:
        slots = np.pad(slots.reshape(config.vision.grid), [(0, 0), (0, 1)], constant_values=NEWLINE_SLOT).ravel()
    rows = [expand_images(row, [(slots, config.image_tokens)]) for row in probe.ids]
    return np.stack([tokens for tokens, _, _ in rows]), np.stack([index for _, index, _ in rows])
