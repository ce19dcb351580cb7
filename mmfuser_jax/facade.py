"""What a notebook user meets first: `load` a model folder, then ask it about pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from mmfuser_jax import model_folder, sharding
from mmfuser_jax.checkpoint import restore_params
from mmfuser_jax.data import Tokenizer, Turn, encode_prompt, load_tokenizer
from mmfuser_jax.data.images import fit_image
from mmfuser_jax.data.packing import expand_images
from mmfuser_jax.data.records import IMAGE_MARKER
from mmfuser_jax.generate import Engine, Sampling
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import abstract_params
from mmfuser_jax.types import IMAGE_TOKEN_INDEX, Batch, VisualFeatures

NO_TOKEN = -1
"""End token of a model without a tokenizer: never drawn."""


class VisionLanguageModel:
    """A loaded model.

    Attributes:
      card: shape, template and preprocessing.
      model, params: the network.
      tokenizer: None where the folder has none; then only the methods on ids work.
      step: training step of the parameters.
    """

    def __init__(self, card: ModelCard, model: VLM, params: Any, tokenizer: Tokenizer | None, step: int = 0) -> None:
        self.card = card
        self.model = model
        self.params = params
        self.tokenizer = tokenizer
        self.step = step
        eos, pad = (tokenizer.eos_id, tokenizer.pad_id) if tokenizer else (NO_TOKEN, 0)
        self.engine = Engine(model, params, eos_id=eos, pad_id=pad)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """uint8[height, width, 3] at the encoder's size, by the model's own aspect rule."""
        config = self.model.config
        return fit_image(image, self.card.aspect, config.vision.image_size, config.image_mean)

    def generate(
        self,
        prompts: Sequence[str],
        images: Sequence[Image.Image | Sequence[Image.Image] | None],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """One answer per prompt.

        Args:
          prompts: questions; `<image>` may mark a picture's place, else pictures go first.
          images: for each prompt a picture, several, or None.
          max_new_tokens: of an answer.
          temperature: 0 is greedy.
          top_p: of the nucleus drawn from where temperature > 0.
          seed: of the draw.

        Raises:
          ValueError: no tokenizer, or lists of different lengths.
        """
        if len(prompts) != len(images):
            raise ValueError(f"{len(prompts)} prompts for {len(images)} image entries")
        shown = [[] if x is None else [x] if isinstance(x, Image.Image) else list(x) for x in images]
        conversations = [
            [Turn("human", prompt if IMAGE_MARKER in prompt else f"{IMAGE_MARKER}\n" * len(pictures) + prompt)]
            for prompt, pictures in zip(prompts, shown, strict=True)
        ]
        sampling = Sampling(temperature, top_p)
        return self.answer(conversations, shown, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)

    def answer(
        self,
        conversations: Sequence[Sequence[Turn]],
        images: Sequence[Sequence[Image.Image]],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        seed: int = 0,
    ) -> list[str]:
        """The next answer of every conversation, which ends with a human turn; pictures where `<image>` stands."""
        tokenizer = self._need_tokenizer()
        prompts = [encode_prompt(turns, tokenizer, self.card.template) for turns in conversations]
        pictures = [self.preprocess(image) for shown in images for image in shown]
        features = self.engine.encode_images(np.stack(pictures)) if pictures else None
        ends = np.cumsum([len(shown) for shown in images])
        rows = [range(end - len(shown), end) for end, shown in zip(ends, images, strict=True)]
        new = self.engine.generate(prompts, features, rows, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)
        return [tokenizer.decode(ids) for ids in new]

    def logits(self, input_ids: np.ndarray, pixel_values: np.ndarray | None = None) -> np.ndarray:
        """Logits of a full forward pass, LLaVA's calling convention.

        Args:
          input_ids: int[B, T], -200 where a picture goes.
          pixel_values: float[N, H, W, 3], normalised, consumed in reading order.

        Returns:
          float32[B, T', V]; T' counts each picture as its patches. Rows with fewer pictures are padded on the right,
          their logits there mean nothing.

        Raises:
          ValueError: markers and pictures differ in number.
        """
        batch = self._lay_out(np.asarray(input_ids), pixel_values)
        return np.asarray(_forward(self.model, self.params, batch))

    def generate_ids(
        self, input_ids: np.ndarray, pixel_values: np.ndarray | None = None, *, max_new_tokens: int = 64
    ) -> list[list[int]]:
        """Greedy new tokens (only) of every row of int[B, T], -200 for a picture; float[N, H, W, 3] pixels."""
        counts = [int(np.sum(row == IMAGE_TOKEN_INDEX)) for row in np.asarray(input_ids)]
        given = 0 if pixel_values is None else len(pixel_values)
        if sum(counts) != given:
            raise ValueError(f"{sum(counts)} image markers for {given} pictures")
        features = self.engine.encode_images(np.asarray(pixel_values)) if given else None
        ends = np.cumsum(counts)
        rows = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
        return self.engine.generate(list(np.asarray(input_ids)), features, rows, max_new_tokens=max_new_tokens)

    def visual_features(self, images: Sequence[Image.Image]) -> VisualFeatures:
        """Every stage of the visual path for some pictures, for inspection."""
        pixels = np.stack([self.preprocess(image) for image in images])
        return _visual_features(self.model, self.params, pixels)

    def _lay_out(self, input_ids: np.ndarray, pixel_values: np.ndarray | None) -> Batch:
        """Rows of ids and a flat list of pictures → a batch with the rows' own pictures beside them."""
        vision = self.model.config.vision
        expanded = [expand_images(row, vision.patches)[:2] for row in input_ids]
        counts = [int(index.max(initial=-1) + 1) // vision.patches for _, index in expanded]
        pixels = (
            np.zeros((0, vision.image_size, vision.image_size, 3), np.float32) if pixel_values is None else pixel_values
        )
        if sum(counts) != len(pixels):
            raise ValueError(f"{sum(counts)} image markers for {len(pixels)} pictures")
        length = max(len(tokens) for tokens, _ in expanded)
        shape = (len(expanded), length)
        tokens, index, segments = np.zeros(shape, np.int32), np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
        laid = np.zeros((len(expanded), max(1, *counts), *pixels.shape[1:]), np.float32)
        first = 0
        for row, ((ids, places), count) in enumerate(zip(expanded, counts, strict=True)):
            tokens[row, : len(ids)], index[row, : len(ids)], segments[row, : len(ids)] = ids, places, 1
            laid[row, :count] = pixels[first : first + count]
            first += count
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), shape)
        return Batch(tokens, tokens, positions, segments, np.zeros(shape, np.int32), index, laid)

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("this model folder has no tokenizer; only logits() and generate_ids() work")
        return self.tokenizer


