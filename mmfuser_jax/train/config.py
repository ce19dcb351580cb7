"""Config programs → typed, checked descriptions of a run and its stages."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfuser_jax import model_folder
from mmfuser_jax.data.conversation import get_template
from mmfuser_jax.data.images import check_aspect
from mmfuser_jax.data.pipeline import GROUPINGS
from mmfuser_jax.data.rows import Augmentation, RowFormat
from mmfuser_jax.data.sources import SourceSpec
from mmfuser_jax.models import VlmConfig
from mmfuser_jax.models.layers import REMAT_POLICIES
from mmfuser_jax.train.guard import Guard
from mmfuser_jax.train.optim import OPTIMIZERS, OptimizerConfig, Rule
from mmfuser_jax.train.sinks import import_wandb

LOG = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16")
ON_BAD_STEP = ("stop", "skip")

RUN_NEUTRAL = re.compile(
    r"(mesh|keep|keep_best|log_every|checkpoint_every|validate_every|validation_records|wandb|max_bad_fraction|threads|"
    r"on_bad_step|spike_sigmas|stall_seconds)\b"
    r"|stages\.\w+\.sources\.\w+\.weight$"
)
"""Fields that may change when a run is resumed: what changes cost and reports but not what is learnt, what is done about bad
steps, and the weights of a mixture, which people do change on the way."""


class ConfigError(ValueError):
    """A config has a value that makes no sense; the message names the field."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stretch of training with its own data, trainable parts and schedule.

    Attributes:
      name: for logs and files.
      start: global step before its first.
      sources: what it trains on, by name, with the weight of each in the mixture.
      validation: what measures progress; None for nothing.
      row: static shape of a row.
      conversations: drawn from a record at every visit.
      augmentation: of pictures.
      grouping, window: see `data.pipeline.Loading`.
      batch_size: rows of the global batch.
      accumulate: parts that a batch is computed in, one after the other.
      fuser: whether the forward pass goes through the fuser; False saves its cost while it is still the identity.
      optimizer: table of trained parameters, and schedule.
    """

    name: str
    start: int
    sources: Mapping[str, tuple[SourceSpec, float]]
    validation: SourceSpec | None
    row: RowFormat
    conversations: int
    augmentation: Augmentation
    grouping: str
    window: int
    batch_size: int
    accumulate: int
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
      tokenizer: "words" or "bpe" makes one from `text_sources`, anything else is a tokenizer folder; with `init_from`,
        its tokenizer is taken.
      text_sources: what every stage that the config describes trains on, run here or not.
      dtype: compute dtype.
      remat: key of `layers.REMAT_POLICIES`.
      mesh: size of every mesh axis; -1 takes the remaining devices.
      stages: in order.
      log_every, checkpoint_every, validate_every: global steps; 0 switches validation off.
      validation_records: at most this many, from the start of the split.
      wandb: project in Weights & Biases, "" for none.
      max_new_tokens: of a generated answer.
      keep: newest checkpoints kept.
      keep_best: number of the validation whose best checkpoint of the newest stage is kept as well: the lowest "loss", or
        the highest of any other; "" for none.
      max_bad_fraction: of the records seen; with more that cannot be used, the run stops.
      workers, threads: see `data.pipeline.Loading`.
      guard: what the train step does about bad steps; None where the loop looks for them alone, and stops.
      stall_seconds: longest silence of a run before it is ended; 0 for any.
      test: scored once, after the last step; None for nothing.
    """

    seed: int
    model: VlmConfig
    init_from: str
    tokenizer: str
    text_sources: tuple[SourceSpec, ...]
    dtype: str
    remat: str
    mesh: Mapping[str, int]
    stages: tuple[Stage, ...]
    log_every: int
    checkpoint_every: int
    validate_every: int
    validation_records: int
    wandb: str
    max_new_tokens: int
    keep: int
    keep_best: str
    max_bad_fraction: float
    workers: int
    threads: int
    guard: Guard | None
    stall_seconds: float
    test: SourceSpec | None

    def model_of(self, stage: Stage) -> VlmConfig:
        """What a stage's forward pass goes through: the model, or the model without a fuser that is still the identity."""
        return self.model if stage.fuser else dataclasses.replace(self.model, fuser=None)

    def named(self, name: str) -> tuple[Stage, ...]:
        """The stage of that name; all of them for "".

        Raises:
          ConfigError: there is none.
        """
        found = tuple(stage for stage in self.stages if name in ("", stage.name))
        if not found:
            raise ConfigError(f"no stage {name!r}; the config has {', '.join(x.name for x in self.stages)}")
        return found

    @property
    def sources(self) -> tuple[SourceSpec, ...]:
        """All that the run reads, each once."""
        trained = [spec for stage in self.stages for spec, _ in stage.sources.values()]
        scored = [spec for spec in (*(stage.validation for stage in self.stages), self.test) if spec]
        return tuple(dict.fromkeys([*trained, *self.text_sources, *scored]))

    @property
    def steps(self) -> int:
        """Global steps of all stages."""
        return self.stages[-1].end


