"""The deformable attention kernels: equal to `hat` where they are interpreted, within budget where they are compiled."""

import importlib
import json
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuser_jax import sharding
from mmfuser_jax.aot.kernel_cycles import KernelDumpError, count_cycles, dump_flags, read_cycles
from mmfuser_jax.ops import deformable_attention as op
from mmfuser_jax.ops import deformable_pallas as kernel
from mmfuser_jax.ops import deformable_triton as triton
from tests.conftest import GOLDEN, ROOT
from tests.helpers import relative

# Rows of 5, 9 and 1 pixels, none of them whole tiles; 130 queries end within the second block of 128.
module = importlib.import_module("mmfuser_jax.ops.deformable_attention")  # its name in the package is the function

KERNELS = ("pallas", "triton")
UNEVEN, SMALL = ((2, 5), (3, 9), (1, 1)), ((3, 4), (2, 8))


def random_case(shapes, batch=1, queries=6, heads=2, points=2, width=5, seed=0):
    """(value, locations, weights, cotangent), some points outside."""
    rng = np.random.default_rng(seed)
    pixels, axes = sum(h * w for h, w in shapes), (batch, queries, heads, len(shapes), points)
    arrays = (
        rng.standard_normal((batch, pixels, heads, width)),
        rng.uniform(-0.3, 1.3, (*axes, 2)),
        rng.dirichlet(np.ones(len(shapes) * points), axes[:3]).reshape(axes),
        rng.standard_normal((batch, queries, heads * width)),
    )
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def run(impl, shapes, case):
    """Output, and gradients of value, locations and weights."""

    def both(value, locations, weights, cotangent):
        output, vjp = jax.vjp(lambda *x: op(x[0], shapes, *x[1:], impl=impl), value, locations, weights)
        return output, *vjp(cotangent)

    # Optimising what runs once takes longer than running it.
    return jax.jit(both).lower(*case).compile(compiler_options={"xla_backend_optimization_level": 0})(*case)


def errors(shapes, case, impl="pallas"):
    return [relative(a, b) for a, b in zip(run(impl, shapes, case), run("hat", shapes, case), strict=True)]


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("shapes", "queries"), [(UNEVEN, 3), (SMALL, 130)])
def test_equals_hat_with_its_gradients(shapes, queries, impl):
    assert max(errors(shapes, random_case(shapes, batch=2, queries=queries), impl)) < 1e-5


def test_levels_cut_into_bands_of_rows_add_up(monkeypatch):
    monkeypatch.setattr(kernel, "MAX_TILES", 4)
    groups = kernel._bands(SMALL, 2)
    assert [[(band.level, band.first, band.rows) for band in group] for group in groups] == [
        [(0, 0, 2)], [(0, 2, 1), (1, 0, 1)], [(1, 1, 1)],
    ]  # fmt: skip
    assert max(errors(SMALL, random_case(SMALL))) < 1e-5


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("index", [1, 2])
def test_equals_the_reference(index, impl):
    data = np.load(GOLDEN / "deformable_attention.npz")
    names = ("value", "sampling_locations", "attention_weights", "grad_output")
    case = tuple(jnp.asarray(data[f"{index}/{name}"], jnp.float32) for name in names)
    results = run(impl, tuple(map(tuple, data[f"{index}/spatial_shapes"].tolist())), case)
    for result, name in zip(results, ("output", *(f"grad_{name}" for name in names[:3])), strict=True):
        assert relative(result, data[f"{index}/{name}"]) <= 1e-5


