"""The key tables: which torch tensor is which parameter of ours, and how its axes are turned. One table a family."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator

import numpy as np

from mmfuser_jax.models import LoraConfig, VlmConfig


class Kind(enum.Enum):
    """How a torch tensor's axes become ours."""

    COPY = "copy"  # norms, embeddings: as they are
    BIAS = "bias"  # torch [out] → bias [*out]
    IN = "in"  # torch Linear [out, in] → kernel [in, *out]
    OUT = "out"  # torch Linear [out, in] → kernel [*in, out]
    CONV = "conv"  # patch convolution [D, 3, p, p] → kernel [p*p*3, D]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table; `{n}` stands for a layer number, alike on both sides."""

    torch: str
    ours: str
    kind: Kind


def _module(torch: str, ours: str, kind: Kind = Kind.IN, bias: bool = True) -> tuple[Row, ...]:
    weight = Row(f"{torch}.weight", f"{ours}/kernel", kind)
    return (weight, Row(f"{torch}.bias", f"{ours}/bias", Kind.BIAS)) if bias else (weight,)


def _norm(torch: str, ours: str, bias: bool = True) -> tuple[Row, ...]:
    scale = Row(f"{torch}.weight", f"{ours}/scale", Kind.COPY)
    return (scale, Row(f"{torch}.bias", f"{ours}/bias", Kind.COPY)) if bias else (scale,)


VISION = (
    Row("embeddings.class_embedding", "class_embedding", Kind.COPY),
    Row("embeddings.patch_embedding.weight", "patch_embedding/kernel", Kind.CONV),
    Row("embeddings.position_embedding.weight", "position_embedding", Kind.COPY),
    *_norm("pre_layrnorm", "pre_norm"),
    *_norm("encoder.layers.{n}.layer_norm1", "encoder/layers_{n}/norm1"),
    *_module("encoder.layers.{n}.self_attn.q_proj", "encoder/layers_{n}/query"),
    *_module("encoder.layers.{n}.self_attn.k_proj", "encoder/layers_{n}/key"),
    *_module("encoder.layers.{n}.self_attn.v_proj", "encoder/layers_{n}/value"),
    *_module("encoder.layers.{n}.self_attn.out_proj", "encoder/layers_{n}/out", Kind.OUT),
    *_norm("encoder.layers.{n}.layer_norm2", "encoder/layers_{n}/norm2"),
    *_module("encoder.layers.{n}.mlp.fc1", "encoder/layers_{n}/mlp_in"),
    *_module("encoder.layers.{n}.mlp.fc2", "encoder/layers_{n}/mlp_out"),
)
"""CLIP's vision transformer (Hugging Face `CLIPVisionModel`; the misspelt norm is theirs)."""

VISION_NEVER_READ = ("post_layernorm.weight", "post_layernorm.bias", "embeddings.position_ids")
"""Tensors of the vision transformer that no hidden state depends on; they travel along for the way back."""

LLM = (
    Row("embed_tokens.weight", "embedding", Kind.COPY),
    *_norm("layers.{n}.input_layernorm", "decoder/layers_{n}/attention_norm", bias=False),
    *_module("layers.{n}.self_attn.q_proj", "decoder/layers_{n}/query", bias=False),
    *_module("layers.{n}.self_attn.k_proj", "decoder/layers_{n}/key", bias=False),
    *_module("layers.{n}.self_attn.v_proj", "decoder/layers_{n}/value", bias=False),
    *_module("layers.{n}.self_attn.o_proj", "decoder/layers_{n}/out", Kind.OUT, bias=False),
    *_norm("layers.{n}.post_attention_layernorm", "decoder/layers_{n}/mlp_norm", bias=False),
    *_module("layers.{n}.mlp.gate_proj", "decoder/layers_{n}/gate", bias=False),
    *_module("layers.{n}.mlp.up_proj", "decoder/layers_{n}/up", bias=False),
    *_module("layers.{n}.mlp.down_proj", "decoder/layers_{n}/down", bias=False),
    *_norm("norm", "final_norm", bias=False),
)
"""LLaMA, Vicuna and Mistral, without the output head, whose place differs between layouts."""

ADAPTED = {
    row.torch.removeprefix("layers.{n}.").removesuffix(".weight"): row.ours.split("/")[-2]
    for row in LLM
    if row.ours.endswith("/kernel")
}
"""Modules of a decoder layer that LoRA may adapt, and what they are to us: `self_attn.q_proj` is `query`."""

LLM_PREFIXES = ("model.", "language_model.model.", "model.language_model.")
"""Where models keep their language model: LLaMA and LLaVA, `llava-hf` as in its files, and as in transformers 5."""

LLM_NEVER_READ = ("layers.{n}.self_attn.rotary_emb.inv_freq",)
"""Buffers that old checkpoints carry; computed from the config instead."""

