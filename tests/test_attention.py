"""Attention: every implementation against plain XLA, alone and sharded, its memory, and the rule of packed rows."""

import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmfuser_jax import sharding
from mmfuser_jax.aot.topology import find_topology, topology_mesh
from mmfuser_jax.models.layers import REMAT_POLICIES
from mmfuser_jax.ops import Packed, attention, attention_blocks
from tests.helpers import relative

module = importlib.import_module("mmfuser_jax.ops.attention")  # the package's attribute of that name is the function

LENGTH = 160  # no multiple of a kernel's block
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch):
    monkeypatch.setattr(module, "QUERY_BLOCK", 48)
    for name in ("CAUSAL_QUERIES", "ALL_QUERIES"):
        monkeypatch.setattr(attention_blocks, name, 48)


def draw(rows=2, length=LENGTH, heads=4, kv_heads=2, width=16, dtype="float32"):
    """Query, key, value, and a cotangent of the output."""
    rng = np.random.default_rng(0)
    shapes = [(rows, length, n, width) for n in (heads, kv_heads, kv_heads, heads)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def packed(rows=2, length=LENGTH, branching=False, window=0):
    """Rows of two segments and padding, cut differently in each; in branches, after a trunk, where asked for."""
    slots, cuts = np.arange(length)[None], 40 + 7 * np.arange(rows)[:, None]
    segments = np.where(slots < cuts, 1, np.where(slots < 140, 2, 0))
    positions = np.where(slots < cuts, slots, slots - cuts)
    branches = np.where(slots < cuts, 0, (slots - cuts) // 24)
    if branching:
        positions = np.where(branches, 24 + (slots - cuts) % 24, positions)
    as_ids = [jnp.asarray(x, jnp.int32) for x in (segments, branches, positions)]
    return Packed(as_ids[0], as_ids[1] if branching else None, as_ids[2], window)


@functools.cache
def compiled(impl, mesh):
    """Output and gradients by one implementation, traced once for each shape on the mesh in use."""

    @jax.jit
    def run(query, key, value, cotangent, mask):
        out, vjp = jax.vjp(lambda *x: attention(*x, mask, impl), query, key, value)
        return out, *vjp(cotangent)

    return run


def everything(arrays, mask, impl):
    """The output, and the gradients of query, key and value."""
    results = compiled(impl, sharding.active_mesh())(*arrays, mask)
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in results)
    return results


def errors(actual, expected):
    return [relative(a, e) for a, e in zip(actual, expected, strict=True)]


MASKS = {
    "packed": packed(),
    "window": packed(window=10),
    "none": None,
    "branching": packed(branching=True),
    "branching_window": packed(branching=True, window=10),
    "written_out": packed(branching=True).dense(),
}
CASES = [
    *[("chunked", name, "float32") for name in MASKS],
    *[("blocks", name, "float32") for name in MASKS if name != "written_out"],
    *[("splash", name, "float32") for name in ("packed", "window", "none")],
    *[(impl, "packed", "bfloat16") for impl in ("chunked", "blocks", "splash")],
]


@pytest.mark.parametrize(("impl", "mask", "dtype"), CASES)
def test_equals_plain_attention(impl, mask, dtype):
    arrays, mask = draw(dtype=dtype), MASKS[mask]
    expected = everything([x.astype(jnp.float32) for x in arrays], mask, "xla")
    assert max(errors(everything(arrays, mask, impl), expected)) < TOLERANCE[dtype]


def test_pictures_of_577_tokens():
    arrays = draw(rows=1, length=577, heads=2)
    assert max(errors(everything(arrays, None, "splash"), everything(arrays, None, "xla"))) < 1e-5


BROKEN = {
    "segments_leak": lambda query, mask: (query, mask.replace(segment_ids=jnp.ones_like(mask.segment_ids))),
    "scale_is_missing": lambda query, mask: (query * 4.0, mask),
    "window_is_off_by_one": lambda query, mask: (query, mask.replace(window=mask.window + 1)),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("impl", ["chunked", "blocks", "splash"])
def test_negative_control(impl, broken):
    arrays, mask = draw(), packed(window=10)
    expected = everything(arrays, mask, "xla")
    query, wrong = BROKEN[broken](arrays[0], mask)
    assert min(errors(everything([query, *arrays[1:]], wrong, impl), expected)) > 1e-2


MESHES = [
    ("splash", {"fsdp": 8}),
    ("splash", {"fsdp": 4, "tensor": 2}),
    ("splash", {"data": 2, "fsdp": 2, "sequence": 2}),
    ("splash", {"fsdp": 2, "tensor": 2, "sequence": 2}),
    ("chunked", {"fsdp": 2, "tensor": 2, "sequence": 2}),
]


@pytest.mark.parametrize(("impl", "sizes"), MESHES)
def test_sharded_equals_plain_attention(impl, sizes):
    arrays, mask = draw(rows=8), packed(rows=8, window=30)
    expected = everything(arrays, mask, "xla")
    mesh = sharding.make_mesh(**sizes)

    def place(x, *axes):
        return jax.device_put(x, NamedSharding(mesh, sharding.logical_to_spec(axes)))

    spread = [place(x, "batch", "length" if i in (0, 3) else "kv_length", "heads", None) for i, x in enumerate(arrays)]
    with sharding.use_mesh(mesh):
        results = everything(spread, jax.tree.map(lambda x: place(x, "batch", "length"), mask), impl)
    assert max(errors(results, expected)) < 1e-5
    if impl == "splash":
        assert results[0].sharding.spec[0] == ("data", "fsdp")


@pytest.mark.parametrize(("shape", "match"), [({"rows": 3}, "3 rows"), ({"kv_heads": 1}, "1 key/value heads")])
def test_what_does_not_divide_over_the_mesh_is_an_error(shape, match):
    arrays = draw(**shape)
    with sharding.use_mesh(sharding.make_mesh(fsdp=2, tensor=4)), pytest.raises(sharding.ShardingError, match=match):
        attention(*arrays[:3], None, "splash")


@pytest.mark.parametrize("impl", ["xla", "chunked"])
def test_a_blind_query_is_finite(impl):
    arrays = draw(rows=1)
    out, *_ = everything(arrays, jnp.zeros((1, 1, LENGTH, LENGTH), bool), impl)
    mean = jnp.repeat(arrays[2][0].mean(axis=0), 2, axis=0)
    np.testing.assert_allclose(out[0, 0], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", ["xla", "chunked", "splash"])
def test_a_row_of_padding_is_finite(impl):
    zeros = jnp.zeros((2, LENGTH), jnp.int32)
    everything(draw(), Packed(zeros, None, zeros, 3), impl)


def test_errors_say_what_to_do():
    arrays = draw()[:3]
    with pytest.raises(ValueError, match="not one of auto, xla, chunked, blocks, splash, cudnn"):
        attention(*arrays, impl="magic")
    for mask in (MASKS["branching"], MASKS["written_out"]):
        with pytest.raises(ValueError, match="'chunked' takes any"):
            attention(*arrays, mask, "splash")
    with pytest.raises(ValueError, match="'chunked' takes any"):
        attention(*arrays, MASKS["written_out"], "blocks")


def test_packed_mask_draws_what_its_docstring_says():
    segments = jnp.asarray([[1, 1, 1, 1, 1, 2, 2, 0]])
    branches = jnp.asarray([[0, 0, 1, 1, 2, 0, 0, 0]])
    drawn = ["x", "xx", "xxx", "xxxx", "xx..x", ".....x", ".....xx", ".......x"]
    expected = np.array([[c == "x" for c in row.ljust(8, ".")] for row in drawn])
    rule = Packed(segments, branches, segments)
    np.testing.assert_array_equal(rule.dense()[0, 0], expected)
    np.testing.assert_array_equal(rule.dense(jnp.asarray([4, 1]))[0, 0], expected[[4, 1]])


@pytest.mark.parametrize(
    ("platform", "backend", "dtype", "mask", "length", "expected"),
    [
        ("cpu", "cpu", "float32", "packed", LENGTH, "blocks"),
        ("cpu", "cpu", "float32", "branching", LENGTH, "blocks"),
        ("cpu", "cpu", "float32", "none", LENGTH, "blocks"),
        ("cpu", "cpu", "float32", "written_out", 1, "xla"),
        ("cpu", "cpu", "float32", "written_out", LENGTH, "chunked"),
        ("tpu", "cpu", "bfloat16", "packed", LENGTH, "splash"),
        ("tpu", "tpu", "float32", "none", LENGTH, "splash"),
        ("tpu", "tpu", "bfloat16", "branching", LENGTH, "chunked"),
        ("tpu", "tpu", "bfloat16", "written_out", 1, "xla"),
        ("tpu", "tpu", "bfloat16", "written_out", LENGTH, "chunked"),
        ("gpu", "gpu", "bfloat16", "branching", LENGTH, "cudnn"),
        ("gpu", "gpu", "float32", "packed", LENGTH, "chunked"),
        ("gpu", "cpu", "bfloat16", "packed", LENGTH, "chunked"),  # ahead of time
    ],
)
def test_auto(monkeypatch, platform, backend, dtype, mask, length, expected):
    monkeypatch.setattr(sharding, "platform", lambda: platform)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert module._choose(jnp.zeros((2, length, 4, 16), dtype), MASKS[mask]) == expected


@pytest.mark.parametrize(("length", "expected"), [(32, "xla"), (LENGTH, "chunked")])
def test_auto_over_several_cpus(length, expected):
    with sharding.use_mesh(sharding.make_mesh(fsdp=8)):
        assert module._choose(jnp.zeros((8, length, 4, 16)), packed(rows=8)) == expected


def test_cudnn_gets_both_passes(monkeypatch):
    """Lowered for a GPU that is not here; only the version of its cuDNN has to be made up."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91_000)
    arguments = (*draw(dtype="bfloat16"), packed(branching=True, window=10))
    text = compiled("cudnn", None).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert re.findall(r"@__cudnn\$(\w+)", text) == ["fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward"]


def test_cudnn_trains_odd_lengths(monkeypatch):
    """CLIP at 336 pixels has 577 tokens, for which cuDNN has no backward pass."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91_000)
    arrays = [jax.ShapeDtypeStruct((2, 577, 4, 16), jnp.bfloat16)] * 4
    text = compiled("cudnn", None).trace(*arrays, None).lower(lowering_platforms=("cuda",)).as_text()
    assert re.findall(r"@__cudnn\$(\w+)", text) == ["fmhaSoftmax", "fmhaSoftmaxBackward"]
    assert "2x578x4x16xbf16" in text


@pytest.mark.parametrize("length", [LENGTH, LENGTH - 1])
@pytest.mark.parametrize("rule", ["none", "packed"])
def test_what_cudnn_is_asked_is_the_same_attention(monkeypatch, rule, length):
    original, arrays = jax.nn.dot_product_attention, [x[:, :length] for x in draw()]
    mask = MASKS[rule] if rule == "none" else jax.tree.map(lambda x: x[:, :length], MASKS[rule])
    expected = compiled("xla", None)(*arrays, mask)

    def plain(*args, **options):
        return original(*args, **{**options, "implementation": "xla"})

    monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
    for result, wanted in zip(compiled("cudnn", None)(*arrays, mask), expected, strict=True):
        assert relative(result, wanted) < 1e-5


def test_chunks_spare_memory(monkeypatch):
    def memory(impl, length):
        arrays = [jax.ShapeDtypeStruct((1, length, 1, 16), jnp.float32)] * 4
        mask = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, length), x.dtype), MASKS["branching"])

        def run(query, key, value, cotangent, mask):
            return jax.vjp(lambda *x: attention(*x, mask, impl), query, key, value)[1](cotangent)

        return jax.jit(run).lower(*arrays, mask).compile().memory_analysis().temp_size_in_bytes

    monkeypatch.setattr(module, "QUERY_BLOCK", 128)
    assert memory("chunked", 2048) < 2.5 * memory("chunked", 1024)
    assert memory("chunked", 2048) < 4 * 2048**2 < memory("xla", 2048)