@pytest.mark.parametrize("impl", KERNELS)
def test_halves_lose_no_more_than_a_rounded_sampling_matrix_does(impl):
    value, locations, weights, cotangent = random_case(SMALL, queries=40, width=16)
    value, cotangent = value.astype(jnp.bfloat16), cotangent.astype(jnp.bfloat16)
    truth = run("hat", SMALL, tuple(x.astype(jnp.float32) for x in (value, locations, weights, cotangent)))
    results = run(impl, SMALL, (value, locations, weights, cotangent))
    assert results[0].dtype == results[1].dtype == jnp.bfloat16
    matrix = module._sampling_matrix(SMALL, locations, weights).astype(jnp.bfloat16).astype(jnp.float32)
    d_out = cotangent.reshape(1, 40, 2, 16).astype(jnp.float32)
    output = jnp.einsum("bnqs,bsnh->bqnh", matrix, value.astype(jnp.float32)).reshape(1, 40, 32)
    d_value = jnp.einsum("bnqs,bqnh->bsnh", matrix, d_out)
    for result, rounded, exact in zip(results[:2], (output, d_value), truth[:2], strict=True):
        assert relative(result, exact) < 1.5 * relative(rounded.astype(jnp.bfloat16), exact) < 1e-2
    # The gradients of points need no matrix, and products of halves are exact in float32.
    assert max(relative(a, b) for a, b in zip(results[2:], truth[2:], strict=True)) < 1e-5


@pytest.mark.parametrize(("side", "impl"), [(8, "hat"), (12, "hat"), (24, "gather")])
def test_a_cpu_gathers_where_pixels_are_many_to_a_point(side, impl):
    assert module._default_impl(jnp.dtype("float32"), ((side, side),) * 4, 4) == impl


@pytest.mark.parametrize(("platform", "impl"), [("gpu", "triton"), ("tpu", "pallas")])
def test_kernels_are_the_default_where_they_run(monkeypatch, platform, impl):
    monkeypatch.setattr(module, "platform", lambda: platform)
    assert module._default_impl(jnp.dtype("float32"), SMALL, 4) == impl
    assert module._default_impl(jnp.dtype("float64"), SMALL, 4) == "hat"


@pytest.mark.parametrize("impl", KERNELS)
def test_float64_is_refused(impl):
    with jax.enable_x64(True), pytest.raises(ValueError, match="use 'hat'"):
        op(*[x.astype(jnp.float64) if i != 1 else x for i, x in enumerate(with_shapes(SMALL))], impl=impl)


def with_shapes(shapes):
    value, locations, weights, _ = random_case(shapes)
    return value, shapes, locations, weights


@pytest.mark.parametrize("impl", KERNELS)
def test_far_points_read_zeros_and_pixel_centres_have_the_slope_of_hat(impl):
    shapes = ((3, 8),)
    value, _, weights, cotangent = random_case(shapes, queries=6, heads=1, points=1)
    far = [(1e9, 0.5), (0.5, -1e9), (jnp.inf, 0.5), (0.5, -jnp.inf)]
    centres = [(2.5 / 8, 1.5 / 3), (0.5 / 8, 2.5 / 3)]
    locations = jnp.asarray(far + centres, jnp.float32).reshape(1, 6, 1, 1, 1, 2)
    case = (value, locations, weights, cotangent)
    output, _, d_locations, d_weights = results = run(impl, shapes, case)
    assert not any(np.any(x[:, :4]) for x in (output, d_locations, d_weights))
    for result, expected in zip(results, run("hat", shapes, case), strict=True):
        assert np.all(result[:, 4:] != 0) or result is results[1]
        assert relative(result, jnp.nan_to_num(expected)) < 1e-5


@pytest.mark.parametrize("impl", KERNELS)
def test_runs_shard_by_shard(impl):
    case = random_case(SMALL, batch=2, heads=4)
    expected = run("hat", SMALL, case)
    with sharding.use_mesh(sharding.make_mesh(data=2, tensor=4)):
        results = run(impl, SMALL, case)
    assert max(relative(a, b) for a, b in zip(results, expected, strict=True)) < 1e-5


def swap_coordinates(module):
    original = module._points

    def swapped(*args):
        return [[point._replace(x=point.y, y=point.x) for point in band] for band in original(*args)]

    return {"_points": swapped}


def move_levels_a_row(module):
    original = module._pixel
    return {"_pixel": lambda coordinate, size, first, rows: original(coordinate, size, first + 1, rows)}


