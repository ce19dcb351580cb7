"""Small Hugging Face models with random weights, saved as their own code saves them, and opened with ours."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tokenizers
import torch
import transformers
from jax.sharding import Mesh
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig, MistralConfig
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from mmfuser_jax import convert
from mmfuser_jax.convert.tables import key_table, to_ours
from mmfuser_jax.facade import VisionLanguageModel, load
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM, ClipVitConfig, VlmConfig
from mmfuser_jax.models.params import abstract_params, boxed_params
from mmfuser_jax.sharding import MESH_AXES
from mmfuser_jax.train.optim import flatten, unflatten
from mmfuser_jax.types import IMAGE_TOKEN_INDEX
from tests.helpers import random_params

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

IMAGE_TOKEN = 95
"""What stands for an image's place on their side, once for every patch."""

TEXT = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 42,
    "patch_size": 14, "hidden_act": "quick_gelu",
}  # fmt: skip


def clip(**changes: Any) -> Any:
    """CLIP's vision tower."""
    return randomised(transformers.CLIPVisionModel(CLIPVisionConfig(**{**VISION, **changes})))


def llama(**changes: Any) -> Any:
    """A bare LLaMA."""
    return randomised(transformers.LlamaForCausalLM(LlamaConfig(**{**TEXT, **changes})))


def mistral(**changes: Any) -> Any:
    """A bare Mistral."""
    return randomised(transformers.MistralForCausalLM(MistralConfig(**{**TEXT, **changes})))


def llava(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **changes: Any) -> Any:
    """LLaVA-1.5."""
    return randomised(transformers.LlavaForConditionalGeneration(LlavaConfig(**_parts(text, vision), **changes)))


def llava_next(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **changes: Any) -> Any:
    """LLaVA-1.6: pictures in tiles."""
    config = LlavaNextConfig(**_parts(text, vision), **changes)
    return randomised(transformers.LlavaNextForConditionalGeneration(config))


def _parts(text: dict[str, Any] | None, vision: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "llama", **TEXT, **(text or {})},
        "vision_config": {"model_type": "clip_vision_model", **VISION, **(vision or {})},
        "image_token_index": IMAGE_TOKEN,
    }


def randomised(model: Any, seed: int = 0) -> Any:
    """Every parameter random and large enough to matter: norms around 1, matrices with gains around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = "norm" in name and name.endswith("weight")
            gain = 1.3 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 and "embed" not in name else 0.2
            parameter.copy_(1 + 0.2 * noise if is_scale else gain * noise)
    return model.eval()


def one_device() -> Mesh:
    """A mesh of one device: eight fake ones would do the same work eight times."""
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh((1,) * len(MESH_AXES), MESH_AXES, axis_types=auto, devices=jax.devices()[:1])


def save(model: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Saves a model as `save_pretrained` does."""
    model.to(dtype).save_pretrained(folder)
    return folder


def open_llm(folder: Path) -> VisionLanguageModel:
    """A bare language model in ours; the parts that no text depends on are made up."""
    checkpoint = convert.open_checkpoint([folder])
    model = VLM(checkpoint.config)
    placed = convert.place_params(checkpoint, {"llm": abstract_params(model, one_device())["llm"]})
    card = ModelCard(checkpoint.config, "plain", "square")
    return VisionLanguageModel(card, model, {**random_params(model), **placed}, None)


def open_tower(folder: Path) -> tuple[ClipVitConfig, Any]:
    """A vision tower with all its layers; the last is one that LLaVA never reads, and `params` leaves out."""
    checkpoint = convert.open_checkpoint([folder])
    config = dataclasses.replace(checkpoint.config, select_layer=-1)
    shapes = {path: leaf.unbox().shape for path, leaf in flatten(boxed_params(VLM(config))).items()}
    source = checkpoint.folders[0]
    table = {key: x for key, x in key_table(config, source.prefixes).items() if x.path is not None}
    flat = {x.path: to_ours(source.tensors[key].read(), x.kind, shapes[x.path]) for key, x in table.items()}
    return config.vision, unflatten(flat)["vision_encoder"]


