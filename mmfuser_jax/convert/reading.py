"""A torch checkpoint understood: its folders opened, its layout and config read, every tensor matched with a parameter."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmfuser_jax import layout, presets
from mmfuser_jax.convert import configs, processor
from mmfuser_jax.convert.errors import ConversionError, listed
from mmfuser_jax.convert.folders import Folder, open_folders, read_json, tower_folder
from mmfuser_jax.convert.source import Tensor
from mmfuser_jax.convert.tables import Kind, Target, key_table, patch_shape, to_ours, torch_shape
from mmfuser_jax.data.templates import TEMPLATES
from mmfuser_jax.data.tokenizer import is_tokenizer_folder
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM, ClipVitConfig, VlmConfig
from mmfuser_jax.models.params import boxed_params
from mmfuser_jax.train.optim import flatten

LOG = logging.getLogger(__name__)

OTHER_TOWER = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
"""Beginnings of keys of a whole CLIP that belong to its text tower or to the contrast between the two."""

KNOWN_TOWERS = {"openai/clip-vit-large-patch14-336": presets.CLIP_VIT_L_14_336}
"""Vision towers whose shape is known without their config.json."""

TEMPLATE_FIELD = "mmfuser_jax_template"
"""Field of config.json by which checkpoints that were written here remember their conversation template."""

DEFAULT_TEMPLATE = "v1"
"""LLaVA-1.5's and MMFuser's; taken where neither the checkpoint nor the user says another."""

V1_TYPES = ("llava", "llava_llama")
"""Values of `model_type` whose published models were trained with that template."""

ALL_PARTS = ("vision_encoder", "projector", "llm")


@dataclasses.dataclass(frozen=True)
class Matched:
    """A parameter's torch side; `overlay` says that it takes the place of the base's."""

    tensor: Tensor
    target: Target
    overlay: bool = False


@dataclasses.dataclass(frozen=True)
class TorchCheckpoint:
    """A whole model, or some of its parts, on disk in torch's layout.

    Attributes:
      config: shape; parts that are not `parts` are stand-ins.
      parts: of our parameter tree that it holds.
      aspect: how its pictures are brought to size.
      params: by path (unrolled layers).
      unused: tensors no output depends on, by home; they travel along for the way back.
      shapes: of our parameters by path (unrolled layers).
      folders: where it came from; the first has the config.json that counts.
      tokenizer: folder of its tokenizer, None if none came with it.
    """

    config: VlmConfig
    parts: tuple[str, ...]
    aspect: str
    params: dict[str, Matched]
    unused: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    folders: list[Folder]
    tokenizer: Path | None

    def card(self, template: str = "") -> ModelCard:
        """The model's description; `template` overrules what config.json says (a field of ours), and that "v1"."""
        said = next((f.fields[TEMPLATE_FIELD] for f in self.folders if TEMPLATE_FIELD in f.fields), "")
        if not isinstance(said, str) or (said and said not in TEMPLATES):
            raise ConversionError(f"{self.folders[0].where}: {TEMPLATE_FIELD} {said!r} is no conversation template")
        if not template and not said and self.folders[0].fields.get("model_type") not in V1_TYPES:
            LOG.warning(
                "no conversation template is recorded: taking %s; name another if it is wrong", DEFAULT_TEMPLATE
            )
        return ModelCard(
            config=self.config,
            template=template or said or DEFAULT_TEMPLATE,
            aspect=self.aspect,
            im_start_end=any(f.fields.get("mm_use_im_start_end") for f in self.folders),
            parts=None if self.whole else self.parts,
        )

    @property
    def whole(self) -> bool:
        """Whether it is a model, not only some parts of one."""
        return set(ALL_PARTS) <= {*self.parts, *(("projector",) if self.config.projector.depth == 0 else ())}

    def read(self, path: str, checksums: dict[str, str] | None = None) -> np.ndarray:
        """One parameter; the digest of its torch tensor goes into `checksums`."""
        matched = self.params[path]
        tensor = matched.tensor.read()
        if checksums is not None:
            checksums[matched.target.home] = digest(tensor)
        if path.startswith("fuser/gamma") and not (tensor.any() and np.isfinite(tensor.astype(np.float32)).all()):
            LOG.warning(
                "%s is all zero or not finite: this fuser adds nothing (transformers ≤ 4.48 lost gammas when loading)",
                path,
            )
        return to_ours(tensor, matched.target.kind, self.shapes[path])

    def stream(
        self, wanted: dict[str, tuple[int, ...]], checksums: dict[str, str] | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Parameters one after the other, in the layout of `wanted` (shape by path), stacked layers as one array."""
        layers = {path: layout.unstacked(path, shape[0] if shape else 0) for path, shape in wanted.items()}
        arrays = _read_ahead(lambda path: self.read(path, checksums), [one for many in layers.values() for one in many])
        for path, many in layers.items():
            first = next(arrays)
            if many == [path]:
                yield path, first
                continue
            whole = np.empty((len(many), *first.shape), first.dtype)
            for index in range(len(many)):
                whole[index] = first if index == 0 else next(arrays)
            yield path, whole


def open_checkpoint(
    sources: Sequence[str | Path], *, allow_pickle: bool = False, keep_adapters: bool = False
) -> TorchCheckpoint:
    """Opens one model from one or more folders (or hub ids): a base, a vision tower, a stage-1 projector, an adapter.

    Args:
      sources: the folders.
      allow_pickle: read `.bin` files, see `source.open_folder`.
      keep_adapters: LoRA adapters become those of the model; without, they are merged into the weights they change.

    Raises:
      ConversionError: anything that does not fit together, with the names of what does not.
    """
    folders = open_folders(sources, allow_pickle, keep_adapters)
    parts = tuple(dict.fromkeys(part for folder in folders for part in folder.prefixes.parts))
    config = _config(folders, parts)
    config = processor.with_statistics(config, [folder.path for folder in folders])
    aspect = processor.aspect(folders[0].fields, folders[0].path)
    if aspect != "anyres":  # LLaVA-1.6's code leaves the sizes in the config of models that never tile
        config = dataclasses.replace(config, grid_pinpoints=())
    if lora := next((folder.lora for folder in folders if folder.lora), None):
        config = dataclasses.replace(config, llm=dataclasses.replace(config.llm, lora=lora))
    _check_depths(config, folders)
    shapes = _shapes(config, parts)
    params, unused = _match(config, folders, shapes)
    return TorchCheckpoint(
        config=config,
        parts=parts,
        aspect=aspect,
        params=params,
        unused=unused,
        shapes=shapes,
        folders=folders,
        tokenizer=_tokenizer(folders),
    )


def _read_ahead(read: Callable[[str], np.ndarray], paths: Sequence[str], ahead: int = 3) -> Iterator[np.ndarray]:
    """Arrays in order, the next few being read, hashed and turned while the caller writes."""
    with ThreadPoolExecutor(ahead) as pool:
        waiting = collections.deque(pool.submit(read, path) for path in paths[:ahead])
        for path in [*paths[ahead:], *[None] * min(ahead, len(paths))]:
            array = waiting.popleft().result()
            if path is not None:
                waiting.append(pool.submit(read, path))
            yield array


def digest(tensor: np.ndarray) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data).hexdigest()


def _config(folders: list[Folder], parts: tuple[str, ...]) -> VlmConfig:
    """The model's shape from whichever folders describe it; stand-ins for parts that are not there."""
    stand_in = presets.tiny()
    main = folders[0] if folders[0].describes_model else None
    vision = _vision(folders)
    if main is not None:
        fuser, depth = "fuser" in parts, max((len(f.prefixes.projector or ()) for f in folders), default=0)
        return configs.vlm_config(main.fields, vision or _bare_tower(main), fuser, depth, main.where)
    if "projector" in parts:
        raise ConversionError(f"{folders[0].path}: a projector without the config.json that LLaVA saves beside it")
    if undescribed := [f for f in folders if f.prefixes.llm is not None and not f.fields]:
        raise ConversionError(f"{undescribed[0].path}: a language model without its config.json")
    llm = next((configs.llm_config(f.fields, f.where) for f in folders if f.prefixes.llm is not None), stand_in.llm)
    return VlmConfig(vision=vision or stand_in.vision, llm=llm)


def _vision(folders: list[Folder]) -> ClipVitConfig | None:
    """Shape of the vision encoder."""
    for folder in folders:
        if configs.is_hf(folder.fields) or folder.fields.get("model_type") in ("clip", "clip_vision_model"):
            return configs.vision_config(folder.fields, folder.where)
    for folder in folders:
        name = folder.fields.get("mm_vision_tower")
        path = tower_folder(folder, weights=False) if name not in KNOWN_TOWERS else folder.path / "clip"
        if path is not None and (path / "config.json").exists():
            return configs.vision_config(read_json(path / "config.json"), str(path / "config.json"))
        if name in KNOWN_TOWERS:
            return dataclasses.replace(KNOWN_TOWERS[name], scan_layers=False)
    if any(folder.prefixes.vision is not None for folder in folders):
        raise ConversionError(
            f"{folders[0].path}: no config.json describes the vision tower; add --source=FOLDER_OF_IT"
        )
    return None


def _bare_tower(folder: Folder) -> ClipVitConfig:
    """Stands in for the vision tower of a projector that came alone: only its width is known, and matters."""
    width = folder.fields.get("mm_hidden_size", 1024)
    return ClipVitConfig(width, depth=64, heads=1, mlp_width=1, image_size=1, patch_size=1)


def _check_depths(config: VlmConfig, folders: list[Folder]) -> None:
    """Refuses a depth that no such number of tensors can have, before shapes are worked out layer by layer."""
    tensors = sum(len(folder.tensors) for folder in folders)
    for name, prefix, depth in (("vision", "vision", config.vision.depth), ("language model", "llm", config.llm.depth)):
        if any(getattr(folder.prefixes, prefix) is not None for folder in folders) and depth > tensors:
            raise ConversionError(
                f"{folders[0].where}: {depth} {name} layers, but the checkpoint has {tensors} tensors"
            )


def _shapes(config: VlmConfig, parts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    boxed = flatten(boxed_params(VLM(config)))
    return {path: leaf.unbox().shape for path, leaf in boxed.items() if path.split("/")[0] in parts}


def _match(
    config: VlmConfig, folders: list[Folder], shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, Matched], dict[str, Tensor]]:
    """Pairs tensors with parameters; whatever does not pair up, fit or is there twice is listed in one error."""
    params: dict[str, Matched] = {}
    unused: dict[str, Tensor] = {}
    problems: dict[str, list[str]] = {"unknown": [], "twice": [], "wrong shape": [], "not floating point": []}
    for folder in sorted(folders, key=lambda folder: not folder.overlay):  # what overlays comes first, and stays
        table = key_table(config, folder.prefixes)
        for key, tensor in folder.tensors.items():
            target = table.get(key)
            if target is None:
                if not _is_other_tower(key, folder):
                    problems["unknown"].append(key)
            elif target.path is None or target.path not in shapes:
                unused[target.home] = tensor
            elif target.path in params:
                if not params[target.path].overlay or folder.overlay:
                    problems["twice"].append(key)
            else:
                wanted = torch_shape(shapes[target.path], target.kind, patch_shape(config))
                if tensor.shape != wanted:
                    problems["wrong shape"].append(f"{key} {list(tensor.shape)} instead of {list(wanted)}")
                elif tensor.dtype.kind not in "fV":  # V: bfloat16
                    problems["not floating point"].append(f"{key} ({tensor.dtype})")
                params[target.path] = Matched(tensor, target, folder.overlay)
    _fill_gammas(params, shapes)
    problems["missing"] = [_torch_name(path, config, folders) for path in shapes if path not in params]
    found = [f"{kind}: {listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise ConversionError(f"{', '.join(str(f.path) for f in folders)}: tensors do not fit; " + "; ".join(found))
    return params, unused


def _is_other_tower(key: str, folder: Folder) -> bool:
    return folder.prefixes.parts == ("vision_encoder",) and key.startswith(OTHER_TOWER)


def _fill_gammas(params: dict[str, Matched], shapes: dict[str, tuple[int, ...]]) -> None:
    """A fuser without gammas came through a loader that lost them: it is loaded as switched off, and said so."""
    lost = [path for path in ("fuser/gamma1", "fuser/gamma2") if path in shapes and path not in params]
    if lost and any(path.startswith("fuser/cross_attention") for path in params):
        LOG.warning("the checkpoint has no %s (transformers ≤ 4.48 lost gammas): zero, this fuser adds nothing", lost)
        dtype = params["fuser/query_norm/scale"].tensor.dtype
        for path in lost:
            tensor = Tensor(shapes[path], dtype, functools.partial(np.zeros, shapes[path], dtype))
            params[path] = Matched(tensor, Target(path, Kind.COPY, path.replace("/", ":")))


def _torch_name(path: str, config: VlmConfig, folders: list[Folder]) -> str:
    """Torch key of a parameter that is missing, in the layout of the folder that should have it."""
    for folder in folders:
        for key, target in key_table(config, folder.prefixes).items():
            if target.path == path:
                return key
    return path


def _tokenizer(folders: list[Folder]) -> Path | None:
    for folder in folders:
        if is_tokenizer_folder(folder.path) and (folder.prefixes.llm is not None or folder.overlay):
            return folder.path
    return None
