"""The reference's tiny checkpoints, loaded as a user would, and its tensors in our parameter tree."""

from __future__ import annotations

from functools import cache

import numpy as np

import mmfuser_jax as mm
from mmfuser_jax.convert.layouts import llava_prefixes
from mmfuser_jax.convert.tables import key_table, to_ours
from mmfuser_jax.facade import VisionLanguageModel
from mmfuser_jax.train.optim import flatten
from tests.conftest import GOLDEN

NAMES = ("mmfuser_tiny", "llava_tiny")


@cache
def load(name: str) -> VisionLanguageModel:
    """The model, straight from its PyTorch folder."""
    return mm.load(GOLDEN / name)


@cache
def stages(name: str) -> dict[str, np.ndarray]:
    """Inputs and every stage's output, as the reference computed them."""
    return dict(np.load(GOLDEN / name / "io.npz"))


@cache
def trajectory(name: str, stage: int) -> dict[str, np.ndarray]:
    """Batches, losses and final parameters of 20 training steps of the reference."""
    return dict(np.load(GOLDEN / name / f"train_stage{stage}.npz"))


def ours(name: str, tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Tensors named `prefix` + torch key (gradients, trained weights) by our paths, with our axes."""
    torch = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
    vlm = load(name)
    shapes = {path: x.shape for path, x in flatten(vlm.params).items()}
    table = key_table(vlm.model.config, llava_prefixes(vlm.model.config))
    return {
        table[key].path: to_ours(x, table[key].kind, shapes[table[key].path])
        for key, x in torch.items()
        if table[key].path in shapes
    }