def compile_for_tpu(function, shapes, sizes, name="v5e:1x1"):
    """`function` compiled for TPUs that are not here; each shape comes with the logical names of its axes."""
    mesh = topology_mesh(find_topology(name), dict.fromkeys(sharding.MESH_AXES, 1) | sizes)
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, sharding.logical_to_spec(axes)))
        for shape, dtype, axes in shapes
    ]
    with sharding.use_mesh(mesh):
        return jax.jit(function).lower(*arrays).compile()


def compile_attention(rows, length, heads, kv_heads, width, *, impl="auto", pack=True, window=0, sizes=(), **topology):
    def run(query, key, value, cotangent, segments):
        mask = Packed(segments, None, segments, window) if pack else None
        out, vjp = jax.vjp(lambda *x: attention(*x, mask, impl), query, key, value)
        return out, vjp(cotangent)

    axes = {n: ("batch", where, "heads", None) for n, where in ((0, "length"), (1, "kv_length"))}
    queries = ((rows, length, heads, width), jnp.bfloat16, axes[0])
    keys = ((rows, length, kv_heads, width), jnp.bfloat16, axes[1])
    shapes = [queries, keys, keys, queries, ((rows, length), jnp.int32, ("batch", "length"))]
    return compile_for_tpu(run, shapes, dict(sizes), **topology)