def leave_hats_open(module):
    return {"_hat": lambda coordinate, size: 1 - jnp.abs(coordinate - module._pixel_numbers(size))}


def swap_gradients(module):
    original = module._point_gradient

    def swapped(*args):
        d_x, d_y, d_weight = original(*args)
        return d_y, d_x, d_weight

    return {"_point_gradient": swapped}


def take_rows_the_other_way_round(module):
    original = module._neighbour_rows
    return {"_neighbour_rows": lambda *args: [pair[::-1] for pair in original(*args)]}


def read_queries_that_do_not_exist(module):
    original = module._for_blocks
    return {"_for_blocks": lambda queries, block: original(queries, lambda lanes, exists: block(lanes, exists | True))}


OUTPUT, VALUE, LOCATIONS, WEIGHTS = range(4)


@pytest.mark.parametrize(
    ("broken", "wrong"),
    [
        (swap_coordinates, {OUTPUT, VALUE, LOCATIONS, WEIGHTS}),
        (move_levels_a_row, {OUTPUT, VALUE, LOCATIONS, WEIGHTS}),
        (leave_hats_open, {OUTPUT, VALUE, LOCATIONS, WEIGHTS}),
        (swap_gradients, {LOCATIONS}),
        (take_rows_the_other_way_round, {LOCATIONS, WEIGHTS}),
        (read_queries_that_do_not_exist, {VALUE}),
    ],
)
def test_negative_controls(broken, wrong, monkeypatch):
    for name, function in broken(kernel).items():
        monkeypatch.setattr(kernel, name, function)
    found = errors(((2, 8),), random_case(((2, 8),), heads=1))
    assert {index for index, error in enumerate(found) if not error < 0.05} == wrong
    assert all(error < 1e-5 for index, error in enumerate(found) if index not in wrong)


def forget_where_a_level_begins(monkeypatch):
    original = triton._pixel_gradients
    monkeypatch.setattr(triton, "_pixel_gradients", lambda first, *refs: original(0, *refs))


def read_the_first_row(monkeypatch):
    original = triton._dot_rows
    monkeypatch.setattr(triton, "_dot_rows", lambda value, index, *refs: original(value, index[...] * 0, *refs))


def round_sums(monkeypatch):
    original = triton._sum_rows

    def rounded(value, index, blend, out):
        original(value, index, blend, out)
        out[...] = jnp.round(out[...])

    monkeypatch.setattr(triton, "_sum_rows", rounded)


@pytest.mark.parametrize(
    ("broken", "wrong"),
    [
        (forget_where_a_level_begins, {VALUE}),
        (read_the_first_row, {LOCATIONS, WEIGHTS}),
        (round_sums, {OUTPUT}),
    ],
)
def test_negative_controls_of_rows(broken, wrong, monkeypatch):
    broken(monkeypatch)
    found = errors(SMALL, random_case(SMALL, heads=1), "triton")
    assert {index for index, error in enumerate(found) if not error < 0.05} == wrong
    assert all(error < 1e-5 for index, error in enumerate(found) if index not in wrong)


def test_lowers_to_gpu_kernels_and_never_writes_what_it_read(monkeypatch):
    for file in (module, triton):
        monkeypatch.setattr(file, "platform", lambda: "gpu")
    images, queries, shapes = 2, 576, ((24, 24),) * 4
    arrays = [
        jax.ShapeDtypeStruct((images, 4 * queries, 16, 64), jnp.bfloat16),
        jax.ShapeDtypeStruct((images, queries, 16, 4, 4, 2), jnp.float32),
        jax.ShapeDtypeStruct((images, queries, 16, 4, 4), jnp.float32),
        jax.ShapeDtypeStruct((images, queries, 1024), jnp.bfloat16),
    ]

    def both(value, locations, weights, cotangent):
        output, vjp = jax.vjp(lambda *x: op(x[0], shapes, *x[1:]), value, locations, weights)
        return output, vjp(cotangent)

    lowered = jax.jit(both).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    # Forward, the weights of corners, and the values of four levels.
    assert len(re.findall(r"@__gpu\$xla\.gpu\.triton", lowered)) == 6
    sizes = [math.prod(map(int, shape.split("x"))) for shape in re.findall(r"tensor<([\dx]+)x[a-z]+\d+>", lowered)]
    assert max(sizes) == math.prod(arrays[0].shape)  # the values; the matrix is 9 times as large, what is read 16 times


