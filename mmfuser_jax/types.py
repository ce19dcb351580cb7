"""Shared vocabulary: axis letters, and the arrays that travel between packages.

Axis letters, used alike in einsums, annotations and docstrings:

    B batch rows            T tokens of a row          S keys a token may look at
    I images of a row       P patches of an image      V vocabulary
    D model width           N attention heads          H width of one head
    F feature levels        K sampling points          Q queries
    L layers                M hidden width of an MLP   G key/value heads

Function annotations spell shapes with these letters, and the tests check them at run time.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import struct

Array = jax.Array | np.ndarray
"""What functions of arrays accept."""

Leaf = Any
"""Field of a struct: an array of the shape its docstring gives, or that array's shape or sharding where JAX maps over it."""

IGNORE_INDEX = -100
"""Target value of a position that does not count in the loss (PyTorch's and LLaVA's convention)."""

IMAGE_TOKEN_INDEX = -200
"""Token id that stands for one whole picture before it is expanded to its patches (LLaVA's convention)."""

TEXT_SLOT = -1
"""Image index of a slot that holds a text token."""

NEWLINE_SLOT = -2
"""Image index of a slot that holds the learned end of a row of tiles (`image_newline` of LLaVA-1.6)."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Per-channel mean of [0, 1] pixels that CLIP was trained with."""

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per-channel standard deviation of [0, 1] pixels that CLIP was trained with."""


@struct.dataclass
class Batch:
    """What one training step consumes. All shapes are static; every row is padded on the right.

    A row holds one or more *segments* (examples packed together). Inside a segment, tokens of *branch* 0 form
    the trunk (usually the picture); branches 1, 2, … are independent continuations of that trunk, for example several
    questions about one picture. A token sees earlier tokens of its own segment that are in the trunk or in its branch.

    Attributes:
      tokens: int32[B, T]; anything at image slots.
      targets: int32[B, T]; the token that follows each position, or IGNORE_INDEX.
      positions: int32[B, T]; rotary positions, restarting in every segment and, after the trunk, in every branch.
      segment_ids: int32[B, T]; 1, 2, … for examples, 0 for padding.
      branch_ids: int32[B, T]; 0 for the trunk. None where no row branches: fast attention kernels need to know.
      image_index: int32[B, T]; for an image slot, which of the row's I*P patches it shows, or NEWLINE_SLOT; TEXT_SLOT
        at text.
      pixels: uint8[B, I, height, width, 3]; raw pixels, normalised on the device. A picture cut into tiles is several.
    """

    tokens: Leaf
    targets: Leaf
    positions: Leaf
    segment_ids: Leaf
    branch_ids: Leaf
    image_index: Leaf
    pixels: Leaf


@struct.dataclass
class KVCache:
    """Static-size key/value cache of the decoder. Slot j of a row holds the token at position j.

    Attributes:
      keys: float[L, B, S, G, H], rotary embedding already applied.
      values: float[L, B, S, G, H].
      lengths: int32[B]; slots in use. Slots beyond may hold stale padding: they are masked, then overwritten.
    """

    keys: Leaf
    values: Leaf
    lengths: Leaf


@struct.dataclass
class ModelOutput:
    """Logits float32[B, T, V] of a forward pass, and the updated cache where one was given."""

    logits: Leaf
    cache: KVCache | None = None


@struct.dataclass
class VisualFeatures:
    """Every stage of the visual path for N images, for inspection and plots.

    Attributes:
      levels: float[N, P, D] for each key layer of the fuser, shallow to deep; empty without a fuser.
      query: float[N, P, D], the selected deep layer.
      fused: float[N, P, D], what the projector sees (equal to `query` without a fuser).
      projected: float[N, P, E], at the width E of the language model.
    """

    levels: tuple[Leaf, ...]
    query: Leaf
    fused: Leaf
    projected: Leaf
