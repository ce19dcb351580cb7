"""Where the time of a train step goes, ours and the peer's: what explains a ratio."""

from __future__ import annotations

import collections
import gzip
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import torch

from mmfuser_jax.bench import models, train_step
from mmfuser_jax.models import VlmConfig

STEPS = 5
"""Steps that are watched, after two that are not."""

PRODUCTS, OPTIMIZER, OTHER = "matrix products, and waiting for them", "optimizer and clipping", "everything else"

OUR_PARTS = (
    ("head and loss", r"llm\.loss"),
    ("fuser", r"/fuser/"),
    ("vision encoder and projector", r"encode_images"),
    ("attention of the language model", r"_attend"),
    ("rest of the language model", r"VLM"),
)
"""Parts of our model, by what their operations' names contain; the first that fits."""

THEIR_PRODUCTS = r"aten::(mm|addmm|bmm|baddbmm|.*flash_attention.*|.*convolution.*)$"
THEIR_OPTIMIZER = r"aten::(_fused_adamw_|_foreach_.*|linalg_vector_norm)$"

Seconds = Mapping[tuple[str, str], float]
"""Seconds a step by (kind, part); products and the peer's operations do not tell the part."""


def measure(config: VlmConfig, rows: int, length: int) -> tuple[Seconds, Seconds]:
    """Seconds a step of ours and of the peer, all parts trained.

    XLA's products run on beside what comes after them, and are recorded only until they have begun (the 8 GFLOP of one
    slice of the head's gradient as 1 ms): of ours, products are what the other operations leave of a step. The peer's
    fused attention counts as a product, softmax included; of ours, only the products of attention do.
    """
    step, state, their_step = train_step.start(config, frozen_vision=False)
    batch = models.random_batch(config, rows, length)
    compiled = step.lower(state, batch).compile()

    def our_step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)

    return _ours(our_step, compiled.as_text()), _theirs(lambda: their_step(batch))


def _ours(step: Callable[[], None], program: str) -> Seconds:
    names = dict(re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]*)"', program, re.M))
    seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
    operations, whole = _traced(step)
    for operation, duration in operations:
        name = names.get(operation, "")
        part = next((part for part, pattern in OUR_PARTS if re.search(pattern, name)), "")
        if not operation.startswith("dot"):
            seconds[OTHER if part or not name else OPTIMIZER, part] += duration / STEPS
    seconds[PRODUCTS, ""] = whole / STEPS - sum(seconds.values())
    return seconds


def _traced(step: Callable[[], None]) -> tuple[list[tuple[str, float]], float]:
    """(operation, seconds) of everything that STEPS calls execute, and the seconds of all calls."""
    for _ in range(2):
        step()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # which has crashed whole processes, and is not looked at
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            started = time.perf_counter()
            for _ in range(STEPS):
                step()
            whole = time.perf_counter() - started
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    ours = (event for event in events if "hlo_op" in event.get("args", {}) and not event["name"].startswith("while"))
    return [(event["name"], event["dur"] / 1e6) for event in ours], whole


def _theirs(step: Callable[[], Any]) -> Seconds:
    for _ in range(2):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        for _ in range(STEPS):
            step()
    seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
    for event in watched.key_averages():
        patterns = ((PRODUCTS, THEIR_PRODUCTS), (OPTIMIZER, THEIR_OPTIMIZER), (OTHER, ""))
        kind = next(kind for kind, pattern in patterns if re.match(pattern, event.key))
        seconds[kind, ""] += event.self_cpu_time_total / 1e6 / STEPS
    return seconds


def markdown(ours: Seconds, theirs: Seconds) -> str:
    """A table: each kind on both sides, and the parts of ours under it."""
    lines = ["| milliseconds a step | ours | peer |", "|---|---:|---:|"]
    for kind in (PRODUCTS, OPTIMIZER, OTHER):
        mine, peer = (1e3 * sum(x for (k, _), x in side.items() if k == kind) for side in (ours, theirs))
        lines.append(f"| {kind} | {mine:,.0f} | {peer:,.0f} |")
        parts = {part: 1e3 * x for (k, part), x in ours.items() if k == kind and part}
        lines += [f"| – {part} | {x:,.0f} | |" for part, x in sorted(parts.items(), key=lambda item: -item[1])]
    total = (1e3 * sum(side.values()) for side in (ours, theirs))
    lines.append("| all | {:,.0f} | {:,.0f} |".format(*total))
    return "\n".join(lines) + "\n"
