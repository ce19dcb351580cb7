"""The folders that make up one torch checkpoint: opened, and completed by the base or vision tower that they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfuser_jax import files, hub
from mmfuser_jax.convert import adapters, configs
from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.convert.layouts import LORA, detect
from mmfuser_jax.convert.source import Tensors, has_weights, open_folder
from mmfuser_jax.convert.tables import Prefixes
from mmfuser_jax.models import LoraConfig


@dataclasses.dataclass
class Folder:
    """One source: a folder, its config.json, its tensors and where they keep which part.

    Attributes:
      overlay: its tensors replace those of other sources (a stage-1 projector, what a LoRA run trained in full).
      factors: LoRA factors to merge into the other sources' weights.
      lora: what they are in our model, where they are kept and stand among the tensors.
    """

    path: Path
    fields: dict[str, Any]
    tensors: Tensors
    prefixes: Prefixes
    overlay: bool = False
    factors: Tensors = dataclasses.field(default_factory=dict)
    lora: LoraConfig | None = None

    @property
    def describes_model(self) -> bool:
        """Whether its config.json is that of a whole vision-language model."""
        return "mm_vision_select_layer" in self.fields or configs.is_hf(self.fields)

    @property
    def where(self) -> str:
        """Its config.json, for errors."""
        return str(self.path / "config.json")


def open_folders(sources: Sequence[str | Path], allow_pickle: bool, keep_adapters: bool = False) -> list[Folder]:
    """Opens the sources of one model, adds what they name and lack, and merges adapters if they are not to be kept.

    The one that describes the model comes first.

    Raises:
      ConversionError: no source, or a base or vision tower that cannot be found.
    """
    folders = [_open(hub.local_folder(source), allow_pickle) for source in sources]
    if not folders:
        raise ConversionError("no source given")
    folders = _with_vision_tower(_with_base(folders, allow_pickle, keep_adapters), allow_pickle)
    return sorted(folders, key=lambda folder: not folder.describes_model)


def read_json(path: Path) -> dict[str, Any]:
    """`files.read_json`: the object in a JSON file, {} where there is no file.

    Raises:
      ConversionError: it holds something else.
    """
    try:
        return files.read_json(path)
    except (ValueError, OSError) as error:
        raise ConversionError(str(error)) from None


def _open(path: Path, allow_pickle: bool) -> Folder:
    tensors = open_folder(path, allow_pickle)
    folder = path if path.is_dir() else path.parent
    fields = read_json(folder / "config.json")
    if any(LORA.fullmatch(key) for key in tensors):
        factors, rest = adapters.split_lora(tensors)
        return Folder(folder, fields, rest, _beside_adapters(rest), True, factors)
    prefixes = detect(tensors)
    alone = prefixes.projector is not None and not any(key.endswith("input_layernorm.weight") for key in tensors)
    return Folder(folder, fields, tensors, prefixes, overlay=alone)


def _beside_adapters(tensors: Tensors) -> Prefixes:
    """Where the tensors that were trained in full are; of a language model perhaps a norm, and no embedding."""
    prefixes = detect(tensors) if tensors else Prefixes()
    if prefixes.llm is None and any(key.startswith(("model.layers.", "model.norm.", "lm_head.")) for key in tensors):
        return dataclasses.replace(prefixes, llm="model.", head="lm_head")
    return prefixes


def _with_base(folders: list[Folder], allow_pickle: bool, keep: bool) -> list[Folder]:
    """Adds an adapter's base model where it was not given, and merges the adapter into it or keeps it."""
    for adapted in [folder for folder in folders if folder.factors]:
        adapter = read_json(adapted.path / adapters.CONFIG)
        if not adapter:
            raise ConversionError(f"{adapted.path}: LoRA factors without an {adapters.CONFIG}")
        if not any(folder.prefixes.llm is not None and not folder.overlay for folder in folders):
            base = adapter.get("base_model_name_or_path")
            if not isinstance(base, str) or not base:
                raise ConversionError(f"{adapted.path}: a LoRA adapter needs its base model: add --source=BASE")
            folders = [*folders, _open(hub.local_folder(base), allow_pickle)]
        if keep:
            adapted.lora = adapters.lora_config(adapted.factors, adapter)
            adapted.tensors |= adapters.kept_factors(adapted.factors)
            adapted.prefixes = dataclasses.replace(adapted.prefixes, adapter=f"{adapters.PREFIX}model.")
            continue
        for folder in folders:
            if (llm := folder.prefixes.llm) is not None and not folder.overlay:
                folder.tensors = adapters.merge_lora(folder.tensors, llm, adapted.factors, adapter)
    return folders


def _with_vision_tower(folders: list[Folder], allow_pickle: bool) -> list[Folder]:
    """Adds the folder that a LLaVA config names as its vision tower, where the tower's weights are nowhere else."""
    towers = [folder for folder in folders if folder.prefixes.vision is not None]
    bare = [folder for folder in towers if folder.prefixes.parts == ("vision_encoder",)]
    if len(bare) < len(towers):  # a model has its own tower inside: one given besides only describes it
        for folder in bare:
            folder.tensors, folder.prefixes = {}, Prefixes()
    has_llm = any(folder.prefixes.llm is not None for folder in folders)
    if towers or not has_llm or not any(folder.describes_model for folder in folders):
        return folders
    for folder in folders:
        if path := tower_folder(folder):
            return [*folders, _open(path, allow_pickle)]
    named = next((f.fields["mm_vision_tower"] for f in folders if f.fields.get("mm_vision_tower")), "none")
    raise ConversionError(
        f"{folders[0].path}: has no vision tower inside (config.json names {named!r}); add --source=FOLDER_OF_IT"
    )


def tower_folder(folder: Folder, weights: bool = True) -> Path | None:
    """Folder of the vision tower that a LLaVA config names: inside it, anywhere, or on the hub.

    Adapters come with the shape of their tower alone, which will do without `weights`.
    """
    name = folder.fields.get("mm_vision_tower")
    if not isinstance(name, str):
        return None
    for path in (folder.path / name, folder.path / "clip", Path(name)):
        if (path / "config.json").exists() and (not weights or has_weights(path)):
            return path
    try:
        return hub.local_folder(name, weights) if hub.is_id(name) else None
    except hub.HubError:
        return None  # the caller says which folder is wanted
