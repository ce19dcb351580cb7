"""Config programs → typed, checked descriptions of a run and its stages."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfuser_jax import model_folder
from mmfuser_jax.data.conversation import get_template
from mmfuser_jax.data.images import check_aspect
from mmfuser_jax.data.pipeline import Augmentation, RowFormat
from mmfuser_jax.data.sources import check_source
from mmfuser_jax.models import VlmConfig
from mmfuser_jax.models.layers import REMAT_POLICIES
from mmfuser_jax.train.optim import OPTIMIZERS, OptimizerConfig, Rule

DTYPES = ("float32", "bfloat16")

RUN_NEUTRAL = ("mesh", "keep", "log_every", "checkpoint_every", "validate_every", "validation_records")
"""Fields that may change when a run is resumed: they change what it costs and tells, not what it learns."""


class ConfigError(ValueError):
    """A config has a value that makes no sense; the message names the field."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stretch of training with its own data, trainable parts and schedule.

    Attributes:
      name: for logs and files.
      start: global step before its first.
      source, split: what it trains on, see `data.sources`.
      validation: source whose validation split measures progress.
      row: static shape of a row.
      conversations: drawn from a record at every visit.
      augmentation: of pictures.
      batch_size: rows of the global batch.
      fuser: whether the forward pass goes through the fuser; False saves its cost while it is still the identity.
      optimizer: table of trained parameters, and schedule.
    """

    name: str
    start: int
    source: str
    split: str
    validation: str
    row: RowFormat
    conversations: int
    augmentation: Augmentation
    batch_size: int
    fuser: bool
    optimizer: OptimizerConfig

    @property
    def end(self) -> int:
        """Global step after its last."""
        return self.start + self.optimizer.steps


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
      seed: of parameters, data order and augmentation.
      model: shape of the network.
      init_from: model folder whose parameters the first stage starts from, "" for fresh ones; parts it lacks are fresh.
      tokenizer: "words" builds one from the words of `text_sources`, anything else is a tokenizer folder; with
        `init_from`, its tokenizer is taken.
      text_sources: (source, split) of every stage that the config describes, run here or not.
      dtype: compute dtype.
      remat: key of `layers.REMAT_POLICIES`.
      mesh: size of every mesh axis; -1 takes the remaining devices.
      stages: in order.
      log_every, checkpoint_every, validate_every: global steps; 0 switches validation off.
      validation_records: at most this many, from the start of the split.
      max_new_tokens: of a generated answer.
      keep: checkpoints kept.
      test_source, test_split: scored once, after the last step.
    """

    seed: int
    model: VlmConfig
    init_from: str
    tokenizer: str
    text_sources: tuple[tuple[str, str], ...]
    dtype: str
    remat: str
    mesh: Mapping[str, int]
    stages: tuple[Stage, ...]
    log_every: int
    checkpoint_every: int
    validate_every: int
    validation_records: int
    max_new_tokens: int
    keep: int
    test_source: str
    test_split: str

    @property
    def steps(self) -> int:
        """Global steps of all stages."""
        return self.stages[-1].end


def parse_run(config: Mapping[str, Any]) -> RunConfig:
    """Checks a resolved config (see `configs/common.py` for its fields) and returns it typed.

    Raises:
      ConfigError: a value out of range, or an unknown stage, template, dtype or remat policy.
    """
    try:
        model = VlmConfig.from_dict(config["model"])
        if config["dtype"] not in DTYPES:
            raise ConfigError(f"config.dtype={config['dtype']!r} is not one of {', '.join(DTYPES)}")
        if config["remat"] not in REMAT_POLICIES:
            raise ConfigError(f"config.remat={config['remat']!r} is not one of {', '.join(REMAT_POLICIES)}")
        check_aspect(config["aspect"])
        stages = _parse_stages(config, model)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"config: {error}") from None
    for field in ("log_every", "checkpoint_every", "keep", "max_new_tokens"):
        if config[field] < 1:
            raise ConfigError(f"config.{field}={config[field]} must be at least 1")
    names = {field.name for field in dataclasses.fields(RunConfig)} - {"model", "stages", "text_sources"}
    texts = tuple(sorted({(stage["source"], stage["split"]) for stage in config["stages"].values()}))
    return RunConfig(model=model, stages=stages, text_sources=texts, **{name: config[name] for name in names})


