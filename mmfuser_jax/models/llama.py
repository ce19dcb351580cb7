"""LLaMA and Mistral decoder (arXiv 2302.13971; grouped queries: 2307.09288; sliding window: 2310.06825). One module trains, prefills and decodes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from mmfuser_jax.models.layers import DType, Stack, dense, rms_norm, stack_outputs
from mmfuser_jax.models.lora import LoraConfig
from mmfuser_jax.models.quantized import FORMATS, PACKED
from mmfuser_jax.ops.attention import Packed, attention, window_mask
from mmfuser_jax.ops.cross_entropy import TokenLoss, head_cross_entropy
from mmfuser_jax.sharding import constrain, named
from mmfuser_jax.types import Array, KVCache

CACHE_AXES = ("layers", "batch", "kv_length", "activation_kv_heads", "head_dim")
"""Logical axes of the cached keys and values [L,B,S,G,H]."""


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies stretch for longer contexts.

    Attributes:
      kind: "linear" (all frequencies divided by `factor`) or "llama3" (only the slow ones, with a smooth transition).
      factor: stretch.
      low_freq_factor, high_freq_factor, original_max_positions: of "llama3", as in its published config.json.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3"):
            raise ValueError(f"rope scaling kind {self.kind!r} is not linear or llama3")


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape of the language model; names follow the axis letters of `types.py`.

    Attributes:
      vocab_size: V.
      width: D.
      depth: L.
      heads: N.
      kv_heads: G; N must divide by it.
      mlp_width: M.
      head_width: H; 0 means D / N.
      norm_epsilon: of every RMSNorm.
      rope_theta: base of the rotary frequencies.
      rope_scaling: stretch of the frequencies, or None.
      sliding_window: positions a token looks back at, itself included (Mistral); 0 for all.
      tied_head: the output head is the transposed embedding.
      scan_layers: parameter layout, see `layers.Stack`.
      lora: adapters, or None.
      quantize: format of `quantized.FORMATS` in which the kernels of the blocks are kept, frozen; "" for numbers.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    mlp_width: int
    head_width: int = 0
    norm_epsilon: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    sliding_window: int = 0
    tied_head: bool = False
    scan_layers: bool = False
    lora: LoraConfig | None = None
    quantize: str = ""

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not divide by {self.kv_heads} key/value heads")
        if not self.head_width:
            if self.width % self.heads:
                raise ValueError(f"llm width {self.width} does not divide by {self.heads} heads")
            object.__setattr__(self, "head_width", self.width // self.heads)
        if self.quantize not in ("", *FORMATS):
            raise ValueError(f"llm quantize {self.quantize!r} is not one of {', '.join(FORMATS)}")
        if self.quantize in PACKED and any(n % 2 for n in (self.width, self.heads * self.head_width, self.mlp_width)):
            raise ValueError(f"{self.quantize} packs pairs of inputs: the llm's widths must be even")

    @property
    def merged(self) -> LlamaConfig:
        """The same model with its adapters merged into kernels that are kept in numbers."""
        return dataclasses.replace(self, lora=None, quantize="")

    def empty_cache(self, rows: int, slots: int, dtype: DType = jnp.float32) -> KVCache:
        """A KVCache for `rows` sequences of at most `slots` tokens."""
        shape = (self.depth, rows, slots, self.kv_heads, self.head_width)
        zeros = constrain(jnp.zeros(shape, dtype), *CACHE_AXES)
        return KVCache(keys=zeros, values=zeros, lengths=jnp.zeros(rows, jnp.int32))


def rotary_frequencies(config: LlamaConfig) -> np.ndarray:
    """float64[H/2], radians per position of each rotated pair, after scaling."""
    half = np.arange(0, config.head_width, 2, dtype=np.float64)
    frequencies = config.rope_theta ** (-half / config.head_width)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # llama3: wavelengths beyond the original context stretch, short ones stay, those between are blended.
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0, 1)
    return frequencies * (blend + (1 - blend) / scaling.factor)


Turns = tuple[Float[jax.Array, "B T half"], Float[jax.Array, "B T half"]]
"""float32 cosines and sines of the angles by which each pair of a head is turned."""


def rotary_turns(config: LlamaConfig, positions: Int[Array, "B T"]) -> Turns:
    """The turns of positions, for all layers."""
    frequencies = jnp.asarray(rotary_frequencies(config), jnp.float32)
    angles = positions[..., None].astype(jnp.float32) * frequencies[None, None]
    # By a loop, whose results are written to memory: fused into the layers, XLA:CPU would work them out again for every
    # head of each (190 of 2,480 ms of a train step of 80 M parameters). It sees through optimization barriers.
    cos, sin = jax.lax.map(lambda second: jnp.where(second, jnp.sin(angles), jnp.cos(angles)), np.array([False, True]))
    return cos, sin


def apply_rotary(x: Float[jax.Array, "B T N H"], turns: Turns) -> Float[jax.Array, "B T N H"]:
    """Rotates pairs (x[i], x[i + H/2]) by the angle of their position: the half-split convention of Hugging Face."""
    cos, sin = (turn[:, :, None, :].astype(x.dtype) for turn in turns)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class LlamaBlock(nn.Module):
    """RMSNorm → attention → residual, RMSNorm → SwiGLU → residual."""

    config: LlamaConfig
    dtype: DType

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "B T D"],
        cache: tuple[jax.Array, jax.Array] | None,
        turns: Turns,
        mask: Packed | Bool[jax.Array, "B 1 T S"],
        lengths: Int[jax.Array, " B"] | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Returns the new hidden state, and this layer's (keys, values) [B,S,G,H] where a cache was given."""
        config, linear = self.config, self._linear
        h = rms_norm(config.norm_epsilon, name="attention_norm", dtype=self.dtype)(x)
        attended, cache = self._attend(h, cache, turns, mask, lengths)
        x = x + attended
        h = rms_norm(config.norm_epsilon, name="mlp_norm", dtype=self.dtype)(x)
        gate, up = (linear(config.mlp_width, ("embed", "mlp"), name=name)(h) for name in ("gate", "up"))
        h = constrain(jax.nn.silu(gate) * up, "batch", "length", "activation_mlp")
        x = x + linear(config.width, ("mlp", "embed"), name="down")(h)
        return constrain(x, "batch", "length", "activation_embed"), cache

    @property
    def _linear(self) -> Callable[..., nn.Module]:
        """Makes the dense layers: without bias, adapted and quantised as the config says."""
        config = self.config
        return functools.partial(dense, use_bias=False, dtype=self.dtype, lora=config.lora, quantize=config.quantize)

    def _attend(
        self,
        h: jax.Array,
        cache: tuple[jax.Array, jax.Array] | None,
        turns: Turns,
        mask: Packed | jax.Array,
        lengths: jax.Array | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        config = self.config
        query, key, value = (
            self._linear((heads, config.head_width), ("embed", axis, "head_dim"), name=name)(h)
            for name, heads, axis in (
                ("query", config.heads, "heads"),
                ("key", config.kv_heads, "kv_heads"),
                ("value", config.kv_heads, "kv_heads"),
            )
        )
        query, key = apply_rotary(query, turns), apply_rotary(key, turns)
        query = constrain(query, "batch", "length", "activation_heads", "head_dim")
        if cache is not None and lengths is not None:
            key, value = (_write(cache[0], key, lengths), _write(cache[1], value, lengths))
        key, value = (constrain(x, *CACHE_AXES[1:]) for x in (key, value))
        cache = None if cache is None else (key, value)
        h = attention(query, key.astype(self.dtype), value.astype(self.dtype), mask)
        out = self._linear(config.width, ("heads", "head_dim", "embed"), in_dims=2, name="out")
        return out(h), cache


def _write(slots: jax.Array, new: jax.Array, lengths: jax.Array) -> jax.Array:
    """Writes new [B,T,G,H] into slots [B,S,G,H], each row from its own length on."""
    write_row = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
    return jax.vmap(write_row)(slots, new.astype(slots.dtype), lengths)


class Llama(nn.Module):
    """Decoder over embeddings; the caller makes the embeddings (text, or pictures in place of some tokens).

    Attributes:
      config: shape.
      dtype: compute dtype; fresh parameters are float32, logits always float32.
      remat: key of `layers.REMAT_POLICIES`.
    """

    config: LlamaConfig
    dtype: DType = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        config = self.config
        small = nn.initializers.normal(0.02)
        # Published models start at 0.02; a small model trained from nothing then loses which word it read, because the
        # first attention output drowns the embedding in the residual stream.
        wide = nn.initializers.normal(0.02 if config.tied_head else 0.5)
        self.embedding = self.param("embedding", named(wide, "vocab", "embed"), (config.vocab_size, config.width))
        block = functools.partial(LlamaBlock, config, self.dtype)
        self.decoder = Stack(block, config.depth, config.scan_layers, self.remat)
        self.final_norm = rms_norm(config.norm_epsilon, name="final_norm", dtype=self.dtype)
        if not config.tied_head:
            self.head = self.param("head", named(small, "embed", "vocab"), (config.width, config.vocab_size))

    def embed(self, tokens: Int[Array, "B T"]) -> Float[jax.Array, "B T D"]:
        """Embeddings of token ids, in the compute dtype."""
        return jnp.take(self.embedding, tokens, axis=0).astype(self.dtype)

    def __call__(
        self,
        embeddings: Float[jax.Array, "B T D"],
        *,
        positions: Int[Array, "B T"],
        mask: Packed | Bool[jax.Array, "B 1 T T"] | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Float[jax.Array, "B T D"], KVCache | None]:
        """Last hidden states after the final norm, and the cache with the T new tokens appended.

        Args:
          embeddings: of the T new tokens.
          positions: rotary positions. With a cache, also each token's slot: token at position p sees slots ≤ p.
          mask: who sees whom among the T tokens; needed without a cache, ignored with one.
          cache: earlier tokens; new ones are written from each row's length on. `lengths` grows by T; a caller that
            padded on the right sets it back to the true lengths, and the padding is overwritten before anyone sees it.

        Raises:
          ValueError: neither mask nor cache.
        """
        if mask is None and cache is None:
            raise ValueError("Llama needs a mask (training) or a cache (decoding)")
        turns = rotary_turns(self.config, positions)
        per_layer, lengths = None, None
        if cache is not None:
            per_layer, lengths = (cache.keys, cache.values), cache.lengths
            slots = jnp.broadcast_to(jnp.arange(cache.keys.shape[2]), (positions.shape[0], cache.keys.shape[2]))
            mask = (slots[:, None] <= positions[:, :, None])[:, None]
            if self.config.sliding_window:
                mask &= window_mask(positions, slots, self.config.sliding_window)
        x = constrain(embeddings.astype(self.dtype), "batch", "length", "activation_embed")
        x, written = self.decoder(x, per_layer, turns, mask, lengths)
        if cache is not None:
            keys, values = stack_outputs(written)
            cache = KVCache(keys=keys, values=values, lengths=cache.lengths + embeddings.shape[1])
        return self.final_norm(x), cache

    @property
    def _output_matrix(self) -> Float[jax.Array, "D V"]:
        return (self.embedding.T if self.config.tied_head else self.head).astype(self.dtype)

    def loss(self, hidden: Float[jax.Array, "B T D"], targets: Int[Array, "B T"]) -> TokenLoss:
        """Loss of final hidden states, without their logits where those would be large."""
        return head_cross_entropy(hidden, self._output_matrix, targets)

    def logits(self, hidden: Float[jax.Array, "B T D"]) -> Float[jax.Array, "B T V"]:
        """float32 logits of final hidden states."""
        logits = jnp.einsum("btd,dv->btv", hidden, self._output_matrix, preferred_element_type=jnp.float32)
        return constrain(logits, "batch", "length", "activation_vocab")
