"""Checkpoint folders as PyTorch code leaves them, made from the golden ones: variants, shards, parts, adapters."""

import json
import shutil

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from mmfuser_jax.checkpoint import ParamsWriter
from mmfuser_jax.convert import open_checkpoint, write_model_folder
from mmfuser_jax.train.optim import flatten
from tests.conftest import GOLDEN

MMFUSER, LLAVA = GOLDEN / "mmfuser_tiny", GOLDEN / "llava_tiny"


TOWER = "model.vision_tower.vision_tower.vision_model."


Q = "model.layers.1.self_attn.q_proj.weight"


def tensors_of(folder):
    return {key: x for file in sorted(folder.glob("*.safetensors")) for key, x in load_file(file).items()}


def same_bits(a, b):
    assert a.keys() == b.keys()
    different = [k for k in a if (a[k].dtype, a[k].shape, a[k].tobytes()) != (b[k].dtype, b[k].shape, b[k].tobytes())]
    assert not different


def variant(source, target, change=None, **fields):
    """A copy of a checkpoint folder whose tensors went through `change`, and whose config.json has other fields."""
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    save_file(tensors if change is None else change(tensors), target / "model.safetensors")
    config = json.loads((source / "config.json").read_text()) | fields
    (target / "config.json").write_text(json.dumps(config))
    return target


def to_ours(source, target, **options):
    write_model_folder(open_checkpoint([source]), target, template="v1", **options)
    return target


def write_params(folder, params):
    with ParamsWriter(folder / "checkpoints") as writer:
        for path, x in flatten(params).items():
            writer.add(path, np.asarray(x))
    return folder


def shards(folder, target, count, ending="safetensors"):
    """The folder's tensors over numbered files with an index, dealt out in turn."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("model.safetensors"))
    tensors = tensors_of(folder)
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names = [f"{stem}-{i + 1:05}-of-{count:05}.{ending}" for i in range(count)]
    weight_map = {key: names[i % count] for i, key in enumerate(tensors)}
    for name in names:
        shard = {key: x for key, x in tensors.items() if weight_map[key] == name}
        if ending == "safetensors":
            save_file(shard, target / name)
        else:
            torch.save({key: torch.from_numpy(x) for key, x in shard.items()}, target / name)
    (target / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return target


def without(*keys):
    return lambda t: {key: x for key, x in t.items() if key not in keys}


def only(prefix, new=""):
    return lambda t: {new + key.removeprefix(prefix): x for key, x in t.items() if key.startswith(prefix)}


def clip_folder(target, whole=False):
    """The vision tower alone, or with the text tower of a whole CLIP beside it."""
    target.mkdir()
    tensors = only(TOWER, "vision_model.")(load_file(LLAVA / "model.safetensors"))
    config = json.loads((LLAVA / "clip" / "config.json").read_text())
    if whole:
        tensors["text_model.embeddings.token_embedding.weight"] = np.zeros((5, 3), np.float32)
        tensors["logit_scale"] = np.zeros((), np.float32)
        config = {"model_type": "clip", "vision_config": config}
    save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(config))
    shutil.copy(LLAVA / "clip" / "preprocessor_config.json", target)
    return target


def llm_folder(target):
    """The language model alone, as Vicuna is published."""
    target.mkdir()
    tensors = load_file(LLAVA / "model.safetensors")
    keep = {k: x for k, x in tensors.items() if "vision_tower" not in k and "mm_projector" not in k}
    save_file(keep, target / "model.safetensors")
    config = json.loads((LLAVA / "config.json").read_text())
    plain = {key: value for key, value in config.items() if "mm_" not in key and "image" not in key}
    (target / "config.json").write_text(json.dumps({**plain, "model_type": "llama"}))
    shutil.copy(GOLDEN / "text" / "tokenizer.model", target)
    return target


def lora_folder(target, rank=4, alpha=6.0):
    """An adapter on two modules, with the projector that a LoRA run trains in full."""
    target.mkdir()
    rng = np.random.default_rng(0)
    tensors = load_file(MMFUSER / "model.safetensors")
    factors, merged = {}, {}
    for module in ("model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"):
        weight = tensors[f"{module}.weight"]
        down = rng.standard_normal((rank, weight.shape[1])).astype(np.float32)
        up = rng.standard_normal((weight.shape[0], rank)).astype(np.float32)
        factors[f"base_model.model.{module}.lora_A.weight"] = down
        factors[f"base_model.model.{module}.lora_B.weight"] = up
        merged[f"{module}.weight"] = weight + alpha / rank * up @ down
    save_file(factors, target / "adapter_model.safetensors")
    projector = {k: 2 * x for k, x in tensors.items() if "mm_projector" in k}
    trained = {f"base_model.model.{k}": torch.from_numpy(x) for k, x in projector.items()}
    torch.save(trained, target / "non_lora_trainables.bin")
    (target / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": alpha}))
    shutil.copy(MMFUSER / "config.json", target)
    return target, {**tensors, **merged, **projector}
