"""Forty steps of the whole easy-VQA model in under a minute after compiling, for trials and tests.

python launch/train.py --config=configs/smoke.py --workdir=/tmp/smoke
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import easy_vqa


def get_config(arg: str = "mmfuser") -> ConfigDict:
    """`arg` as in configs/easy_vqa.py."""
    config = easy_vqa.get_config(arg)
    for name, steps in (("encoder", 15), ("language", 5), ("pretrain", 5), ("finetune", 15)):
        config.stages[name].steps = steps
        config.stages[name].batch_size = 8
    config.log_every = 1
    config.checkpoint_every = 10
    config.validate_every = 0
    config.validation_records = 10
    return config