def changed(vlm: VisionLanguageModel, **changes: Any) -> VisionLanguageModel:
    """The same parameters in a model of another configuration, for what must not come out the same."""
    config: VlmConfig = dataclasses.replace(vlm.card.config, **changes)
    return VisionLanguageModel(dataclasses.replace(vlm.card, config=config), VLM(config), vlm.params, None)


def open_model(folder: Path) -> VisionLanguageModel:
    """A whole model in ours."""
    return load(folder, mesh=one_device())


@dataclasses.dataclass
class Shown:
    """Pictures as Hugging Face's processor hands them over, and the same as ours takes them.

    Attributes:
      inputs: keyword arguments of their models.
      pixels: float[H, W, 3] a picture, or float[tiles, H, W, 3].
      sizes: (width, height) of the pictures.
    """

    inputs: dict[str, torch.Tensor]
    pixels: list[np.ndarray]
    sizes: list[tuple[int, int]]


def shown(model: Any, pictures: list[Image.Image]) -> Shown:
    """Pictures through the processor that goes with a model."""
    if not pictures:
        return Shown({}, [], [])
    size, pinpoints = model.config.vision_config.image_size, getattr(model.config, "image_grid_pinpoints", None)
    sizes = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    if pinpoints is None:
        inputs = transformers.CLIPImageProcessor(**sizes)(pictures, return_tensors="pt")
        return Shown(dict(inputs), list(_channels_last(inputs["pixel_values"])), [p.size for p in pictures])
    processor = transformers.LlavaNextImageProcessor(**sizes, image_grid_pinpoints=pinpoints)
    inputs = processor(pictures, return_tensors="pt")
    counts = [image_size_to_num_patches(s.tolist(), pinpoints, size) for s in inputs["image_sizes"]]
    tiles = [x[:count] for x, count in zip(_channels_last(inputs["pixel_values"]), counts, strict=True)]
    return Shown(dict(inputs), tiles, [p.size for p in pictures])


def _channels_last(pixels: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(pixels.movedim(-3, -1).numpy())


def spelled_out(model: Any, ids: np.ndarray, pictures: Shown) -> torch.Tensor:
    """Our ids, with one marker a picture, as theirs, with one for each of its features."""
    features = model.get_image_features(**pictures.inputs).pooler_output if pictures.inputs else []
    counts = iter([len(x) for x in features])
    pieces = [[IMAGE_TOKEN] * next(counts) if token == IMAGE_TOKEN_INDEX else [int(token)] for token in ids]
    return torch.tensor([[token for piece in pieces for token in piece]])


def generated(model: Any, ids: torch.Tensor, new: int, **inputs: Any) -> list[int]:
    """Their greedy new tokens of one prompt."""
    out = model.generate(ids, do_sample=False, max_new_tokens=new, attention_mask=torch.ones_like(ids), **inputs)
    return out[0, ids.shape[1] :].tolist()


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a folder, to the bit."""
    return {key: (str(x.dtype), x.shape, x.tobytes()) for key, x in load_file(folder / "model.safetensors").items()}


def renamed(folder: Path, target: Path, rules: list[tuple[str, str]]) -> Path:
    """A copy of a folder whose keys begin otherwise."""
    shutil.copytree(folder, target)
    changed = load_file(folder / "model.safetensors")
    for old, new in rules:
        changed = {re.sub(f"^{old}", new, key): x for key, x in changed.items()}
    save_file(changed, target / "model.safetensors", metadata={"format": "pt"})
    return target


def write_tokenizer(folder: Path, words: int, *added: str) -> None:
    """A tokenizer of `words` words `<unk>`, `<s>`, `</s>`, w3, w4, … and some special tokens behind them."""
    vocabulary = {w: i for i, w in enumerate(["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, words))])}
    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=whole, **specials)
    tokenizer.add_tokens(list(added), special_tokens=True)
    tokenizer.save_pretrained(folder)
