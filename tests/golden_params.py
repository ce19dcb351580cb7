"""The golden model's torch tensors in our parameter tree: a mapping by path, for weights and gradients alike."""

from __future__ import annotations

import json
from functools import cache

import jax.numpy as jnp
import numpy as np

from mmfuser_jax.models import VLM, ClipVitConfig, FuserConfig, LlamaConfig, VlmConfig
from mmfuser_jax.models.params import boxed_params
from mmfuser_jax.train.optim import flatten, unflatten
from tests.conftest import GOLDEN

FOLDER = GOLDEN / "mmfuser_tiny"
VISION = "model.vision_tower.vision_tower.vision_model."
PREFIXES = (
    ("vision_encoder/encoder/layers_", VISION + "encoder.layers."),
    ("vision_encoder/pre_norm", VISION + "pre_layrnorm"),
    ("llm/decoder/layers_", "model.layers."),
    ("llm/final_norm", "model.norm"),
    ("llm/embedding", "model.embed_tokens.weight"),
    ("llm/head", "lm_head.weight"),
    ("fuser/cross_attention", "model.mm_projector.0.cross_attn"),
    ("fuser/self_attention", "model.mm_projector.0.self_attn"),
    ("fuser/feature_norm", "model.mm_projector.0.feat_norm"),
    ("fuser/self_norm", "model.mm_projector.0.norm1"),
    ("fuser/", "model.mm_projector.0."),
    ("projector/layers_0", "model.mm_projector.1"),
    ("projector/layers_1", "model.mm_projector.3"),
)
PARTS = {
    "vision_encoder": {
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj", "out": "self_attn.out_proj",
        "norm1": "layer_norm1", "norm2": "layer_norm2", "mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2",
    },
    "llm": {
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj", "out": "self_attn.o_proj",
        "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    },
    "fuser": {"value": "value_proj", "out": "output_proj"},
    "projector": {},
}  # fmt: skip


@cache
def config() -> VlmConfig:
    """Shape of the golden model, from its own config.json files."""
    llm = json.loads((FOLDER / "config.json").read_text())
    clip = json.loads((FOLDER / "clip_config.json").read_text())
    *keys, query = llm["mm_vision_select_layer"]
    return VlmConfig(
        vision=ClipVitConfig(
            clip["hidden_size"], clip["num_hidden_layers"], clip["num_attention_heads"], clip["intermediate_size"],
            clip["image_size"], clip["patch_size"],
        ),
        llm=LlamaConfig(
            llm["vocab_size"], llm["hidden_size"], llm["num_hidden_layers"], llm["num_attention_heads"],
            llm["num_key_value_heads"], llm["intermediate_size"], norm_epsilon=llm["rms_norm_eps"],
        ),
        fuser=FuserConfig(tuple(keys)),
        select_layer=query,
    )  # fmt: skip


def torch_name(path: str) -> str:
    """Torch key of one of our parameter paths."""
    part, leaf = path.split("/")[0], path.split("/")[-1]
    for ours, theirs in PREFIXES:
        if path.startswith(ours):
            words = (theirs + path[len(ours) :]).split("/")
            break
    names = [PARTS[part].get(word, word) for word in words]
    return ".".join({"kernel": "weight", "scale": "weight"}.get(n, n) if i else n for i, n in enumerate(names)) or leaf


def ours(tensors: dict[str, np.ndarray], trained_only: bool = False) -> dict[str, np.ndarray]:
    """Torch tensors (weights, or gradients of what was trained) as our flat parameters."""
    result = {}
    for path, leaf in flatten(boxed_params(VLM(config()))).items():
        shape = leaf.unbox().shape
        if path.startswith("vision_encoder/"):
            if trained_only:
                continue
            special = {
                "vision_encoder/class_embedding": "embeddings.class_embedding",
                "vision_encoder/position_embedding": "embeddings.position_embedding.weight",
                "vision_encoder/patch_embedding/kernel": "embeddings.patch_embedding.weight",
            }
            name = VISION + special[path] if path in special else torch_name(path)
        else:
            name = torch_name(path)
        tensor = tensors[name]
        if path.endswith("patch_embedding/kernel"):
            tensor = tensor.transpose(2, 3, 1, 0)
        elif path.endswith(("kernel", "llm/head")):
            tensor = tensor.T
        result[path] = tensor.reshape(shape)
    return result


@cache
def params():
    """The golden model's parameters."""
    from safetensors.numpy import load_file

    flat = ours(load_file(FOLDER / "model.safetensors"))
    return unflatten({path: jnp.asarray(x) for path, x in flat.items()})


@cache
def stages() -> dict[str, np.ndarray]:
    """Inputs and every stage's output, as the reference computed them."""
    return dict(np.load(FOLDER / "io.npz"))
