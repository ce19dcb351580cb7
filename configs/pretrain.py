"""Stage 1 at full size: fuser and projector learn to describe pictures, vision tower and language model frozen.

    python launch/convert.py --source=vicuna-7b-v1.5 --source=clip-vit-large-patch14-336 --target=runs/base_7b --to=orbax
    python launch/train.py --config=configs/pretrain.py:7b --workdir=runs/pretrain_7b
    python launch/aot.py --config=configs/pretrain.py:7b --topology=v5e:4x4    # does it fit, and how long does it take?

The published recipe of LLaVA-1.5 and MMFuser: 558K captions in the `plain` template, one epoch of 2,181 steps at a
global batch of 256, learning rate 1e-3 (at 13B the fuser's is 1e-4), cosine with 3 % warm-up, no decay, no clipping.
A row holds one picture, as a row of the published recipe does, so that steps and batch size mean the same. Captions are
short: three pictures fit a row of 2,048 tokens, and --config.stages.pretrain.tiles=3 with --config.stages.pretrain.batch_size=86
makes as large a step of a third of the rows.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from mmfuser_jax import presets

SIZES = ("7b", "13b")


def get_config(arg: str = "7b") -> ConfigDict:
    """`arg`: size of the language model, "7b" or "13b"."""
    if arg not in SIZES:
        raise ValueError(f"configs/pretrain.py:{arg}: the argument is {' or '.join(SIZES)}")
    fuser_rate = 1e-4 if arg == "13b" else 1e-3
    stage = common.stage(
        {"captions": common.source("data/llava_pretrain/blip_laion_cc_sbu_558k.json")},
        rules=(("fuser/", fuser_rate), ("projector/", 1e-3), (".*", None)),
        steps=2181,
        template="plain",
        batch_size=256,
        tiles=1,
    )
    return common.full_size_run(
        presets.PRESETS[f"mmfuser_{arg}"](), {"pretrain": stage}, init_from=f"runs/base_{arg}", aspect="square"
    )