def parse_run(config: Mapping[str, Any]) -> RunConfig:
    """Checks a resolved config (see `configs/common.py` for its fields) and returns it typed.

    Raises:
      ConfigError: a value out of range, or an unknown stage, template, dtype or remat policy.
      TrainingError: W&B is asked for, and not installed.
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
    for field in ("log_every", "checkpoint_every", "keep", "max_new_tokens", "threads"):
        if config[field] < 1:
            raise ConfigError(f"config.{field}={config[field]} must be at least 1")
    if config["wandb"]:
        import_wandb()
    parsed = {"model", "stages", "text_sources", "test", "guard"}
    names = {field.name for field in dataclasses.fields(RunConfig)} - parsed
    if config["workers"] < 0 or not 0 <= config["max_bad_fraction"] <= 1:
        raise ConfigError("config.workers must not be negative, and config.max_bad_fraction between 0 and 1")
    specs = (spec for fields in config["stages"].values() for spec, _ in _parse_sources(fields).values())
    texts = tuple(dict.fromkeys(specs))
    test = _parse_source(config["test"])
    return RunConfig(
        model=model,
        stages=stages,
        text_sources=texts,
        test=test if test.source else None,
        guard=_parse_guard(config),
        **{name: config[name] for name in names},
    )


def _parse_guard(config: Mapping[str, Any]) -> Guard | None:
    policy, sigmas = config["on_bad_step"], config["spike_sigmas"]
    if policy not in ON_BAD_STEP:
        raise ConfigError(f"config.on_bad_step={policy!r} is not one of {', '.join(ON_BAD_STEP)}")
    if not 0 <= sigmas < math.inf or not 0 <= config["stall_seconds"] < math.inf:
        raise ConfigError("config.spike_sigmas and config.stall_seconds must not be negative, and finite")
    return Guard(policy == "skip", sigmas) if policy == "skip" or sigmas else None


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
    for field in ("steps", "batch_size", "accumulate", "conversations", "length", "tiles", "window"):
        if fields[field] < 1:
            raise ConfigError(f"config.stages.{name}.{field}={fields[field]} must be at least 1")
    if fields["batch_size"] % fields["accumulate"]:
        raise ConfigError(
            f"config.stages.{name}.batch_size={fields['batch_size']} does not divide into {fields['accumulate']} parts"
        )
    get_template(fields["template"])
    sources, validation = _parse_sources(fields), _parse_source(fields["validation"])
    for source, (_, weight) in sources.items():
        if not 0 < weight < math.inf:
            raise ConfigError(f"config.stages.{name}.sources.{source}.weight={weight} must be above 0, and finite")
    if not sources:
        raise ConfigError(f"config.stages.{name}.sources is empty")
    if fields["grouping"] not in GROUPINGS:
        known = ", ".join(GROUPINGS)
        raise ConfigError(f"config.stages.{name}.grouping={fields['grouping']!r} is not one of {known}")
    if fields["optimizer"] not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ConfigError(f"config.stages.{name}.optimizer={fields['optimizer']!r} is not one of {known}")
    if not 0 <= fields["average"] < 1:
        raise ConfigError(f"config.stages.{name}.average={fields['average']} must be in [0, 1)")
    rules = _parse_rules(name, fields["rules"])
    if not any(rule.learning_rate for rule in rules):
        raise ConfigError(f"config.stages.{name}.rules train nothing")
    return Stage(
        name=name,
        start=start,
        sources=sources,
        validation=validation if validation.source else None,
        row=RowFormat(
            template=fields["template"],
            images=model_folder.image_format(model, config["aspect"]),
            im_start_end=config["im_start_end"],
            length=fields["length"],
            tiles=fields["tiles"],
        ),
        conversations=fields["conversations"],
        augmentation=Augmentation(shift=fields["shift"], flip=fields["flip"]),
        grouping=fields["grouping"],
        window=fields["window"],
        batch_size=fields["batch_size"],
        accumulate=fields["accumulate"],
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
            average=fields["average"],
        ),
    )


def _parse_sources(fields: Mapping[str, Any]) -> dict[str, tuple[SourceSpec, float]]:
    return {name: (_parse_source(part), part["weight"]) for name, part in fields["sources"].items()}


def _parse_source(fields: Mapping[str, Any]) -> SourceSpec:
    return SourceSpec(fields["source"], fields["split"], fields["image_folder"])


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


def check_unchanged(saved: Mapping[str, Any], given: Mapping[str, Any], workdir: Path, *, allow: bool = False) -> None:
    """A workdir belongs to one config, but for the fields in RUN_NEUTRAL. What differs is logged where it is allowed.

    Raises:
      ConfigError: the configs differ; the message lists the fields.
    """
    old, new = flatten_config(saved), flatten_config(given)
    missing = object()
    compared = {key for key in (*old, *new) if not RUN_NEUTRAL.match(key)}
    changed = [key for key in sorted(compared) if old.get(key, missing) != new.get(key, missing)]
    if changed:
        fields = "; ".join(f"{key}: {old.get(key)!r} → {new.get(key)!r}" for key in changed)
        if not allow:
            raise ConfigError(
                f"{workdir} holds a run of another config ({fields}); choose another --workdir, or go on with what has "
                "changed by --allow_changes"
            )
        LOG.warning("%s goes on with another config: %s", workdir, fields)
