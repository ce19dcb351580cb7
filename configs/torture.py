"""The smallest model on easy-VQA for some hundreds of steps: what `launch/torture.py` kills, damages and moves about.

python launch/train.py --config=configs/torture.py:60 --workdir=/tmp/small
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from mmfuser_jax import presets


def get_config(arg: str = "300") -> ConfigDict:
    """`arg`: steps, of which the second half trains without the vision encoder."""
    steps = int(arg)
    data = {
        "template": "short",
        "length": 64,
        "batch_size": 8,
        "conversations": 2,
        "optimizer": "muon",
        "shift": 1,
        "window": 128,
    }
    stages = {
        "encoder": common.stage("easy_vqa/captions", (("fuser/", None), (".*", 1e-3)), steps // 2, fuser=False, **data),
        "finetune": common.stage(
            "easy_vqa/questions", (("vision_encoder/", None), (".*", 1e-3)), steps - steps // 2, average=0.9, **data
        ),
    }
    return common.run(
        presets.tiny(), stages, log_every=1, checkpoint_every=10, validate_every=25, validation_records=8, keep=3,
        max_new_tokens=2, on_bad_step="skip", spike_sigmas=6.0,
    )  # fmt: skip