MOSAIC = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from mmfuser_jax import sharding
from mmfuser_jax.aot.topology import find_topology
from mmfuser_jax.ops import deformable_attention

images, queries, heads, points, width, grids = 16, 576, 16, 4, 64, ((24, 24),) * 4

def compile(topology, backward, **axes):
    mesh = sharding.make_mesh(devices=find_topology(topology).devices, **axes)
    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P("data", None, "tensor")))
    value = array(jnp.bfloat16, images, 2304, heads, width)
    locations = array(jnp.float32, images, queries, heads, 4, points, 2)
    weights = array(jnp.float32, images, queries, heads, 4, points)
    def forward(value, locations, weights):
        out = deformable_attention(value, grids, locations, weights)  # auto: the mesh says that this is a TPU
        return out.reshape(images, queries, heads, width)
    def gradients(value, locations, weights, cotangent):
        return jax.vjp(forward, value, locations, weights)[1](cotangent)
    arrays = [value, locations, weights] + [array(jnp.bfloat16, images, queries, heads, width)] * backward
    with sharding.use_mesh(mesh):
        compiled = jax.jit(gradients if backward else forward).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes, "tpu_custom_call" in compiled.as_text()

print(json.dumps([compile("v5e:2x2", False, data=2, tensor=2), compile("v5e:1x1", False), compile("v5e:1x1", True)]))
"""


def test_compiles_for_a_tpu_within_its_budget(tmp_path):
    environment = {**os.environ, "LIBTPU_INIT_ARGS": dump_flags(tmp_path), "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", MOSAIC], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    matrix = 16 * 16 * 576 * 2304 * 2  # bytes of the sampling matrices in bfloat16
    for temporary, is_kernel in json.loads(done.stdout.splitlines()[-1]):
        assert is_kernel
        assert temporary < matrix / 4
    # 16 pictures on one chip, at 1.503 GHz: 0.87 and 2.2 ms at most. On four, a chip has a quarter of the work.
    quarter, forward = read_cycles(tmp_path, "deformable_attention_forward")
    assert forward < 1.3e6
    assert 4 * quarter == pytest.approx(forward, rel=0.05)
    assert max(read_cycles(tmp_path, "deformable_attention_backward")) < 3.3e6


def test_cycles_count_a_loop_as_often_as_it_runs(tmp_path):
    # One bundle, then four trips of: two bundles, three trips of three (one of them marked shallower), one bundle.
    dump = """
     0   :  { %s0 = smov.u32 0 }
   0x1 LB: > { %s1 = sphi %s0 }
   0x2   : > { %s2 = smov.u32 0 }
   0x3 LB: >> { %s4 = sadd.s32 1, %s3 }
   0x4   : > { %p5 = scmp.ge.s32.totalorder %s4, 3 /* loop exit test */ }
   0x5   : >> { %p6 = scmp.ge.s32.totalorder (%p5), %s1, 4 /* loop exit test */ }
   0x6   : > { %s7 = sadd.s32 1, %s1 }
"""
    assert count_cycles(dump) == 1 + 4 * (2 + 3 * 3 + 1)
    with pytest.raises(KernelDumpError, match="no constant number of trips"):
        count_cycles(dump.replace(", 4 /*", ", %s9 /*"))
    with pytest.raises(KernelDumpError, match="was LIBTPU_INIT_ARGS set"):
        read_cycles(tmp_path, "a kernel")
