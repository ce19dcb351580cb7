"""What trains and how fast: an ordered table over parameter paths, and the optimizer made from it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax.traverse_util import flatten_dict, unflatten_dict

from mmfuser_jax.models.quantized import KERNEL

FlatParams = dict[str, Any]
"""Parameters by path, "llm/decoder/layers_0/query/kernel"."""

MATRIX = re.compile(r".*(kernel|embedding|head|lora_[ab])$")
"""Parameters that weight decay pulls on, and that a 16-bit model keeps in 16 bits: not norms, biases or gammas."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of the table: parameters whose path matches `pattern` from its start train at `learning_rate`.

    Attributes:
      pattern: regular expression.
      learning_rate: peak; None freezes.
    """

    pattern: str
    learning_rate: float | None


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer with linear warm-up and cosine decay to zero, and the table of what it trains.

    Attributes:
      rules: first match wins; every parameter must match one.
      steps: optimizer steps of the stage.
      warmup: steps of linear warm-up from 0.
      name: "adamw", or "muon" (Jordan 2024): orthogonalised momentum for the matrices of blocks, Adam for the rest.
      b1, b2, epsilon: of Adam.
      weight_decay: decoupled, on matrices only (with muon, on those it orthogonalises).
      clip_norm: of the global gradient norm over all trained parameters; 0 for none.
      average: decay of an exponential moving average of the trained parameters, which validates and in the end stays;
        0 for none.
    """

    rules: tuple[Rule, ...]
    steps: int
    warmup: int = 0
    name: str = "adamw"
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    average: float = 0.0


class RuleError(ValueError):
    """The table does not cover every parameter, a row of it covers none, or trains what cannot be."""


def flatten(params: Any) -> FlatParams:
    """Nested parameters → by path."""
    return flatten_dict(params, sep="/")


def unflatten(flat: FlatParams) -> Any:
    """Inverse of `flatten`."""
    return unflatten_dict(flat, sep="/")


def assign_rules(paths: Iterable[str], rules: Sequence[Rule]) -> dict[str, int]:
    """Index of the first matching row for every path.

    Raises:
      RuleError: a path matches no row, a row is the first match of no path (a typing error, most likely), or trains a
        quantised kernel.
    """
    assigned = {path: _first_match(path, rules) for path in paths}
    idle = [rules[i].pattern for i in range(len(rules)) if i not in assigned.values()]
    if idle:
        raise RuleError(f"rules {idle} match no parameter that an earlier row leaves over")
    for path, row in assigned.items():
        if KERNEL.fullmatch(path) and rules[row].learning_rate is not None:
            raise RuleError(f"rule {rules[row].pattern!r} trains {path}: quantised kernels stay frozen (None)")
    return assigned


def trained_groups(sizes: Mapping[str, int], rules: Sequence[Rule]) -> list[tuple[Rule, int]]:
    """Every row of the table with the number of parameters it decides about, from their sizes by path."""
    assigned = assign_rules(sizes, rules)
    counts = [sum(size for path, size in sizes.items() if assigned[path] == row) for row in range(len(rules))]
    return list(zip(rules, counts, strict=True))


def split_trainable(params: Any, rules: Sequence[Rule]) -> tuple[FlatParams, FlatParams]:
    """(trained, frozen) parameters by path. Only the first are differentiated, so the rest cost no gradient memory."""
    flat = flatten(params)
    assigned = assign_rules(flat, rules)
    trained = {path: x for path, x in flat.items() if rules[assigned[path]].learning_rate is not None}
    return trained, {path: x for path, x in flat.items() if path not in trained}


def schedule(config: OptimizerConfig, peak: float) -> optax.Schedule:
    """Learning rate at a step: 0 → `peak` over the warm-up, then along a cosine to 0 at the last step."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, config.warmup, max(config.steps, config.warmup + 1))


def make_optimizer(config: OptimizerConfig, trained: Iterable[str]) -> optax.GradientTransformation:
    """Optimizer over a flat tree of the trained parameters, one part per row of the table."""
    rows = {path: str(_first_match(path, config.rules)) for path in trained}
    parts = {
        row: OPTIMIZERS[config.name](config, schedule(config, config.rules[int(row)].learning_rate or 0.0))
        for row in sorted(set(rows.values()))
    }
    clip = _clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, optax.partition(parts, rows))


def _clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """optax's, but for one factor for all gradients: its division and choice per gradient are passes over memory."""

    def clip(updates: FlatParams, _: FlatParams | None) -> FlatParams:
        factor = jnp.minimum(1.0, limit / jnp.maximum(optax.global_norm(updates), 1e-30))
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates)

    return optax.stateless(clip)


def _first_match(path: str, rules: Sequence[Rule]) -> int:
    for row, rule in enumerate(rules):
        if re.match(rule.pattern, path):
            return row
    raise RuleError(f"no rule covers parameter {path}; add a row (learning_rate None freezes)")


def _adamw(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        rate, config.b1, config.b2, config.epsilon, weight_decay=config.weight_decay, mask=_map_paths(MATRIX.match)
    )


def _muon(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.contrib.muon(
        rate,
        adam_b1=config.b1,
        adam_b2=config.b2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        # Updates with the size of Adam's, so that both kinds of parameters share one learning rate (arXiv 2502.16982).
        consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(_matrix_axes, params),
    )


OPTIMIZERS = {"adamw": _adamw, "muon": _muon}
"""Optimizers by name."""


def _map_paths(predicate: Callable[[str], Any]) -> Callable[[FlatParams], FlatParams]:
    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: bool(predicate(path[0].key)), params)


def _matrix_axes(path: Any, x: Any) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of a kernel are its input and its output; None where a parameter is not a block's matrix."""
    name = path[0].key
    if not name.endswith("kernel") or "patch_embedding" in name:
        return None
    stacked = "/layers/" in name
    if x.ndim - stacked == 2:
        return optax.contrib.MuonDimensionNumbers(-2, -1)
    if name.endswith("out/kernel"):  # heads × head width → width
        return optax.contrib.MuonDimensionNumbers((-3, -2), -1)
    return optax.contrib.MuonDimensionNumbers(-3, (-2, -1))


def learning_rates(config: OptimizerConfig, step: int) -> dict[str, float]:
    """Learning rate of every trained row at a step of the stage, by pattern."""
    return {
        rule.pattern: float(schedule(config, rule.learning_rate)(step))
        for rule in config.rules
        if rule.learning_rate is not None
    }


def optimizer_shardings(state: Any, placed: FlatParams, rest: Any) -> Any:
    """Shardings of an optimizer state: arrays kept per parameter like that parameter, counters as `rest`.

    Args:
      state: abstract optimizer state; whatever its nesting, per-parameter arrays sit under the parameter's path.
      placed: the trained parameters' shardings by path.
      rest: sharding of everything else.
    """

    def place(path: Any, _: Any) -> Any:
        return placed.get(getattr(path[-1], "key", ""), rest)

    return jax.tree_util.tree_map_with_path(place, state)