def _parse_stages(config: Mapping[str, Any], model: VlmConfig) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for name in config["stage_order"]:
        if name not in config["stages"]:
            raise ConfigError(f"config.stage_order names {name!r}; config.stages has {', '.join(config['stages'])}")
        stages.append(_parse_stage(name, config, model, stages[-1].end if stages else 0))
    if not stages:
        raise ConfigError("config.stage_order is empty")
    return tuple(stages)


def _parse_stage(name: str, config: Mapping[str, Any], model: VlmConfig, start: int) -> Stage:
    fields = config["stages"][name]
    for field in ("steps", "batch_size", "conversations", "length"):
        if fields[field] < 1:
            raise ConfigError(f"config.stages.{name}.{field}={fields[field]} must be at least 1")
    get_template(fields["template"])
    for source in (fields["source"], fields["validation"]):
        check_source(source)
    if fields["optimizer"] not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ConfigError(f"config.stages.{name}.optimizer={fields['optimizer']!r} is not one of {known}")
    rules = _parse_rules(name, fields["rules"])
    if not any(rule.learning_rate for rule in rules):
        raise ConfigError(f"config.stages.{name}.rules train nothing")
    return Stage(
        name=name,
        start=start,
        source=fields["source"],
        split=fields["split"],
        validation=fields["validation"],
        row=RowFormat(
            template=fields["template"],
            images=model_folder.image_format(model, config["aspect"]),
            im_start_end=config["im_start_end"],
            length=fields["length"],
            tiles=fields["tiles"],
        ),
        conversations=fields["conversations"],
        augmentation=Augmentation(shift=fields["shift"], flip=fields["flip"]),
        batch_size=fields["batch_size"],
        fuser=fields["fuser"],
        optimizer=OptimizerConfig(
            rules=rules,
            steps=fields["steps"],
            warmup=math.ceil(fields["warmup_ratio"] * fields["steps"]),
            name=fields["optimizer"],
            b1=fields["b1"],
            b2=fields["b2"],
            epsilon=fields["epsilon"],
            weight_decay=fields["weight_decay"],
            clip_norm=fields["clip_norm"],
        ),
    )


def _parse_rules(stage: str, rows: Any) -> tuple[Rule, ...]:
    rules = []
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != 2 or not isinstance(row[0], str):
            raise ConfigError(f"config.stages.{stage}.rules: {row!r} is not (pattern, learning rate or None)")
        pattern, rate = row
        if rate is not None and not isinstance(rate, int | float):
            raise ConfigError(f"config.stages.{stage}.rules: learning rate {rate!r} of {pattern!r} is not a number")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"config.stages.{stage}.rules: {pattern!r} is no regular expression ({error})") from None
        rules.append(Rule(pattern, rate))
    return tuple(rules)


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config → {"stages.encoder.steps": 400, …}, for showing differences."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten_config(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def check_unchanged(saved: Mapping[str, Any], given: Mapping[str, Any], workdir: Path) -> None:
    """A workdir belongs to one config, but for the fields in RUN_NEUTRAL.

    Raises:
      ConfigError: the configs differ; the message lists the fields.
    """
    old, new = flatten_config(saved), flatten_config(given)
    missing = object()
    compared = {key for key in (*old, *new) if key.split(".")[0] not in RUN_NEUTRAL}
    changed = [key for key in sorted(compared) if old.get(key, missing) != new.get(key, missing)]
    if changed:
        fields = "; ".join(f"{key}: {old.get(key)!r} → {new.get(key)!r}" for key in changed)
        raise ConfigError(f"{workdir} holds a run of another config ({fields}); choose another --workdir or delete it")
