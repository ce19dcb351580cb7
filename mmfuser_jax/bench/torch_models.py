"""The peers: the same models made of transformers' parts and MMFuser's block, with a copy of our parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional

from mmfuser_jax import layout
from mmfuser_jax.convert.configs import llm_fields, vision_fields
from mmfuser_jax.convert.layouts import detect
from mmfuser_jax.convert.tables import key_table, patch_shape, to_torch, torch_shape
from mmfuser_jax.convert.torch_reference import FuserBlock
from mmfuser_jax.models import VlmConfig
from mmfuser_jax.train.optim import OptimizerConfig, flatten
from mmfuser_jax.types import IGNORE_INDEX, Batch

FUSED: dict[str, Any] = {"attn_implementation": "sdpa"}
"""torch's fused attention."""


class TorchVlm(nn.Module):
    """CLIP, MMFuser's block and LLaVA's projector, and LLaMA, float32; modules carry the names of LLaVA's checkpoints."""

    def __init__(self, config: VlmConfig) -> None:
        """`config.projector` is an MLP and pictures are one tile each."""
        super().__init__()
        transformers.logging.set_verbosity_error()
        self.config = config
        vision = {**vision_fields(config.vision), "num_hidden_layers": max(config.states), **FUSED}
        self.vision_tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision))
        tower = getattr(self.vision_tower, "vision_model", self.vision_tower)
        tower.post_layernorm = nn.Identity()  # no hidden state goes through it
        self.mm_projector = nn.ModuleList()
        if config.fuser is not None:
            levels = len(config.fuser.key_layers)
            self.mm_projector.append(FuserBlock(config.vision.width, levels, config.fuser.heads, config.fuser.points))
        for layer in range(config.projector.depth):
            self.mm_projector.extend([nn.GELU()] if layer else [])
            self.mm_projector.append(nn.Linear(config.llm.width if layer else config.vision.width, config.llm.width))
        self.llm = transformers.LlamaForCausalLM(transformers.LlamaConfig(**llm_fields(config.llm), **FUSED))
        self.llm.generation_config.eos_token_id = None  # random weights would end at random

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected patches [n, P, E] of uint8 pictures [n, height, width, 3]."""
        mean, std = (torch.tensor(x) for x in (self.config.image_mean, self.config.image_std))
        shown = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        states = self.vision_tower(shown, output_hidden_states=True).hidden_states
        *levels, x = (states[layer][:, 1:] for layer in self.config.states)
        layers = list(self.mm_projector)
        if self.config.fuser is not None:
            x = layers.pop(0)(x, levels)
        for layer in layers:
            x = layer(x)
        return x

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of rows that show one picture after their first token; `ids` holds anything in its place."""
        text = self.llm.model.embed_tokens(ids)
        picture = self.encode_images(pixels)
        merged = torch.cat([text[:, :1], picture, text[:, 1 + picture.shape[1] :]], dim=1)
        return self.llm(inputs_embeds=merged, use_cache=False).logits


def load_params(module: nn.Module, config: VlmConfig, params: Any) -> None:
    """Copies our parameters into a torch model, every one that it has.

    Raises:
      RuntimeError: the model has other parameters, or of other shapes.
    """
    flat = {path: np.asarray(x) for path, x in flatten(params).items()}
    state = {}
    for key, target in key_table(config, detect(module.state_dict().keys())).items():
        if target.path is None or key not in module.state_dict():
            continue
        found = layout.sources(target.path, (), flat)
        ours = layout.assemble({path: flat[path] for path, _ in found}, found)
        shape = torch_shape(ours.shape, target.kind, patch_shape(config))
        state[key] = torch.from_numpy(to_torch(ours, target.kind, shape).copy())
    module.load_state_dict(state, strict=True)


def make_train_step(
    module: TorchVlm, config: OptimizerConfig, frozen: str = "", forward: Callable[..., Any] | None = None
) -> Callable[[Batch], torch.Tensor]:
    """A step of AdamW with clipped gradients at the peak rate of the last rule: batch → loss.

    Args:
      module: trained in place.
      config: as ours; decay on matrices only.
      frozen: beginning of the names of parameters that do not train; "" trains all.
      forward: (pixels, ids) → logits, by default the module itself; its compiled form, for one.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not (frozen and name.startswith(frozen)))
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [x for x in trained if x.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [x for x in trained if x.ndim <= 1], "weight_decay": 0.0},
    ]
    rate = config.rules[-1].learning_rate or 0.0
    optimizer = torch.optim.AdamW(groups, rate, (config.b1, config.b2), config.epsilon, fused=True)

    def step(batch: Batch) -> torch.Tensor:
        pixels, ids, targets = (torch.from_numpy(x) for x in (batch.pixels[:, 0], batch.tokens, batch.targets))
        optimizer.zero_grad(set_to_none=True)
        logits = (module if forward is None else forward)(pixels, ids)  # a compiled module has no truth value
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.long().flatten(), ignore_index=IGNORE_INDEX)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm, foreach=True)
        optimizer.step()
        return loss.detach()

    return step


def generate(llm: Any, ids: np.ndarray, new: int, cache: str = "dynamic") -> np.ndarray:
    """Greedy new tokens [B, new] of prompts of equal length.

    Args:
      llm: transformers' model, one that never ends by itself.
      ids: int32[B, T].
      new: tokens to draw.
      cache: "dynamic" or "static".
    """
    shown = torch.from_numpy(ids).long()
    options = {"do_sample": False, "max_new_tokens": new, "cache_implementation": cache, "pad_token_id": 0}
    with torch.inference_mode():
        out = llm.generate(shown, attention_mask=torch.ones_like(shown), **options)
    return out[:, ids.shape[1] :].numpy()
