"""The vision-language model: vision encoder → fuser → projector → language model. LLaVA-1.5 is `fuser=None`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, Num

from mmfuser_jax.models.clip_vit import ClipVit, ClipVitConfig
from mmfuser_jax.models.fuser import Fuser, FuserConfig
from mmfuser_jax.models.layers import DType
from mmfuser_jax.models.llama import Llama, LlamaConfig, RopeScaling
from mmfuser_jax.models.lora import LoraConfig
from mmfuser_jax.models.projector import Projector, ProjectorConfig
from mmfuser_jax.ops.attention import Packed
from mmfuser_jax.ops.cross_entropy import TokenLoss
from mmfuser_jax.sharding import constrain, named
from mmfuser_jax.types import CLIP_MEAN, CLIP_STD, NEWLINE_SLOT, Array, Batch, KVCache, ModelOutput, VisualFeatures


@dataclasses.dataclass(frozen=True)
class VlmConfig:
    """Shape of the whole model, and the pixel statistics it was trained with.

    Attributes:
      vision: vision encoder.
      llm: language model.
      projector: between them.
      fuser: MMFuser, or None for plain LLaVA-1.5.
      select_layer: hidden state of the vision encoder that is projected, and that queries the fuser; -2 is the
        last but one, as in LLaVA and MMFuser (which is 23 of ViT-L's 24 layers, counting the embedding as 0).
      select_feature: "patch" drops the class token of the selected layer, "cls_patch" keeps it as a first image token.
      tile_merge: how the tiles of one picture become image tokens ("flat", "spatial", "spatial_unpad"), see
        `data.anyres`; only the last has a parameter of its own, the vector that ends a row.
      grid_pinpoints: (width, height) pixel sizes a picture may be cut into tiles from; empty for one tile a picture.
      image_mean, image_std: per channel, of pixels scaled to [0, 1].
    """

    vision: ClipVitConfig
    llm: LlamaConfig
    projector: ProjectorConfig = dataclasses.field(default_factory=ProjectorConfig)
    fuser: FuserConfig | None = None
    select_layer: int = -2
    select_feature: str = "patch"
    tile_merge: str = "flat"
    grid_pinpoints: tuple[tuple[int, int], ...] = ()
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        self.vision.state_index(self.select_layer)
        if self.fuser is not None:
            if self.vision.width % self.fuser.heads:
                raise ValueError(f"vision width {self.vision.width} does not divide by {self.fuser.heads} fuser heads")
            for layer in self.fuser.key_layers:
                self.vision.state_index(layer)
        if self.select_feature not in ("patch", "cls_patch"):
            raise ValueError(f"select_feature {self.select_feature!r} is not patch or cls_patch")
        if self.select_feature == "cls_patch" and (self.fuser is not None or self.tile_merge != "flat"):
            raise ValueError(
                "select_feature cls_patch has no place on a grid: no fuser, and tile_merge flat, go with it"
            )
        if self.tile_merge not in ("flat", "spatial", "spatial_unpad"):
            raise ValueError(f"tile_merge {self.tile_merge!r} is not flat, spatial or spatial_unpad")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> VlmConfig:
        """The inverse of `dataclasses.asdict`, for JSON files and config programs.

        Raises:
          ValueError: a field is unknown, missing or out of range; the message names it.
        """
        parts = {"vision": ClipVitConfig, "llm": LlamaConfig, "projector": ProjectorConfig, "fuser": FuserConfig}
        built: dict[str, Any] = dict(fields)
        llm = built.get("llm")
        llm_parts: dict[str, Any] = {"rope_scaling": RopeScaling, "lora": LoraConfig}
        for name, part in llm_parts.items():
            if llm and llm.get(name) is not None:
                built["llm"] = {**built["llm"], name: _build(part, llm[name], f"model.llm.{name}")}
        for name, part in parts.items():
            if built.get(name) is not None:
                built[name] = _build(part, built[name], f"model.{name}")
        return _build(cls, built, "model")

    @property
    def image_tokens(self) -> int:
        """P, image tokens of one tile: its patches, and the class token where it is kept."""
        return self.vision.patches + (self.select_feature == "cls_patch")

    @property
    def tiles_end_rows(self) -> bool:
        """Whether a learned vector ends every row of a tiled picture."""
        return self.tile_merge == "spatial_unpad"

    @property
    def states(self) -> tuple[int, ...]:
        """Hidden states to read, as non-negative indices: the fuser's key layers, then the query layer."""
        keys = self.fuser.key_layers if self.fuser else ()
        return tuple(self.vision.state_index(layer) for layer in (*keys, self.select_layer))


def _build(cls: Any, fields: Mapping[str, Any], where: str) -> Any:
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"{where} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    try:
        return cls(**{name: _tuples(value) for name, value in fields.items()})
    except TypeError as error:  # a required field is missing
        raise ValueError(f"{where}: {error}") from None


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


class VLM(nn.Module):
    """One module for training, prefill and decoding.

    Attributes:
      config: shape.
      dtype: compute dtype; fresh parameters are float32, logits always float32.
      remat: key of `layers.REMAT_POLICIES`, for the vision encoder and the language model.
    """

    config: VlmConfig
    dtype: DType = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        config = self.config
        keep_class = config.select_feature == "cls_patch"
        self.vision_encoder = ClipVit(config.vision, max(config.states), keep_class, self.dtype, self.remat)
        if config.fuser is not None:
            self.fuser = Fuser(config.fuser, self.dtype)
        self.projector = Projector(config.projector, config.llm.width, self.dtype)
        self.llm = Llama(config.llm, self.dtype, self.remat)
        if config.tiles_end_rows:
            small = nn.initializers.normal(config.llm.width**-0.5)
            self.image_newline = self.param("image_newline", named(small, "norm"), (config.llm.width,))

    def visual_features(self, pixels: Num[Array, "n height width 3"]) -> VisualFeatures:
        """Every stage of the visual path. uint8 pixels are normalised here, floats are taken as normalised."""
        config = self.config
        pixels = jnp.asarray(pixels)
        if pixels.dtype == jnp.uint8:
            pixels = normalize_pixels(pixels, config.image_mean, config.image_std)
        pixels = constrain(pixels, "batch", "pixels", "pixels", None)
        *levels, query = self.vision_encoder(pixels, states=config.states)
        fused = query
        if config.fuser is not None:
            grid = config.vision.grid
            fused = self.fuser(query, tuple(levels), query_grid=grid, level_grids=(grid,) * len(levels))
        return VisualFeatures(levels=tuple(levels), query=query, fused=fused, projected=self.projector(fused))

    def encode_images(self, pixels: Num[Array, "B I height width 3"]) -> Float[jax.Array, "B IP D"]:
        """Image tokens of every row: its I images' projected patches, one after the other."""
        rows = pixels.shape[0]
        projected = self.visual_features(pixels.reshape(-1, *pixels.shape[2:])).projected
        return constrain(projected.reshape(rows, -1, projected.shape[-1]), "batch", "patches", "activation_embed")

    def merge(
        self,
        tokens: Int[Array, "B T"],
        image_index: Int[Array, "B T"] | None,
        image_features: Float[Array, "B IP D"] | None,
    ) -> Float[jax.Array, "B T D"]:
        """Embeddings of text tokens, with image features gathered into the slots where image_index ≥ 0."""
        text = self.llm.embed(tokens)
        if image_features is None or image_index is None:
            return text
        picked = jnp.take_along_axis(image_features, jnp.maximum(image_index, 0)[..., None], axis=1)
        merged = jnp.where(image_index[..., None] >= 0, picked.astype(text.dtype), text)
        if self.config.tiles_end_rows:
            newline = self.image_newline.astype(text.dtype)[None, None]
            merged = jnp.where(image_index[..., None] == NEWLINE_SLOT, newline, merged)
        return merged

    def __call__(self, batch: Batch) -> ModelOutput:
        """Logits of a packed batch; targets are not looked at."""
        return ModelOutput(logits=self.llm.logits(self._hidden(batch)))

    def loss(self, batch: Batch) -> TokenLoss:
        """Loss of a packed batch."""
        return self.llm.loss(self._hidden(batch), batch.targets)

    def _hidden(self, batch: Batch) -> Float[jax.Array, "B T D"]:
        embeddings = self.merge(batch.tokens, batch.image_index, self.encode_images(batch.pixels))
        mask = Packed(batch.segment_ids, batch.branch_ids, batch.positions, self.config.llm.sliding_window)
        return self.llm(embeddings, positions=batch.positions, mask=mask)[0]

    def decode(
        self,
        tokens: Int[Array, "B T"],
        *,
        cache: KVCache,
        last: Int[Array, " B"],
        image_index: Int[Array, "B T"] | None = None,
        image_features: Float[Array, "B IP D"] | None = None,
    ) -> ModelOutput:
        """Appends T tokens to every row of the cache and returns the logits [B, 1, V] after one of them.

        Args:
          tokens: the prompt (prefill) or the token sampled last (T = 1), padded on the right.
          cache: earlier tokens; `lengths` of the result counts the padding too, the caller sets it right.
          last: which of the T tokens to return logits for, per row.
          image_index, image_features: as in `merge`, for prefill.
        """
        embeddings = self.merge(tokens, image_index, image_features)
        positions = cache.lengths[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        hidden, cache_out = self.llm(embeddings, positions=positions, cache=cache)
        hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)
        return ModelOutput(logits=self.llm.logits(hidden), cache=cache_out)


def normalize_pixels(
    pixels: Num[Array, "*shape 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[jax.Array, "*shape 3"]:
    """float32 pixels of zero mean and unit variance from uint8 pixels, by per-channel statistics of [0, 1] pixels."""
    channels = (1,) * (pixels.ndim - 1) + (3,)
    centre, spread = (np.asarray(x, np.float32).reshape(channels) for x in (mean, std))
    return (jnp.asarray(pixels, jnp.float32) / 255 - centre) / spread
