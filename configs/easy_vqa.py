"""The main job: a whole MMFuser model from nothing to answers about pictures, on two CPU cores in minutes.

    python launch/train.py --config=configs/easy_vqa.py --workdir=runs/demo
    python launch/train.py --config=configs/easy_vqa.py:llava --workdir=runs/demo_llava    # the same without the fuser

Stages are those of a 7B model. What cannot be downloaded there, a pretrained CLIP and Vicuna, is trained first:

  encoder   every part but the fuser learns to caption (a stand-in for CLIP pretraining, as in CapPa, arXiv 2306.07915);
  pretrain  fuser and projector learn from captions, encoder and language model frozen;
  finetune  fuser, projector and language model learn to answer questions, encoder frozen.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from configs import common
from mmfuser_jax import presets

VOCAB_SIZE = 64  # 36 words and marks, rounded up so that it divides over devices

CAPTIONS = {"source": "easy_vqa/captions", "template": "plain", "length": 80, "batch_size": 32}
QUESTIONS = {"source": "easy_vqa/questions", "template": "short", "length": 192, "batch_size": 16, "conversations": 8}
AUGMENTATION = {"shift": 2, "flip": True}  # shapes stay whole and keep their names; triangles never stand on their tips
OPTIMIZER = {"optimizer": "muon", "b2": 0.95, "clip_norm": 1.0}


def get_config(arg: str = "mmfuser") -> ConfigDict:
    """`arg`: "mmfuser", or "llava" for the same recipe without the fuser."""
    if arg not in ("mmfuser", "llava"):
        raise ValueError(f"configs/easy_vqa.py:{arg}: the argument is mmfuser or llava")
    model = presets.easy_vqa(VOCAB_SIZE)
    frozen_fuser: tuple = (("fuser/", None),)
    trained = "(fuser|projector)/"
    if arg == "llava":
        model = dataclasses.replace(model, fuser=None)
        frozen_fuser, trained = (), "projector/"
    stages = {
        "encoder": common.stage(
            rules=(*frozen_fuser, (".*", 3e-3)), steps=700, **CAPTIONS, **AUGMENTATION, **OPTIMIZER
        ),
        "pretrain": common.stage(
            rules=((trained, 1e-3), (".*", None)), steps=50, **CAPTIONS, **AUGMENTATION, **OPTIMIZER
        ),
        "finetune": common.stage(
            rules=(("vision_encoder/", None), (".*", 3e-3)), steps=800, **QUESTIONS, **AUGMENTATION, **OPTIMIZER
        ),
    }
    return common.run(
        model,
        stages,
        aspect="square",
        checkpoint_every=200,
        validate_every=200,
        max_new_tokens=4,
        test_source="easy_vqa/questions",
    )
