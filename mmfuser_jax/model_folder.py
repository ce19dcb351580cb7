"""A model on disk: `model.json` (shape, template, preprocessing), `tokenizer/`, `checkpoints/`. A workdir is one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from mmfuser_jax import files
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
    """

    config: VlmConfig
    template: str
    aspect: str
    history: bool = True


def write_card(folder: Path, card: ModelCard) -> None:
    """Writes `model.json`."""
    text = json.dumps(dataclasses.asdict(card), indent=2)
    files.write_text(folder / MODEL_FILE, text + "\n")


def read_card(folder: Path) -> ModelCard:
    """Reads `model.json`.

    Raises:
      ModelFolderError: the file is missing or not a model's description.
    """
    path = folder / MODEL_FILE
    if not path.exists():
        raise ModelFolderError(f"{folder}: no {MODEL_FILE} here; expected a training workdir or a converted model")
    try:
        fields = json.loads(path.read_text())
        return ModelCard(VlmConfig.from_dict(fields["config"]), fields["template"], fields["aspect"], fields["history"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{path}: {error}") from None


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies a tokenizer's files, so that the model folder is complete by itself.

    Raises:
      ModelFolderError: there is no such folder.
    """
    if not source.is_dir():
        raise ModelFolderError(f"{source}: no tokenizer folder")
    shutil.copytree(source, folder / TOKENIZER, dirs_exist_ok=True)
