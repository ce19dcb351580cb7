"""A model on disk: `model.json` (shape, template, preprocessing), `tokenizer/`, `checkpoints/`. A workdir is one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from mmfuser_jax import files
from mmfuser_jax.data.anyres import tile_grid
from mmfuser_jax.data.pictures import ImageFormat
from mmfuser_jax.data.tokenizer import TOKENIZER_FILES, is_tokenizer_folder
from mmfuser_jax.models import VlmConfig

CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"
MODEL_FILE = "model.json"


class ModelFolderError(ValueError):
    """A folder is no model, or its description is broken."""


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Everything about a model that its parameters do not say.

    Attributes:
      config: shape of the network.
      template: conversation template it was last trained with; never guessed from a path.
      aspect: how its pictures are brought to size, see `data.images.fit_image`.
      history: whether it was trained on conversations of several turns; if not, a chat asks every question by itself.
      im_start_end: whether prompts put `<im_start>` and `<im_end>` around a picture (`mm_use_im_start_end`).
      parts: what a folder that is no whole model holds, to start training from; None for a whole one.
    """

    config: VlmConfig
    template: str
    aspect: str
    history: bool = True
    im_start_end: bool = False
    parts: tuple[str, ...] | None = None

    @property
    def images(self) -> ImageFormat:
        """How its pictures become pixels and image tokens."""
        return image_format(self.config, self.aspect)


def image_format(config: VlmConfig, aspect: str) -> ImageFormat:
    """The picture format of a model of this shape under an aspect rule.

    Raises:
      ValueError: tiles without sizes to choose from, or such a size that is not whole tiles.
    """
    if aspect == "anyres":
        tile_grid((1, 1), config.grid_pinpoints, config.vision.image_size)
    return ImageFormat(
        aspect=aspect,
        size=config.vision.image_size,
        mean=config.image_mean,
        tokens=config.image_tokens,
        grid_pinpoints=config.grid_pinpoints,
        tile_merge=config.tile_merge,
    )


def write_card(folder: Path, card: ModelCard) -> None:
    """Writes `model.json`."""
    text = json.dumps(dataclasses.asdict(card), indent=2)
    files.write_text(folder / MODEL_FILE, text + "\n")


def read_card(folder: Path) -> ModelCard:
    """Reads `model.json`.

    Raises:
      ModelFolderError: the file is missing, not a model's description, or says that the folder holds parts only.
    """
    path = folder / MODEL_FILE
    if not path.exists():
        raise ModelFolderError(
            f"{folder}: no {MODEL_FILE} here; expected a training workdir, a converted model, or a PyTorch checkpoint"
        )
    try:
        fields = json.loads(path.read_text())
        if fields.get("parts"):
            held = ", ".join(fields["parts"])
            raise ValueError(f"holds only {held}: training can start from it (init_from), it cannot answer")
        config = VlmConfig.from_dict(fields["config"])
        return ModelCard(
            config, fields["template"], fields["aspect"], fields["history"], bool(fields.get("im_start_end"))
        )
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ModelFolderError(f"{path}: {error}") from None


def with_layout(config: VlmConfig, scan: bool) -> VlmConfig:
    """The same model with equal layers stacked or not, see `models.layers.Stack`."""
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, scan_layers=scan),
        llm=dataclasses.replace(config.llm, scan_layers=scan),
    )


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies a tokenizer's files, so that the model folder is complete by itself.

    Raises:
      ModelFolderError: there is no tokenizer.
    """
    if not is_tokenizer_folder(source):
        raise ModelFolderError(f"{source}: no tokenizer here (expected {TOKENIZER_FILES[0]} or {TOKENIZER_FILES[1]})")
    target = folder / TOKENIZER
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
