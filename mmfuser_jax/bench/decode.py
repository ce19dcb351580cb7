"""Tokens a second of greedy decoding with a KV cache, prompt included, against transformers' `generate`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import numpy as np

from mmfuser_jax.bench import models, torch_models
from mmfuser_jax.bench.rows import BenchRow
from mmfuser_jax.bench.timing import Seconds, compare
from mmfuser_jax.generate import Engine
from mmfuser_jax.models import VLM, VlmConfig

PROMPT, NEW = 32, 64

Decode = Callable[[np.ndarray, int], np.ndarray]
"""(int32[B, T] prompts, number of new tokens) → new tokens [B, new]."""


def decoders(config: VlmConfig) -> tuple[Decode, Decode]:
    """Ours and the peer's, with the same parameters, float32."""
    model = VLM(config)
    params = models.params(model)
    peer = torch_models.TorchVlm(config).eval()
    torch_models.load_params(peer, config, params)
    engine = Engine(model, params, end_ids=(), pad_id=0)

    def ours(ids: np.ndarray, new: int) -> np.ndarray:
        return np.asarray(engine.generate(list(ids), None, [[]] * len(ids), max_new_tokens=new))

    return ours, lambda ids, new: torch_models.generate(peer.llm, ids, new)


def measure(decode: tuple[Decode, Decode], rows: int, repeats: int) -> Seconds:
    """Seconds for NEW tokens in each of `rows` rows."""
    ids = np.random.default_rng(0).integers(3, models.VOCABULARY, (rows, PROMPT)).astype(np.int32)
    ours, theirs = decode
    return compare(lambda: ours(ids, NEW), lambda: theirs(ids, NEW), repeats)


def run(repeats: int = 7) -> Iterator[BenchRow]:
    """Two sizes, one row and eight."""
    for config in (models.LLM_134M, models.LLM_505M):
        decode = decoders(config)
        size = f"{models.count(config) / 1e6:.0f} M parameters"
        for rows in (1, 8):
            seconds = measure(decode, rows, repeats)
            note = f"{size}, float32, prompt of {PROMPT}, {NEW} new"
            yield seconds.row(
                f"decode, {size}, batch {rows}", "transformers generate, sdpa", note, float(rows * NEW), "tokens/s"
            )
        del decode
        gc.collect()
