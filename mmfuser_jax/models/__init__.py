"""Flax Linen modules: pure functions of their parameters, sized by small frozen configs."""

from mmfuser_jax.models.clip_vit import ClipVit, ClipVitConfig
from mmfuser_jax.models.fuser import Fuser, FuserConfig
from mmfuser_jax.models.llama import Llama, LlamaConfig, RopeScaling
from mmfuser_jax.models.lora import LoraConfig
from mmfuser_jax.models.projector import Projector, ProjectorConfig
from mmfuser_jax.models.vlm import VLM, VlmConfig

__all__ = [
    "VLM",
    "ClipVit",
    "ClipVitConfig",
    "Fuser",
    "FuserConfig",
    "Llama",
    "LlamaConfig",
    "LoraConfig",
    "Projector",
    "ProjectorConfig",
    "RopeScaling",
    "VlmConfig",
]
