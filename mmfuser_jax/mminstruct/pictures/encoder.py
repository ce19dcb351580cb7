"""Pictures → embeddings to compare them by: the vision encoder of any model, alone on the devices."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, UInt8

from mmfuser_jax import convert, files, hub, model_folder, sharding
from mmfuser_jax.checkpoint import StoredParams
from mmfuser_jax.data.pictures import ImageFormat
from mmfuser_jax.generate.engine import pad_rows
from mmfuser_jax.generate.placed import params_jit
from mmfuser_jax.models import VLM, VlmConfig
from mmfuser_jax.models.clip_vit import ClipVit
from mmfuser_jax.models.params import abstract_params
from mmfuser_jax.models.vlm import normalize_pixels
from mmfuser_jax.types import Array

PART = "vision_encoder"
"""Where a model's parameters have it."""

BATCH = 64
"""Pictures that are embedded together; fewer are padded, so that one program is compiled."""

VERSION = 1
"""Of how an embedding is computed."""


@dataclasses.dataclass(frozen=True)
class _Tower:
    """What is known of a vision encoder when its program is compiled."""

    vit: ClipVit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Encoder:
    """A model's vision encoder. An embedding is the mean of the patch features of the deepest layer that the model reads.

    In CLIP this is the last layer but one. The layers and the final norm behind it are made for the class token, and models
    that were trained further have changed only the patches' way to here; a model folder does not even keep them.

    Attributes:
      images: how pictures are brought to size; one tile each, whatever the model does.
      width: of an embedding.
      fingerprint: of everything that an embedding depends on besides the picture.
    """

    def __init__(self, config: VlmConfig, aspect: str, params: Any) -> None:
        """Args are a model's shape, its rule for pictures (see `data.pictures`), and its vision encoder's parameters."""
        self._tower = _Tower(ClipVit(config.vision, max(config.states)), config.image_mean, config.image_std)
        self._params = params
        single = dataclasses.replace(config, grid_pinpoints=())
        self.images: ImageFormat = model_folder.image_format(single, "pad" if aspect == "anyres" else aspect)
        self.width = config.vision.width
        self.fingerprint = self._fingerprint()
        self._rows = sharding.padded_rows(BATCH, sharding.mesh_of(params))

    def embed(self, pixels: UInt8[np.ndarray, "n height width 3"]) -> Float[np.ndarray, "n D"]:
        """Embeddings of length 1, float16, of at most BATCH pictures at the encoder's size."""
        return np.asarray(_embed(self._tower, self._params, pad_rows(pixels, self._rows)))[: len(pixels)]

    def _fingerprint(self) -> str:
        described = dataclasses.asdict(self.images) | dataclasses.asdict(self._tower.vit.config)
        shape = [VERSION, self._tower.vit.depth, self._tower.mean, self._tower.std, sorted(described.items())]
        digest = hashlib.sha256(json.dumps(shape).encode())
        for path, x in sorted(flatten_dict(self._params, sep="/").items()):
            digest.update(f"{path} {x.dtype} {x.shape}".encode())
            digest.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


@params_jit
def _embed(tower: _Tower, params: Any, pixels: Array) -> Float[jax.Array, "n D"]:
    normal = normalize_pixels(pixels, tower.mean, tower.std)
    features: Any = tower.vit.apply({"params": params}, normal, states=(tower.vit.depth,))
    mean = features[0].mean(axis=1)
    return (mean / jnp.linalg.norm(mean, axis=1, keepdims=True)).astype(jnp.float16)


def load_encoder(path: str | Path) -> Encoder:
    """The vision encoder of a model; nothing else of it is read.

    Args:
      path: a model folder (a training workdir, a converted model or part of one), a PyTorch checkpoint of a LLaVA, MMFuser
        or CLIP with safetensors, or a hub id of one.

    Raises:
      HubError, ModelFolderError, CheckpointError, ConversionError: there is none, or it is damaged.
    """
    folder = hub.local_folder(path)
    mesh = sharding.make_mesh(data=-1)
    if convert.has_weights(folder):
        return _of_torch(folder, mesh)
    config, aspect, parts = _described(folder)
    shapes = flatten_dict(abstract_params(VLM(config), mesh), sep="/")
    stored = StoredParams(folder / model_folder.CHECKPOINTS)
    stored.check_fit({name: x for name, x in shapes.items() if not parts or name.split("/")[0] in parts})
    wanted = {name: x for name, x in shapes.items() if name.startswith(f"{PART}/")}
    return Encoder(config, aspect, unflatten_dict(stored.restore(wanted), sep="/")[PART])


def _described(folder: Path) -> tuple[VlmConfig, str, tuple[str, ...]]:
    """(shape, aspect, parts) of a model folder; no parts of a whole model. `read_card` takes whole models alone."""
    fields = files.read_json(folder / model_folder.MODEL_FILE)
    if PART not in (fields.get("parts") or ()):
        card = model_folder.read_card(folder)
        return card.config, card.aspect, ()
    try:
        return VlmConfig.from_dict(fields["config"]), fields["aspect"], tuple(fields["parts"])
    except (ValueError, KeyError, TypeError) as error:
        raise model_folder.ModelFolderError(f"{folder / model_folder.MODEL_FILE}: {error}") from None


def _of_torch(folder: Path, mesh: sharding.AnyMesh) -> Encoder:
    checkpoint = convert.open_checkpoint([folder])
    if PART not in checkpoint.parts:
        raise convert.ConversionError(f"{folder}: holds only {', '.join(checkpoint.parts)}, and no vision encoder")
    tower = {name: x for name, x in checkpoint.params.items() if name.startswith(f"{PART}/")}
    shapes = abstract_params(VLM(checkpoint.config), mesh)
    params = convert.place_params(dataclasses.replace(checkpoint, params=tower), {PART: shapes[PART]})
    return Encoder(checkpoint.config, checkpoint.aspect, params[PART])