def test_memory_on_a_tpu():
    """Forward and backward of two rows of a 7B model, whose scores would take 1 GiB."""

    def memory(heads, impl):
        return compile_attention(2, 2048, heads, heads, 128, impl=impl).memory_analysis().temp_size_in_bytes

    assert memory(32, "auto") < 0.25 * 2**30
    assert memory(2, "xla") > 2 / 32 * 2**30


def test_pictures_compile_for_a_tpu():
    assert "tpu_custom_call" in compile_attention(16, 577, 16, 16, 64, pack=False).as_text()


def test_grouped_heads_windows_and_meshes_compile_for_a_tpu():
    compile_attention(2, 1000, 8, 2, 128, window=300, sizes={"tensor": 2, "sequence": 2}, name="v5e:2x2")


@pytest.mark.parametrize(("policy", "kernels"), [("none", 3), ("attention", 3), ("full", 4)])
def test_kept_attention_spares_the_second_forward_kernel(policy, kernels):
    def block(x, w, segments):
        heads = (x @ w).reshape(*x.shape[:2], 2, 128)
        return x + attention(heads, heads, heads, Packed(segments, None, segments)).reshape(x.shape) @ w

    def loss(x, w, segments):
        apply = block if policy == "none" else jax.checkpoint(block, policy=REMAT_POLICIES[policy])
        x, _ = jax.lax.scan(lambda x, _: (apply(x, w, segments), None), x, None, length=2)
        return jnp.sum(x.astype(jnp.float32) ** 2)

    shapes = [
        ((1, 128, 256), jnp.bfloat16, (None,)),
        ((256, 256), jnp.bfloat16, (None,)),
        ((1, 128), jnp.int32, (None,)),
    ]
    compiled = compile_for_tpu(jax.grad(loss, argnums=(0, 1)), shapes, {})
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == kernels
