"""A small MMFuser model on MMInstruct-shaped records, from nothing: the whole data path on a laptop.

    python launch/data.py generate --out=data/world --rows=20000 --workers=2
    python launch/data.py build --source=data/world --out=data/built --name=mminstruct/world --workers=2
    python launch/train.py --config=configs/mminstruct.py:data/built/mminstruct/world --workdir=runs/world

The argument is any source (see the README's "Data"), a build of MMInstruct as well. For one without a validation split,
such as the rows as released, add --config.stages.instruct.validation.source="".
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from mmfuser_jax import presets

VOCAB_SIZE = 4096


def get_config(arg: str = "data/built/mminstruct/world") -> ConfigDict:
    """`arg`: the source of records."""
    stage = common.stage(
        {"instructions": common.source(arg)},
        rules=((".*", 2e-3),),
        steps=400,
        validation=common.source(arg, split="validation"),
        template="short",
        length=512,
        tiles=3,
        batch_size=4,
        optimizer="muon",
        b2=0.98,
        clip_norm=1.0,
    )
    return common.run(
        presets.small(VOCAB_SIZE),
        {"instruct": stage},
        tokenizer="bpe",
        remat="full",
        workers=1,
        threads=1,
        checkpoint_every=100,
        validate_every=200,
        validation_records=100,
        max_new_tokens=24,
    )
