"""Model FLOPs: what the mathematics of a step costs, whatever program computes it.

A product of [n, in] with [in, out] is 2 · n · in · out. Matrices count by their shapes, so that adapters and any layout
of the layers are counted as they are; attention, which has no parameters, by formula. Norms, activations, embeddings
and the optimizer are left out: they are well under 1 %.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping

from mmfuser_jax.models.quantized import FORMATS, weights
from mmfuser_jax.models.vlm import VlmConfig

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of parameters by path, "llm/decoder/layers/query/kernel"."""

PARTS = ("vision_encoder", "fuser", "projector", "llm", "head")
"""In the order in which data goes through them."""

BLOCKS = ("vision_encoder", "llm")
"""Parts whose blocks can be rematerialised."""

MATRIX = re.compile(rf".*/(kernel(/({'|'.join(FORMATS)}))?|lora_[ab]|head)$")
FIRST = re.compile(r"(vision_encoder/patch_embedding|projector/layers_0)/")
"""Matrices that only see the input of their part: with nothing trained before, nobody asks for its gradient."""
LAST = re.compile(r".*/(mlp_out|down)/")
"""Matrices whose product ends a block: the backward pass does not read it, so that it is not computed again."""


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of a part of the model in one step over the global batch.

    Attributes:
      forward: of the forward pass.
      backward: of the gradients that are needed: of trained matrices, and of activations that lead to trained parameters.
      recomputed: of what rematerialised blocks compute again for the backward pass; not part of model FLOPs.
    """

    forward: float = 0.0
    backward: float = 0.0
    recomputed: float = 0.0

    @property
    def model(self) -> float:
        """What MFU counts."""
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward, self.recomputed + other.recomputed)


def total(parts: Mapping[str, Flops]) -> Flops:
    """All parts together."""
    return sum(parts.values(), Flops())


def train_flops(
    config: VlmConfig,
    shapes: Shapes,
    *,
    rows: int,
    length: int,
    tiles: int,
    trained: Collection[str] = (),
    remat: str = "none",
) -> dict[str, Flops]:
    """FLOPs of a training step, by part.

    Causal attention counts the pairs on and below the diagonal of a whole row; packed segments see less of it.

    Args:
      config: the model that runs (without fuser in stages that leave it out).
      shapes: of all parameters; those of parts that do not run are ignored.
      rows, length, tiles: of the global batch: B, T, I.
      trained: paths of the parameters that train; none for a forward pass alone.
      remat: key of `layers.REMAT_POLICIES`.
    """
    images = rows * tiles
    backward = _needs_gradient(config, trained)
    attention = _attention(config, rows, images, length)
    counts = {part: Flops() for part in PARTS if part != "fuser" or config.fuser is not None}
    for path, shape in shapes.items():
        part = _part(config, path)
        if part not in counts or not (MATRIX.match(path) or part == "head"):
            continue
        forward = 2.0 * weights(path, shape) * _tokens(config, path, part, rows * length, images)
        before = any(backward[other] for other in PARTS[: PARTS.index(part)])
        asks = before if FIRST.match(path) else backward[part]
        again = part in BLOCKS and backward[part] and remat in ("full", "attention") and not LAST.match(path)
        counts[part] += Flops(forward, forward * ((path in trained) + asks), forward * again)
    for part, forward in attention.items():
        if part in counts:
            again = part in BLOCKS and backward[part] and remat in ("full", "dots")
            counts[part] += Flops(forward, 2 * forward * backward[part], forward * again)
    return counts


def decode_flops(config: VlmConfig, shapes: Shapes, *, rows: int, slots: int) -> dict[str, Flops]:
    """FLOPs of drawing one more token in each of so many rows, which all look at so many cached tokens; by part."""
    llm = config.llm
    attention = 4.0 * rows * slots * llm.heads * llm.head_width * llm.depth
    counts = {"llm": Flops(attention), "head": Flops()}
    for path, shape in shapes.items():
        part = _part(config, path)
        if part in counts and (MATRIX.match(path) or part == "head"):
            counts[part] += Flops(2.0 * rows * weights(path, shape))
    return counts


def _part(config: VlmConfig, path: str) -> str:
    if path == "llm/head" or (path == "llm/embedding" and config.llm.tied_head):
        return "head"
    return path.split("/")[0]


def _tokens(config: VlmConfig, path: str, part: str, tokens: int, images: int) -> int:
    """How many vectors a matrix multiplies."""
    patches = images * config.vision.patches
    if part == "vision_encoder":
        return patches if "patch_embedding" in path else patches + images
    if part == "fuser":
        levels = len(config.fuser.key_layers) if config.fuser else 0
        return patches * (levels if "cross_attention/value" in path else 1)
    if part == "projector":
        return images * config.image_tokens
    return tokens


def _attention(config: VlmConfig, rows: int, images: int, length: int) -> dict[str, float]:
    """Forward FLOPs of attention: two products per pair of tokens that see each other."""
    vision, llm = config.vision, config.llm
    window = min(llm.sliding_window or length, length)
    pairs = length * window - window * (window - 1) // 2  # the first queries see fewer
    found = {
        "vision_encoder": 4.0 * images * (vision.patches + 1) ** 2 * vision.width * max(config.states),
        "llm": 4.0 * rows * pairs * llm.heads * llm.head_width * llm.depth,
    }
    if config.fuser is not None:
        # Four neighbours of every point, in the key levels and then once more in the result.
        samples = 4 * config.fuser.points * (len(config.fuser.key_layers) + 1)
        found["fuser"] = 2.0 * images * vision.patches * samples * vision.width
    return found


def _needs_gradient(config: VlmConfig, trained: Collection[str]) -> dict[str, bool]:
    """Whether a part passes gradients on to its own parameters or to parts before it."""
    first = {"head" if path == "llm/head" else _part(config, path) for path in trained}
    if config.fuser is None:
        first.discard("fuser")
    if "llm/embedding" in trained:  # enters before the blocks, tied to the head or not
        first.add("llm")
    needs, seen = {}, False
    for part in PARTS:
        # The head's own gradient needs none of its input.
        seen = seen or (part in first and part != "head")
        needs[part] = seen
    return needs
