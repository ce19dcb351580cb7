"""Fields that every run has, with the defaults of the published LLaVA-1.5 recipe where it has one.

A config program returns a plain `ConfigDict`; every field can be set on the command line, for example
`--config.stages.finetune.steps=100`. `mmfuser_jax/train/config.py` checks the result and gives it types.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from mmfuser_jax.models import VlmConfig


def run(model: VlmConfig, stages: dict[str, ConfigDict], **fields: Any) -> ConfigDict:
    """A run of `stages`, in the order given."""
    config = ConfigDict(
        {
            "seed": 0,
            "model": dataclasses.asdict(model),
            "init_from": "",  # or a model folder to start from
            "tokenizer": "words",  # or "bpe", made from the training texts too, or a folder with a tokenizer
            "aspect": "pad",
            "im_start_end": False,  # prompts put <im_start> and <im_end> around a picture
            "dtype": "float32",
            "remat": "none",
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
            "stage_order": tuple(stages),
            "stages": stages,
            "log_every": 10,
            "checkpoint_every": 1000,
            "validate_every": 0,
            "validation_records": 100,
            "wandb": "",  # or the project in Weights & Biases that shows the run too
            "max_new_tokens": 16,
            "keep": 2,
            "keep_best": "",  # "accuracy", "loss" or another number of the validation: its best checkpoint stays, too
            "max_bad_fraction": 0.01,  # of the records; with more that cannot be used, the run stops
            "workers": 0,  # processes that prepare batches, on every host; 0 for a thread
            "threads": 4,  # that decode pictures, in each of them
            "on_bad_step": "stop",  # or "skip": what follows a gradient that is not finite, or nothing to learn from
            "spike_sigmas": 0.0,  # bad is also a loss so far above the last 128, in standard deviations; 0 for never
            "stall_seconds": 3600.0,  # a run that is silent for longer shows where it hangs, and ends; 0 for never
            "test": source("", split="test"),  # scored once, after the last step
        }
    )
    config.lock()
    config.update(fields)
    return config


def full_size_run(model: VlmConfig, stages: dict[str, ConfigDict], *, init_from: str, aspect: str) -> ConfigDict:
    """A run of a published size: bfloat16 over float32 masters, parameters spread over all devices."""
    return run(
        model,
        stages,
        init_from=init_from,
        aspect=aspect,
        dtype="bfloat16",
        remat="full",
        mesh={"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1},
        workers=4,
        checkpoint_every=500,
    )


def source(source: str, split: str = "train", image_folder: str = "", weight: float = 1.0) -> ConfigDict:
    """One component of a mixture: a name, file or folder (`data.sources.open_source`), and its share of the examples."""
    return ConfigDict({"source": source, "split": split, "image_folder": image_folder, "weight": weight})


def stage(
    sources: str | dict[str, ConfigDict], rules: tuple[tuple[str, float | None], ...], steps: int, **fields: Any
) -> ConfigDict:
    """One stage: what it trains on, the ordered table (pattern → peak learning rate, None freezes), and for how long.

    `sources`: one source, which also validates, or named components of a mixture.
    """
    alone = isinstance(sources, str)
    config = ConfigDict(
        {
            "sources": {"data": source(sources)} if alone else sources,
            "validation": source(sources if alone else "", split="validation"),
            "template": "v1",
            "conversations": 1,
            "grouping": "packed",  # or "length", as LLaVA's group_by_modality_length
            "window": 1024,  # examples packed together
            "length": 2048,
            "tiles": 4,  # pictures of a row, or tiles of pictures that are cut
            "shift": 0,
            "flip": False,
            "batch_size": 128,
            "accumulate": 1,  # parts a batch is computed in, to hold the activations of one at a time
            "fuser": True,  # False bypasses it while it is still the identity
            "rules": rules,
            "steps": steps,
            "warmup_ratio": 0.03,
            "optimizer": "adamw",
            "b1": 0.9,
            "b2": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 0.0,
            "clip_norm": 0.0,
            "average": 0.0,  # decay of a moving average of the trained parameters, which stays in the end; 0 for none
        }
    )
    config.lock()
    config.update(fields)
    return config
