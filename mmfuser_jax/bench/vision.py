"""The visual path at full size, CLIP ViT-L/14-336 to image tokens, against transformers' CLIP in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import torch

from mmfuser_jax.bench import models, torch_models
from mmfuser_jax.bench.rows import BenchRow
from mmfuser_jax.bench.timing import Seconds, compare
from mmfuser_jax.models import VLM, VlmConfig

Encode = Callable[[np.ndarray], Any]
"""uint8[n, height, width, 3] → image tokens [n, P, E]."""


def encoders(config: VlmConfig) -> tuple[Encode, Encode]:
    """Ours and the peer's, with the same parameters."""
    model = VLM(config)
    params = models.params(model)
    peer = torch_models.TorchVlm(config).eval()
    torch_models.load_params(peer, config, params)
    encode = jax.jit(lambda params, pixels: model.apply({"params": params}, pixels[:, None], method="encode_images"))

    def theirs(pixels: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            return peer.encode_images(torch.from_numpy(pixels))

    return lambda pixels: encode(params, pixels), theirs


def pictures(config: VlmConfig, count: int) -> np.ndarray:
    """Random ones."""
    size = config.vision.image_size
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def measure(encode: tuple[Encode, Encode], shown: np.ndarray, repeats: int) -> Seconds:
    """Seconds for some pictures together."""
    ours, theirs = encode
    return compare(lambda: ours(shown), lambda: theirs(shown), repeats)


def run(repeats: int = 7) -> Iterator[BenchRow]:
    """One picture, and four together."""
    config = models.large_vision()
    encode = encoders(config)
    for count in (1, 4):
        seconds = measure(encode, pictures(config, count), repeats)
        note = "CLIP ViT-L/14-336 to layer 23, fuser, projector to 4096, float32"
        name = f"visual path, {count} picture{'s' if count > 1 else ''}"
        yield seconds.row(name, "transformers CLIP (sdpa), MMFuser's block", note)
