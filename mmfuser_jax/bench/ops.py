"""Single operations at the real sizes, forward and with their gradients, against torch's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from mmfuser_jax import ops
from mmfuser_jax.bench import torch_ops
from mmfuser_jax.bench.rows import BenchRow
from mmfuser_jax.bench.timing import Seconds, compare
from mmfuser_jax.ops.cross_entropy import head_cross_entropy

Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation on both sides.

    Attributes:
      name: what.
      peer: torch's name of it.
      note: sizes.
      inputs: float32 arrays that are differentiated.
      dtype: that both sides get them in.
      ours, theirs: functions of the inputs.
      weights: what the output is multiplied with before it is summed up, so that its gradient is not all ones; None
        where the output is a number.
    """

    name: str
    peer: str
    note: str
    inputs: Arrays
    ours: Callable[..., Any]
    theirs: Callable[..., torch.Tensor]
    weights: np.ndarray | None = None
    dtype: str = "float32"

    def _arrays(self) -> list[jax.Array]:
        return [jnp.asarray(x, self.dtype) for x in self.inputs]

    def _tensors(self) -> list[torch.Tensor]:
        return [_tensor(x).to(getattr(torch, self.dtype)) for x in self.inputs]

    def forward(self) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Both without gradients."""
        function, arrays, tensors = jax.jit(self.ours), self._arrays(), self._tensors()

        def theirs() -> torch.Tensor:
            with torch.inference_mode():
                return self.theirs(*tensors)

        return lambda: function(*arrays), theirs

    def gradients(self) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Both forward and backward: gradients of every input."""
        weights = jnp.asarray(1 if self.weights is None else self.weights, jnp.float32)
        everything = tuple(range(len(self.inputs)))

        def weighed(*inputs: jax.Array) -> jax.Array:
            return (self.ours(*inputs) * weights).sum()

        function = jax.jit(jax.grad(weighed, everything))
        arrays, tensors = self._arrays(), [x.requires_grad_() for x in self._tensors()]
        cotangent = _tensor(np.array(weights)).to(tensors[0].dtype)

        def theirs() -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(self.theirs(*tensors), tensors, cotangent)

        return lambda: function(*arrays), theirs

    def rows(self, repeats: int) -> Iterator[BenchRow]:
        """Forward, then forward and backward."""
        yield compare(*self.forward(), repeats).row(f"{self.name}, forward", self.peer, self.note)
        yield compare(*self.gradients(), repeats).row(f"{self.name}, forward and backward", self.peer, self.note)


def _tensor(x: np.ndarray) -> torch.Tensor:
    """On the device that JAX uses."""
    return torch.from_numpy(x).to("cuda" if jax.default_backend() == "gpu" else "cpu")


def deformable(
    side: int = 24,
    levels: int = 4,
    heads: int = 16,
    width: int = 64,
    points: int = 4,
    pictures: int = 1,
    impl: str = "auto",
) -> Case:
    """MMFuser's cross attention: every pixel of the query's grid samples each level near its place."""
    rng = np.random.default_rng(0)
    queries = side * side
    shapes = ((side, side),) * levels
    value = rng.standard_normal((pictures, levels * queries, heads, width), np.float32)
    centres = (np.stack(np.meshgrid(*[np.arange(side)] * 2), axis=-1).reshape(1, queries, 1, 1, 1, 2) + 0.5) / side
    places = (centres + rng.normal(0, 3 / side, (pictures, queries, heads, levels, points, 2))).astype(np.float32)
    weights = rng.random((pictures, queries, heads, levels, points), np.float32) / (levels * points)
    return Case(
        "deformable attention" + ("" if impl == "auto" else f" ({impl})"), "torch grid_sample",
        (f"{pictures} pictures, " if pictures > 1 else "") + f"{queries} queries, {levels} levels of {side}x{side}, {heads} heads of {width}, {points} points",
        (value, places, weights),
        lambda v, x, w: ops.deformable_attention(v, shapes, x, w, impl),
        lambda v, x, w: torch_ops.deformable_attention(v, shapes, x, w),
        rng.standard_normal((pictures, queries, heads * width), np.float32),
    )  # fmt: skip


def attention(length: int, heads: int, width: int, causal: bool, rows: int = 1, dtype: str = "float32") -> Case:
    """Attention over some rows, as the decoder (causal) or the vision encoder does it."""
    rng = np.random.default_rng(0)
    query, key, value, weights = rng.standard_normal((4, rows, length, heads, width), np.float32)
    row = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    mask = ops.Packed(np.ones_like(row), None, row) if causal else None
    return Case(
        f"{'causal' if causal else 'full'} attention", "torch sdpa",
        (f"{rows} × " if rows > 1 else "") + f"{length} tokens, {heads} heads of {width}" + _named(dtype),
        (query, key, value),
        lambda q, k, v: ops.attention(q, k, v, mask),
        lambda q, k, v: torch_ops.attention(q, k, v, causal),
        weights,
        dtype,
    )  # fmt: skip


def _named(dtype: str) -> str:
    return "" if dtype == "float32" else f", {dtype}"


def cross_entropy(tokens: int = 1024, width: int = 1024, vocabulary: int = 32_000, dtype: str = "float32") -> Case:
    """The output head with its loss."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((1, tokens, width), np.float32)
    head = rng.standard_normal((width, vocabulary), np.float32) / np.float32(width**0.5)
    targets = rng.integers(0, vocabulary, (1, tokens)).astype(np.int32)
    wanted = _tensor(targets).long()
    return Case(
        "output head and cross-entropy", "torch linear and cross_entropy",
        f"{tokens} tokens of width {width}, vocabulary {vocabulary}" + _named(dtype),
        (hidden, head),
        lambda h, w: head_cross_entropy(h, w, targets).mean,
        lambda h, w: torch_ops.head_cross_entropy(h, w.T, wanted),
        dtype=dtype,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    """Everything that is measured, at the published sizes; as much of it at a time as the device is there for."""
    if jax.default_backend() == "gpu":
        for impl in ("auto", "hat", "gather"):
            yield deformable(pictures=16, impl=impl)
        yield attention(577, 16, 64, causal=False, rows=16, dtype="bfloat16")
        yield attention(2048, 32, 128, causal=True, rows=4, dtype="bfloat16")
        yield cross_entropy(8192, 4096, dtype="bfloat16")
        return
    yield deformable()
    yield attention(577, 16, 64, causal=False)
    yield attention(1024, 16, 64, causal=True)
    yield cross_entropy()


def run(repeats: int = 7) -> Iterator[BenchRow]:
    """Rows of every case."""
    for case in cases():
        yield from case.rows(repeats)


def measure(case: Case, repeats: int) -> Seconds:
    """Seconds forward and backward."""
    return compare(*case.gradients(), repeats)
