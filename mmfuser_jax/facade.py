"""What a notebook user meets first: `load` a model folder, then ask it about pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from mmfuser_jax import convert, hub, model_folder, sharding
from mmfuser_jax.checkpoint import restore_params
from mmfuser_jax.data import Tokenizer, Turn, decode_answer, encode_prompt, end_ids, load_tokenizer
from mmfuser_jax.data.packing import branch, pack_rows
from mmfuser_jax.data.pictures import Picture
from mmfuser_jax.data.records import IMAGE_MARKER
from mmfuser_jax.generate import Engine, Sampling
from mmfuser_jax.generate.engine import pad_rows
from mmfuser_jax.generate.placed import params_jit
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import abstract_params
from mmfuser_jax.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, VisualFeatures


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
        ends, pad = (end_ids(tokenizer, card.template), tokenizer.pad_id) if tokenizer else ((), 0)
        self.engine = Engine(model, params, end_ids=ends, pad_id=pad)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """uint8[tiles, height, width, 3] at the encoder's size, by the model's own aspect rule."""
        return self.card.images.picture(image).pixels

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
          prompts: questions. Pictures go before the words, as in training, whether `<image>` marks them or not.
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
        template, mark = self.card.template, self.card.im_start_end
        prompts = [encode_prompt(turns, tokenizer, template, im_start_end=mark) for turns in conversations]
        pictures = [[self.card.images.picture(image) for image in row] for row in images]
        features, shown = self.engine.encode_pictures(pictures)
        new = self.engine.generate(
            prompts, features, shown, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed
        )
        return [decode_answer(ids, tokenizer, template) for ids in new]

    def logits(
        self,
        input_ids: np.ndarray,
        pixel_values: np.ndarray | Sequence[np.ndarray] | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> np.ndarray:
        """Logits of a full forward pass, LLaVA's calling convention.

        Args:
          input_ids: int[B, T], -200 where a picture goes.
          pixel_values: normalised pictures in reading order: float[N, H, W, 3], or one float[tiles, H, W, 3] each. As in
            the reference, rows without a picture may bring one that is not looked at (one picture a row then).
          image_sizes: (width, height) of the pictures before they were cut into tiles, for a model that merges tiles
            in space.

        Returns:
          float32[B, T', V]; T' counts each picture as its image tokens. Rows with fewer are padded on the right, their
          logits there mean nothing.

        Raises:
          ValueError: markers and pictures differ in number.
        """
        rows = self._rows(np.asarray(input_ids), pixel_values, image_sizes)
        examples = [
            branch([(ids, np.full(len(ids), IGNORE_INDEX))], pictures, self.card.images) for ids, pictures in rows
        ]
        length = max(example.length for example in examples)
        tiles = max(1, *(example.tiles for example in examples))
        batch = pack_rows([[x] for x in examples], length, tiles, self.card.images)
        count = sharding.padded_rows(len(rows), sharding.mesh_of(self.params))
        batch = jax.tree.map(lambda x: pad_rows(x, count), batch)
        return np.asarray(_forward(self.model, self.params, batch))[: len(rows)]

    def generate_ids(
        self,
        input_ids: np.ndarray,
        pixel_values: np.ndarray | Sequence[np.ndarray] | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        max_new_tokens: int = 64,
    ) -> list[list[int]]:
        """Greedy new tokens (only) of every row; arguments as in `logits`, rows without padding."""
        rows = self._rows(np.asarray(input_ids), pixel_values, image_sizes)
        features, shown = self.engine.encode_pictures([pictures for _, pictures in rows])
        return self.engine.generate([ids for ids, _ in rows], features, shown, max_new_tokens=max_new_tokens)

    def visual_features(self, images: Sequence[Image.Image]) -> VisualFeatures:
        """Every stage of the visual path for some pictures, for inspection."""
        pixels = np.concatenate([self.preprocess(image) for image in images])
        count = sharding.padded_rows(len(pixels), sharding.mesh_of(self.params))
        features = _visual_features(self.model, self.params, pad_rows(pixels, count))
        return jax.tree.map(lambda x: x[: len(pixels)], features)

    def _rows(
        self,
        input_ids: np.ndarray,
        pixel_values: np.ndarray | Sequence[np.ndarray] | None,
        image_sizes: Sequence[tuple[int, int]] | None,
    ) -> list[tuple[np.ndarray, list[Picture]]]:
        """Every row's ids with its own pictures."""
        tiled = [
            pixels if pixels.ndim == 4 else pixels[None] for pixels in (() if pixel_values is None else pixel_values)
        ]
        images = self.card.images
        if odd := [pixels.shape for pixels in tiled if pixels.shape[1:] != (images.size, images.size, 3)]:
            raise ValueError(f"pixel_values {odd[0]}: expected [..., {images.size}, {images.size}, 3], channels last")
        if image_sizes is None and images.tile_merge != "flat" and any(len(pixels) > 1 for pixels in tiled):
            raise ValueError(
                "this model merges tiles in space: image_sizes, (width, height) of every picture, is needed"
            )
        sizes = image_sizes or [(images.size, images.size)] * len(tiled)
        pictures = [Picture(pixels, images.slots(size, len(pixels))) for pixels, size in zip(tiled, sizes, strict=True)]
        markers = (input_ids == IMAGE_TOKEN_INDEX).sum(axis=1)
        if len(pictures) != markers.sum():
            if len(pictures) != len(input_ids) or markers.max() > 1:
                raise ValueError(f"{markers.sum()} image markers for {len(pictures)} pictures")
            pictures = [picture for picture, count in zip(pictures, markers, strict=True) if count]
        ends = np.cumsum(markers)
        return [(ids, pictures[end - count : end]) for ids, end, count in zip(input_ids, ends, markers, strict=True)]

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("this model folder has no tokenizer; only logits() and generate_ids() work")
        return self.tokenizer


def load(
    path: str | Path,
    *,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    step: int | None = None,
    template: str = "",
    allow_pickle: bool = False,
) -> VisionLanguageModel:
    """Loads a model folder (a training workdir, a converted model), or a PyTorch checkpoint as it is.

    Parameters stay in the dtype they are stored in; computing happens in `dtype`.

    Args:
      path: folder with model.json, checkpoints/ and, for text, tokenizer/; or a LLaVA, MMFuser or `llava-hf` folder with
        safetensors; or a hub id of one.
      dtype: compute dtype.
      mesh: devices to spread the parameters over; by default all of them, along `data`.
      step: which checkpoint of a model folder; None for the newest.
      template: conversation template; by default what the folder says, for PyTorch's "v1".
      allow_pickle: read a PyTorch checkpoint's `.bin` files, with its restricted unpickler.

    Raises:
      ModelFolderError, CheckpointError, ConversionError: not a model, damaged, or no such step.
    """
    folder = hub.local_folder(path)
    mesh = mesh or sharding.make_mesh(data=-1)
    if convert.has_weights(folder):
        return _load_torch(folder, dtype, mesh, template, allow_pickle)
    card = model_folder.read_card(folder)
    card = dataclasses.replace(card, template=template or card.template)
    model = VLM(card.config, dtype)
    params, step = restore_params(folder / model_folder.CHECKPOINTS, abstract_params(model, mesh), step, as_stored=True)
    tokenizer_folder = folder / model_folder.TOKENIZER
    tokenizer = load_tokenizer(tokenizer_folder) if tokenizer_folder.exists() else None
    return VisionLanguageModel(card, model, params, tokenizer, step)


def _load_torch(folder: Path, dtype: Any, mesh: Mesh, template: str, allow_pickle: bool) -> VisionLanguageModel:
    checkpoint = convert.open_checkpoint([folder], allow_pickle=allow_pickle)
    if not checkpoint.whole:
        raise convert.ConversionError(f"{folder}: holds only {', '.join(checkpoint.parts)}, which cannot answer alone")
    model = VLM(checkpoint.config, dtype)
    card = checkpoint.card(template)
    params = convert.place_params(checkpoint, abstract_params(model, mesh))
    tokenizer = load_tokenizer(checkpoint.tokenizer) if checkpoint.tokenizer else None
    return VisionLanguageModel(card, model, params, tokenizer)


_forward = params_jit(lambda model, params, batch: model.apply({"params": params}, batch).logits)
_visual_features = params_jit(
    lambda model, params, pixels: model.apply({"params": params}, pixels, method="visual_features")
)
