"""The main job: a whole MMFuser model from nothing to answers about pictures, on two CPU cores in minutes.

    python launch/train.py --config=configs/easy_vqa.py --workdir=runs/demo
    python launch/train.py --config=configs/easy_vqa.py:llava --workdir=runs/llava    # the same without the fuser
    python launch/train.py --config=configs/easy_vqa.py:base --workdir=runs/base    # only the first two stages
    python launch/train.py --config=configs/easy_vqa.py:lora --workdir=runs/lora    # the last two from runs/base, by adapters
    python launch/train.py --config=configs/easy_vqa.py:qlora --workdir=runs/qlora    # the same beside a 4-bit base

What a 7B model downloads, a pretrained CLIP and a pretrained Vicuna, is trained first, with the fuser bypassed:

  encoder   the vision encoder learns through captioning, as in CapPa (arXiv 2306.07915);
  language  encoder frozen: projector and language model learn to match words with pictures.

Then come the two stages of LLaVA and MMFuser:

  pretrain  stage 1: fuser and projector, encoder and language model frozen;
  finetune  stage 2: fuser, projector and language model learn to answer questions, encoder frozen.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from configs import common
from mmfuser_jax import presets
from mmfuser_jax.models import LoraConfig

VOCAB_SIZE = 64  # 38 words and marks, rounded up so that it divides over devices

CAPTIONS = {"sources": "easy_vqa/captions", "tiles": 1, "length": 80, "batch_size": 32}
MATCHES = {"sources": "easy_vqa/matches", "tiles": 1, "length": 160, "batch_size": 16, "conversations": 12}
QUESTIONS = {"sources": "easy_vqa/questions", "tiles": 1, "length": 176, "batch_size": 16, "conversations": 8}
AUGMENTATION = {
    "template": "short",
    "shift": 2,
    "flip": True,
}  # shapes stay whole and keep their names; triangles never stand on their tips
ADAPTERS = ((r"llm/.*/lora_[ab]$", 3e-3), ("(fuser|projector)/", 3e-3), (".*", None))
ARGUMENTS = ("mmfuser", "llava", "base", "lora", "qlora")
OPTIMIZER = {"optimizer": "muon", "b2": 0.98, "clip_norm": 1.0}


def get_config(arg: str = "mmfuser") -> ConfigDict:
    """`arg`: "mmfuser" (all stages), "llava" (the same without the fuser), "base" (what comes before stage 1), or "lora" or
    "qlora" (what comes after, in which the language model learns by adapters)."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/easy_vqa.py:{arg}: the argument is {', '.join(ARGUMENTS)}")
    model = presets.easy_vqa(VOCAB_SIZE)
    adapted = arg in ("lora", "qlora")
    if adapted:
        llm = dataclasses.replace(model.llm, lora=LoraConfig(16, 32.0), quantize="nf4" if arg == "qlora" else "")
        model = dataclasses.replace(model, llm=llm)
    with_fuser = arg == "mmfuser" or adapted
    if not with_fuser:
        model = dataclasses.replace(model, fuser=None)
    bypassed: tuple = (("fuser/", None),) if with_fuser else ()
    connector = "(fuser|projector)/" if with_fuser else "projector/"
    frozen_encoder = ("vision_encoder/", None)
    stages = {
        "encoder": common.stage(
            rules=(*bypassed, (".*", 3e-3)), steps=900, fuser=False, **CAPTIONS, **AUGMENTATION, **OPTIMIZER
        ),
        "language": common.stage(
            rules=(*bypassed, frozen_encoder, (".*", 3e-3)), steps=250, fuser=False,
            **MATCHES, **AUGMENTATION, **OPTIMIZER,
        ),
        "pretrain": common.stage(
            rules=((connector, 1e-3), (".*", None)), steps=40, **MATCHES, **AUGMENTATION, **OPTIMIZER
        ),
        "finetune": common.stage(
            rules=ADAPTERS if adapted else (frozen_encoder, (".*", 3e-3)), steps=750, **QUESTIONS, **AUGMENTATION, **OPTIMIZER
        ),
    }  # fmt: skip
    return common.run(
        model,
        stages,
        stage_order=tuple(stages)[:2] if arg == "base" else tuple(stages)[2:] if adapted else tuple(stages),
        init_from="runs/base" if adapted else "",
        aspect="square",
        remat="full",  # with scanned layers also the fastest on CPU: 190 ms a step instead of 240
        checkpoint_every=300,
        validate_every=300,
        validation_records=200,
        max_new_tokens=4,
        test=common.source("" if arg == "base" else "easy_vqa/questions", split="test"),
    )