FUSER = (
    Row("gamma1", "gamma1", Kind.COPY),
    Row("gamma2", "gamma2", Kind.COPY),
    *_norm("query_norm", "query_norm"),
    *_norm("feat_norm", "feature_norm"),
    *_norm("norm1", "self_norm"),
    *(
        row
        for torch, ours in (("cross_attn", "cross_attention"), ("self_attn", "self_attention"))
        for row in (
            *_module(f"{torch}.sampling_offsets", f"{ours}/sampling_offsets"),
            *_module(f"{torch}.attention_weights", f"{ours}/attention_weights"),
            *_module(f"{torch}.value_proj", f"{ours}/value"),
            *_module(f"{torch}.output_proj", f"{ours}/out"),
        )
    ),
)
"""MMFuser's `MSCrossAttnBlock`."""


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """Where a layout keeps each part; None where it has no such part.

    Attributes:
      vision, llm, head: what stands before the keys of their tables; `head` is the whole module name.
      fuser: before the keys of FUSER.
      projector: module name of every dense layer, in order.
      newline: key of the learned vector that ends a row of tiles.
      adapter: before the keys of the language model's LoRA factors.
    """

    vision: str | None = None
    llm: str | None = None
    head: str | None = None
    fuser: str | None = None
    projector: tuple[str, ...] | None = None
    newline: str | None = None
    adapter: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of our parameter tree that the layout holds."""
        named = {
            "vision_encoder": self.vision,
            "fuser": self.fuser,
            "projector": self.projector,
            "llm": self.llm,
            "image_newline": self.newline,
        }
        return tuple(part for part, prefix in named.items() if prefix is not None)


@dataclasses.dataclass(frozen=True)
class Target:
    """Our side of a torch key.

    Attributes:
      path: parameter with unrolled layers; None where we have none.
      kind: how its axes turn.
      home: "part:key within the part's table", the same in every layout.
    """

    path: str | None
    kind: Kind
    home: str


def key_table(config: VlmConfig, prefixes: Prefixes) -> dict[str, Target]:
    """Every torch key that a model of this shape may have in this layout, and what it is to us."""
    table: dict[str, Target] = {}

    def add(part: str, prefix: str, rows: tuple[Row, ...], unread: tuple[str, ...], depth: int) -> None:
        for row, layer in _expand(rows, depth):
            key = row.torch.format(n=layer)
            table[prefix + key] = Target(f"{part}/{row.ours}".format(n=layer), row.kind, f"{part}:{key}")
        for key in unread:
            for layer in range(depth if "{n}" in key else 1):
                name = key.format(n=layer)
                table[prefix + name] = Target(None, Kind.COPY, f"{part}:{name}")

    if prefixes.vision is not None:
        add("vision_encoder", prefixes.vision, VISION, VISION_NEVER_READ, config.vision.depth)
    if prefixes.llm is not None:
        add("llm", prefixes.llm, LLM, LLM_NEVER_READ, config.llm.depth)
        if prefixes.head is not None:
            path = None if config.llm.tied_head else "llm/head"  # tied: a copy of the embedding
            table[f"{prefixes.head}.weight"] = Target(path, Kind.IN, "llm:head")
    if prefixes.adapter is not None and config.llm.lora is not None:
        add("llm", prefixes.adapter, adapter_rows(config.llm.lora), (), config.llm.depth)
    if prefixes.fuser is not None:
        add("fuser", prefixes.fuser, FUSER, (), 0)
    for index, module in enumerate(prefixes.projector or ()):
        for row in _module(module, f"projector/layers_{index}"):
            table[row.torch] = Target(row.ours, row.kind, row.ours)
    if prefixes.newline is not None:
        table[prefixes.newline] = Target("image_newline", Kind.COPY, "image_newline")
    return table


def adapter_rows(lora: LoraConfig) -> tuple[Row, ...]:
    """PEFT's factors of a language model: A [r, in] is `lora_a` [*in, r], B [out, r] is `lora_b` [r, *out]."""
    return tuple(
        Row(f"layers.{{n}}.{module}.lora_{factor}.weight", f"decoder/layers_{{n}}/{name}/lora_{factor.lower()}", kind)
        for module, name in ADAPTED.items()
        if name in lora.targets
        for factor, kind in (("A", Kind.OUT), ("B", Kind.IN))
    )


def _expand(rows: tuple[Row, ...], depth: int) -> Iterator[tuple[Row, int]]:
    for row in rows:
        for layer in range(depth if "{n}" in row.torch else 1):
            yield row, layer


def patch_shape(config: VlmConfig) -> tuple[int, ...]:
    """Shape of the patch convolution's torch tensor, [D, 3, p, p]."""
    return config.vision.width, 3, config.vision.patch_size, config.vision.patch_size


def torch_shape(shape: tuple[int, ...], kind: Kind, conv: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Shape of the torch tensor that becomes a parameter of `shape`; `conv` is [D, 3, p, p] for Kind.CONV."""
    if kind is Kind.IN:
        return int(np.prod(shape[1:])), shape[0]
    if kind is Kind.OUT:
        return shape[-1], int(np.prod(shape[:-1]))
    if kind is Kind.BIAS:
        return (int(np.prod(shape)),)
    return conv if kind is Kind.CONV else shape


def to_ours(tensor: np.ndarray, kind: Kind, shape: tuple[int, ...]) -> np.ndarray:
    """A torch tensor as our parameter of `shape`; contiguous, same dtype, same bits."""
    if kind is Kind.CONV:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif kind in (Kind.IN, Kind.OUT):
        tensor = _transpose(tensor)
    return np.ascontiguousarray(tensor).reshape(shape)


def to_torch(param: np.ndarray, kind: Kind, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_ours`: our parameter as the torch tensor of `shape`."""
    if kind is Kind.CONV:
        width, channels, rows, columns = shape
        param = param.reshape(rows, columns, channels, width).transpose(3, 2, 0, 1)
    elif kind in (Kind.IN, Kind.OUT):
        param = _transpose(param.reshape(shape[::-1]))
    return np.ascontiguousarray(param).reshape(shape)


def _transpose(matrix: np.ndarray, strip: int = 64) -> np.ndarray:
    """A contiguous transpose, made in strips that fit the cache: twice as fast as NumPy's on a language model's sizes."""
    bits = matrix.view(f"u{matrix.dtype.itemsize}")  # plain integers copy faster than bfloat16
    out = np.empty(matrix.shape[::-1], bits.dtype)
    for start in range(0, len(bits), strip):
        out[:, start : start + strip] = bits[start : start + strip].T
    return out.view(matrix.dtype)
