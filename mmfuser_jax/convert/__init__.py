"""Torch checkpoints in and out: LLaVA, MMFuser, llava-hf, CLIP, LLaMA, Vicuna, Mistral; strict, streamed, bit for bit."""

from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.convert.reading import TorchCheckpoint, open_checkpoint
from mmfuser_jax.convert.source import has_weights
from mmfuser_jax.convert.to_ours import place_params, write_model_folder
from mmfuser_jax.convert.to_torch import write_torch_folder

__all__ = [
    "ConversionError",
    "TorchCheckpoint",
    "has_weights",
    "open_checkpoint",
    "place_params",
    "write_model_folder",
    "write_torch_folder",
]
