"""Named shapes, checked against the published config.json values and parameter counts (tests/test_presets.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mmfuser_jax.models import ClipVitConfig, FuserConfig, LlamaConfig, ProjectorConfig, VlmConfig

CLIP_VIT_L_14_336 = ClipVitConfig(
    width=1024, depth=24, heads=16, mlp_width=4096, image_size=336, patch_size=14, scan_layers=True
)
"""openai/clip-vit-large-patch14-336."""

VICUNA_7B = LlamaConfig(
    vocab_size=32_000, width=4096, depth=32, heads=32, kv_heads=32, mlp_width=11_008, scan_layers=True
)
"""lmsys/vicuna-7b-v1.5, which is LLaMA-2-7B's shape."""

VICUNA_13B = LlamaConfig(
    vocab_size=32_000, width=5120, depth=40, heads=40, kv_heads=40, mlp_width=13_824, scan_layers=True
)
"""lmsys/vicuna-13b-v1.5, which is LLaMA-2-13B's shape."""

MMFUSER = FuserConfig(key_layers=(3, 8, 13, 18), heads=16, points=4)
"""The published fuser over ViT-L: `mm_vision_select_layer = list-22/-17/-12/-7/-2`, the last being the query."""


def _large(llm: LlamaConfig, fuser: FuserConfig | None) -> VlmConfig:
    return VlmConfig(vision=CLIP_VIT_L_14_336, llm=llm, projector=ProjectorConfig("mlp2x_gelu"), fuser=fuser)


def tiny() -> VlmConfig:
    """Smallest model with every part in use, for unit tests: 16 patches, under 0.3M parameters."""
    return VlmConfig(
        vision=ClipVitConfig(width=32, depth=6, heads=4, mlp_width=64, image_size=32, patch_size=8),
        llm=LlamaConfig(vocab_size=128, width=48, depth=2, heads=4, kv_heads=2, mlp_width=96),
        fuser=FuserConfig(key_layers=(1, 2, 3, 4), heads=4, points=4),
    )


def easy_vqa(vocab_size: int) -> VlmConfig:
    """The main job's model: trains from scratch in minutes on two CPU cores (64×64 pictures, 64 patches)."""
    return VlmConfig(
        vision=ClipVitConfig(width=96, depth=6, heads=3, mlp_width=384, image_size=64, patch_size=8, scan_layers=True),
        llm=LlamaConfig(vocab_size=vocab_size, width=96, depth=2, heads=3, kv_heads=3, mlp_width=256, scan_layers=True),
        fuser=FuserConfig(key_layers=(1, 2, 3, 4), heads=4, points=4),
        # Pixels in [-1, 1]: statistics of the pale easy-VQA pictures would push black and grey together.
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    )


def small(vocab_size: int) -> VlmConfig:
    """For MMInstruct-shaped pictures on a laptop: 168×168 pixels, 144 patches, 3M parameters at 4,096 tokens."""
    return VlmConfig(
        vision=ClipVitConfig(
            width=128, depth=6, heads=4, mlp_width=512, image_size=168, patch_size=14, scan_layers=True
        ),
        llm=LlamaConfig(
            vocab_size=vocab_size, width=128, depth=3, heads=4, kv_heads=4, mlp_width=384, scan_layers=True
        ),
        fuser=FuserConfig(key_layers=(1, 2, 3, 4), heads=4, points=4),
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    )


PRESETS: dict[str, Callable[[], VlmConfig]] = {
    "tiny": tiny,
    "tiny_llava": lambda: dataclasses.replace(tiny(), fuser=None),
    "llava_7b": lambda: _large(VICUNA_7B, None),
    "llava_13b": lambda: _large(VICUNA_13B, None),
    "mmfuser_7b": lambda: _large(VICUNA_7B, MMFUSER),
    "mmfuser_13b": lambda: _large(VICUNA_13B, MMFUSER),
}
"""Whole models by name; `llava_*` are LLaVA-1.5, `mmfuser_*` add the fuser, `tiny*` are for tests."""