def load(
    path: str | Path, *, dtype: Any = jnp.float32, mesh: Mesh | None = None, step: int | None = None
) -> VisionLanguageModel:
    """Loads a model folder: a training workdir or a converted model.

    Args:
      path: folder with model.json, checkpoints/ and, for text, tokenizer/.
      dtype: compute dtype.
      mesh: devices to spread the parameters over; by default all of them, along `data`.
      step: which checkpoint; None for the newest.

    Raises:
      ModelFolderError, CheckpointError: not a model, or none at this step.
    """
    folder = Path(path)
    card = model_folder.read_card(folder)
    model = VLM(card.config, dtype)
    shapes = abstract_params(model, mesh or sharding.make_mesh(data=-1))
    params, step = restore_params(folder / model_folder.CHECKPOINTS, shapes, step)
    tokenizer_folder = folder / model_folder.TOKENIZER
    tokenizer = load_tokenizer(tokenizer_folder) if tokenizer_folder.exists() else None
    return VisionLanguageModel(card, model, params, tokenizer, step)


_forward = jax.jit(lambda model, params, batch: model.apply({"params": params}, batch).logits, static_argnums=0)
_visual_features = jax.jit(
    lambda model, params, pixels: model.apply({"params": params}, pixels, method="visual_features"), static_argnums=0
)
