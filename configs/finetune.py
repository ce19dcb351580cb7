"""Stage 2 at full size: fuser, projector and language model learn to follow instructions, the vision tower frozen.

    python launch/train.py --config=configs/finetune.py:7b --workdir=runs/finetune_7b
    python launch/train.py --config=configs/finetune.py:7b,lora --workdir=runs/lora_7b
    python launch/train.py --config=configs/finetune.py:7b,qlora --workdir=runs/qlora_7b
    python launch/train.py --config=configs/finetune.py:7b,mminstruct --workdir=runs/mminstruct_7b
    python launch/aot.py --config=configs/finetune.py:7b --topology=v5e:8x8    # does it fit, and how long does it take?

The published recipe of LLaVA-1.5 and MMFuser: 665K conversations in the `v1` template, one epoch of 5,198 steps at a
global batch of 128, learning rate 2e-5, cosine with 3 % warm-up, no decay, no clipping. With `lora`: adapters of rank
128 on every matrix of the language model at 2e-4, projector and fuser at 2e-5. With `qlora`: the same adapters over a base
whose blocks are quantised to NormalFloat on the way in, 3.6 GB instead of 13 at 7B
(`--config.model.llm.quantize=int8` takes 6.9). With `mminstruct`: its released 378K records beside the 665K, each as often as
the other, in one epoch of both.
"""

from __future__ import annotations

import dataclasses
import math

from ml_collections import ConfigDict

from configs import common
from mmfuser_jax import presets
from mmfuser_jax.models import LoraConfig

SIZES, METHODS, DATA = ("7b", "13b"), ("full", "lora", "qlora"), ("llava", "mminstruct")
LLAVA, MMINSTRUCT = 665_298, 378_000  # records: those of the file, and those of MMInstruct's release in thousands
FULL = (("vision_encoder/", None), (".*", 2e-5))
LORA = ((r"llm/.*/lora_[ab]$", 2e-4), ("(fuser|projector)/", 2e-5), (".*", None))


def get_config(arg: str = "7b") -> ConfigDict:
    """`arg`: size of the language model, then, in any order, what trains and the data: "7b", "13b,lora,mminstruct"."""
    size, *words = arg.split(",")
    method = next((word for word in words if word in METHODS), "full")
    mixed = "mminstruct" in words
    known = size in SIZES and set(words) <= {*METHODS, *DATA}
    if not known or len(set(words) & set(METHODS)) > 1 or len(set(words) & set(DATA)) > 1:
        choices = "".join(f"[,{'|'.join(names)}]" for names in (METHODS, DATA))
        raise ValueError(f"configs/finetune.py:{arg}: the argument is {'|'.join(SIZES)}{choices}")
    model = presets.PRESETS[f"mmfuser_{size}"]()
    if method != "full":
        lora, quantize = LoraConfig(128, 256.0, dropout=0.05), "nf4" if method == "qlora" else ""
        model = dataclasses.replace(model, llm=dataclasses.replace(model.llm, lora=lora, quantize=quantize))
    sources = {"instructions": common.source("data/llava_v1_5_mix665k.json")}
    if mixed:
        sources["mminstruct"] = common.source("data/mminstruct", weight=MMINSTRUCT / LLAVA)
    records = LLAVA + MMINSTRUCT * mixed
    stage = common.stage(
        sources,
        rules=FULL if method == "full" else LORA,
        steps=math.ceil(records / 128),
        template="v1",
        batch_size=128,
        tiles=1,
    )
    return common.full_size_run(model, {"finetune": stage}, init_from=f"runs/pretrain_{size}", aspect="pad")
