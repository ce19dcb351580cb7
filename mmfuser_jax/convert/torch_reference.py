"""The reference computation in PyTorch: transformers' own CLIP, LLaMA and Mistral, and MMFuser by `grid_sample`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral

from mmfuser_jax.convert import configs
from mmfuser_jax.convert.probe import At, Probe, Stage
from mmfuser_jax.convert.reading import TorchCheckpoint
from mmfuser_jax.convert.source import Tensor
from mmfuser_jax.types import IMAGE_TOKEN_INDEX

LLM_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window",
    "max_position_embeddings",
)  # fmt: skip
"""What transformers reads of a config.json; it fills in its own defaults, so that ours are checked too."""

EAGER: dict[str, Any] = {"attn_implementation": "eager"}
"""Attention as transformers spells it out, without a fused kernel."""

FUSER_NORM_EPSILON = 1e-6
"""MMFuser's, fixed in its code."""


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (arXiv 2010.04159) of square pictures, by the names of MMFuser's checkpoints."""

    def __init__(self, width: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.shape = (heads, levels, points)
        samples = heads * levels * points
        self.sampling_offsets = nn.Linear(width, 2 * samples)
        self.attention_weights = nn.Linear(width, samples)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def forward(self, query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """[n, Q, D] from queries [n, Q, D] and levels [n, F Q, D], one after the other, each on the queries' grid."""
        count, queries, width = query.shape
        heads, levels, points = self.shape
        side = round(queries**0.5)
        offsets = self.sampling_offsets(query).view(count, queries, heads, levels, points, 2)
        weights = self.attention_weights(query).view(count, queries, heads, levels * points).softmax(dim=-1)
        weights = weights.view(count, queries, heads, levels, points)
        places = _pixel_centres(side)[None, :, None, None, None] + offsets / side
        value = self.value_proj(value).view(count, levels, side, side, heads, width // heads)
        out = torch.zeros(count * heads, width // heads, queries)
        for level in range(levels):
            # Whatever the model computes in, the reference reads and weights in float32.
            pictures = value[:, level].permute(0, 3, 4, 1, 2).flatten(0, 1).float()
            grid = 2 * places[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # [n N, Q, K, 2]
            read = functional.grid_sample(
                pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )  # [n N, H, Q, K]
            out += (read * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(dim=-1)
        return self.output_proj(out.view(count, width, queries).transpose(1, 2).to(query.dtype))


def _pixel_centres(side: int) -> torch.Tensor:
    """[side * side, 2]: (x, y) in [0, 1], row by row."""
    centres = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


class FuserBlock(nn.Module):
    """MMFuser's block (arXiv 2410.11829, section 3.2), by the names of its checkpoints."""

    def __init__(self, width: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.gamma1, self.gamma2 = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.query_norm, self.feat_norm, self.norm1 = (nn.LayerNorm(width, FUSER_NORM_EPSILON) for _ in range(3))
        self.cross_attn = DeformableAttention(width, levels, heads, points)
        self.self_attn = DeformableAttention(width, 1, heads, points)

    def forward(self, query: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        """[n, Q, D] from the deep layer [n, Q, D] and the shallow ones, alike in shape."""
        found = self.cross_attn(self.query_norm(query), self.feat_norm(torch.cat(levels, dim=1)))
        normed = self.norm1(found)
        found = found + self.gamma2 * self.self_attn(normed, normed)
        return query + self.gamma1 * found


class TorchReference:
    """A torch checkpoint, run from its own tensors and its own config.json. float32; one decoder layer at a time."""

    def __init__(self, checkpoint: TorchCheckpoint) -> None:
        """Reads configs only; `checkpoint` is a whole model."""
        transformers.logging.set_verbosity_error()
        self._config = checkpoint.config
        self._tensors = {matched.target.home: matched.tensor for matched in checkpoint.params.values()}
        folders = checkpoint.folders
        self._fields = folders[0].fields
        base = next(f.fields for f in folders if f.prefixes.llm is not None and not f.overlay) or self._fields
        self._llm = llm_config(base.get("text_config", base))
        self._modeling, self._family = (
            (modeling_mistral, "Mistral") if self._llm.model_type == "mistral" else (modeling_llama, "Llama")
        )

    def stages(self, probe: Probe) -> Iterator[Stage]:
        """Every stage from pixels to loss, in the order of computation."""
        layers, keep_class = self._selection()
        states = [state if keep_class else state[:, 1:] for state in self._vision(probe.pixels, layers)]
        for index, state in zip(layers, states, strict=True):
            yield Stage(At.HIDDEN, state.numpy(), index)
        yield Stage(At.SELECTED, states[-1].numpy())
        features = states[-1]
        if len(layers) > 1:
            features = self._fuse(features, states[:-1])
            yield Stage(At.FUSED, features.numpy())
        features = self._project(features)
        yield Stage(At.PROJECTED, features.numpy())
        x = self._merge(probe.ids, features)
        yield Stage(At.MERGED, x.numpy())
        for index in range(self._llm.num_hidden_layers):
            x = self._layer(index, x)
            yield Stage(At.LAYER, x.numpy(), index)
        logits = self._logits(x, probe.vocab)
        yield Stage(At.LOGITS, logits.numpy())
        loss = functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(probe.targets).long().flatten())
        yield Stage(At.LOSS, loss.numpy())

    def _selection(self) -> tuple[list[int], bool]:
        """Hidden states to read, counted from the embedding (0): keys of the fuser, then query; class token kept?

        MMFuser takes as keys the first four of whatever it is given.
        """
        layer = self._fields.get("mm_vision_select_layer", self._fields.get("vision_feature_layer", -2))
        feature = self._fields.get("mm_vision_select_feature", self._fields.get("vision_feature_select_strategy"))
        *shallow, deep = layer if isinstance(layer, list) else [int(layer)]
        chosen = [*shallow[: self._fields.get("mm_fuser_levels", 4)], deep]
        states = self._config.vision.depth + 1
        return [k if k >= 0 else k + states for k in chosen], feature in ("cls_patch", "full")

    @torch.inference_mode()
    def _vision(self, pixels: np.ndarray, layers: list[int]) -> list[torch.Tensor]:
        """Hidden states [n, 1 + P, D]. Layers beyond the deepest are not built: exports may lack them."""
        fields = {**configs.vision_fields(self._config.vision), "num_hidden_layers": max(layers), **EAGER}
        with torch.device("meta"):
            model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**fields))
        tower = getattr(model, "vision_model", model)  # transformers 5 moved it up between its minor versions
        tower.post_layernorm = nn.Identity()  # no hidden state goes through it
        self._load(tower, "vision_encoder:")
        tower.embeddings.position_ids = torch.arange(self._config.vision.patches + 1)[None]  # computed, not stored
        if pixels.dtype == np.uint8:
            mean, std = (np.asarray(x, np.float32) for x in (self._config.image_mean, self._config.image_std))
            pixels = (pixels.astype(np.float32) / 255 - mean) / std
        shown = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        states = model.eval()(shown, output_hidden_states=True).hidden_states
        return [states[layer] for layer in layers]

    @torch.inference_mode()
    def _fuse(self, query: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        heads, points = self._fields.get("mm_fuser_heads", 16), self._fields.get("mm_fuser_points", 4)
        return self._load(FuserBlock(query.shape[-1], len(levels), heads, points), "fuser:")(query, levels)

    @torch.inference_mode()
    def _project(self, x: torch.Tensor) -> torch.Tensor:
        state, layer = self._state("projector/"), 0
        while f"layers_{layer}/kernel" in state:
            x = functional.gelu(x) if layer else x
            x = functional.linear(x, state[f"layers_{layer}/kernel"], state[f"layers_{layer}/bias"])
            layer += 1
        return x

    @torch.inference_mode()
    def _merge(self, ids: np.ndarray, features: torch.Tensor) -> torch.Tensor:
        """[B, T, D]: embeddings of the ids, each marker replaced by its picture, rows of which may end in a vector."""
        if "image_newline" in self._tensors:
            side = round(features.shape[1] ** 0.5)
            newline = _read(self._tensors["image_newline"]).expand(len(features), side, 1, -1)
            features = torch.cat([features.unflatten(1, (side, side)), newline], dim=2).flatten(1, 2)
        table = self._tensors["llm:embed_tokens.weight"].read()
        rows = []
        for row, picture in zip(ids, features, strict=True):
            (marker,) = np.flatnonzero(row == IMAGE_TOKEN_INDEX)
            before, after = (torch.from_numpy(table[x].astype(np.float32)) for x in (row[:marker], row[marker + 1 :]))
            rows.append(torch.cat([before, picture, after]))
        return torch.stack(rows)

    @torch.inference_mode()
    def _layer(self, index: int, x: torch.Tensor) -> torch.Tensor:
        with torch.device("meta"):  # no random weights first: they would take longer than the layer itself
            layer = self._class("DecoderLayer")(self._llm, index)
        self._load(layer, f"llm:layers.{index}.")
        positions = torch.arange(x.shape[1])[None]
        rotary = self._class("RotaryEmbedding")(self._llm)(x, positions)
        return layer(x, attention_mask=self._mask(x.shape[1]), position_ids=positions, position_embeddings=rotary)

    def _mask(self, length: int) -> torch.Tensor:
        """[1, 1, T, T] to add to attention scores."""
        window = getattr(self._llm, "sliding_window", None)
        sees: Any = sliding_window_causal_mask_function(window) if window else causal_mask_function
        slots = torch.arange(length)
        seen = sees(0, 0, slots[:, None], slots[None, :])
        return torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]

    @torch.inference_mode()
    def _logits(self, x: torch.Tensor, vocab: int) -> torch.Tensor:
        norm = self._load(self._class("RMSNorm")(self._llm.hidden_size, self._llm.rms_norm_eps), "llm:norm.")
        head = self._tensors.get("llm:head", self._tensors["llm:embed_tokens.weight"])  # the latter where they are tied
        return functional.linear(norm(x), _read(head)[:vocab])

    def _class(self, name: str) -> Any:
        return getattr(self._modeling, f"{self._family}{name}")

    def _state(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): _read(x) for k, x in self._tensors.items() if k.startswith(prefix)}

    def _load(self, module: Any, prefix: str) -> Any:
        """`module` with the tensors of `prefix`, all of them and no others."""
        module.load_state_dict(self._state(prefix), assign=True)
        return module.eval()


def llm_config(fields: dict[str, Any]) -> Any:
    """transformers' config of the language model that a config.json describes."""
    mistral = fields.get("model_type", "llama").endswith("mistral")
    known = {name: fields[name] for name in LLM_FIELDS if name in fields}
    return (transformers.MistralConfig if mistral else transformers.LlamaConfig)(**known, **EAGER)


def _read(tensor: Tensor) -> torch.Tensor:
    return torch.from_numpy(tensor.read().astype(np.float32))
