"""Compiling ahead of time: programs of known cost are counted right, reports are whole, wrong questions are refused."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import easy_vqa
from mmfuser_jax import xla_flags
from mmfuser_jax.aot import gpu, search, table, topology
from mmfuser_jax.aot.cost import count_cost, group_size
from mmfuser_jax.aot.hlo import parse_module, parse_shapes
from mmfuser_jax.aot.main import Options, check
from mmfuser_jax.aot.programs import Program
from mmfuser_jax.aot.report import Report, Seconds, needed_gib
from mmfuser_jax.aot.topology import TopologyError, find_topology, topology_mesh
from mmfuser_jax.hardware import CHIPS, find_chip
from mmfuser_jax.sharding import ShardingError
from mmfuser_jax.train.config import ConfigError, parse_run
from tests.conftest import ROOT

LAYERS, ROWS, WIDTH = 7, 64, 256


@pytest.fixture(scope="module")
def square():
    return find_topology("v5e:2x2")


def scanned(x, weights):
    """LAYERS products in a loop."""
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def cost_of(placement, devices, **options):
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16, sharding=placement("rows"))
    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.bfloat16, sharding=placement("weights"))
    return count_cost(parse_module(jax.jit(scanned).lower(x, weights).compile().as_text()), devices, **options)


@pytest.mark.parametrize("where", ["cpu", "tpu"])
def test_a_scanned_matmul_counts_as_often_as_it_runs(where, square):
    device = jax.devices()[0] if where == "cpu" else square.devices[0]
    place = jax.sharding.SingleDeviceSharding(device)
    once = 2 * ROWS * WIDTH * WIDTH
    assert cost_of(lambda _: place, 1).matmul_flops == LAYERS * once
    assert cost_of(lambda _: place, 1, trip_counts=False).matmul_flops == once


def test_weights_gathered_in_a_loop_are_received_every_time(square):
    mesh = topology_mesh(square, {"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1})
    specs = {"rows": PartitionSpec("fsdp"), "weights": PartitionSpec(None, "fsdp")}

    def cost(**options):
        return cost_of(lambda name: NamedSharding(mesh, specs[name]), 4, **options)

    gathered = cost().collectives["all-gather"]
    matrix = 2 * WIDTH * WIDTH
    assert (gathered.count, gathered.output_bytes) == (LAYERS, LAYERS * matrix)
    assert gathered.received_bytes == LAYERS * matrix * 3 / 4
    assert cost().matmul_flops == LAYERS * 2 * ROWS * WIDTH * WIDTH / 4
    assert cost(trip_counts=False).collectives["all-gather"].output_bytes < gathered.output_bytes


def test_traffic_of_a_scan_is_every_slice_of_its_weights_once(square):
    place = jax.sharding.SingleDeviceSharding(square.devices[0])
    weights = LAYERS * 2 * WIDTH * WIDTH
    assert weights <= cost_of(lambda _: place, 1).hbm_bytes < 1.5 * weights
    assert cost_of(lambda _: place, 1, trip_counts=False).hbm_bytes < weights


OVERLAPPED = """
%start (p: bf16[8,4]) -> (bf16[8,4], bf16[32,4]) {
  %p = bf16[8,4]{1,0} parameter(0)
  ROOT %g1 = bf16[32,4]{1,0} all-gather(%p), channel_id=5, replica_groups={{0,1,2,3}}, dimensions={0}
}

%end (p: bf16[8,4]) -> bf16[32,4] {
  %p = bf16[8,4]{1,0} parameter(0)
  ROOT %g2 = bf16[32,4]{1,0} all-gather(%p), channel_id=5, replica_groups={{0,1,2,3}}, dimensions={0}
}

%scatter (p: f32[32]) -> f32[8] {
  %p = f32[32]{0} parameter(0)
  ROOT %s = f32[8]{0} reduce-scatter(%p), channel_id=6, replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add
}

%all-reduce-scatter (p: f32[32]) -> f32[8] {
  %p = f32[32]{0} parameter(0)
  %w = f32[32]{0} all-reduce(%p), channel_id=9, replica_groups=[1,4]<=[4], to_apply=%add
  %i = u32[] partition-id()
  ROOT %d = f32[8]{0} dynamic-slice(%w, %i), dynamic_slice_sizes={8}
}

ENTRY %main (a: bf16[8,4], b: f32[32]) -> f32[8] {
  %a = bf16[8,4]{1,0} parameter(0)
  %b = f32[32]{0} parameter(1)
  %f1 = (bf16[8,4]{1,0}, bf16[32,4]{1,0:S(1)}) fusion(%a), kind=kCustom, calls=%start
  %f2 = bf16[32,4]{1,0:S(1)} fusion(%a), kind=kCustom, calls=%end
  %k = f32[32]{0} custom-call(%b), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"a":"b"
}}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"77"}}}
  %r = f32[32]{0} all-reduce(%b), channel_id=7, replica_groups=mesh['x'=2,'y'=2] {'y'}, to_apply=%add
  %f3 = f32[8]{0} fusion(%r), kind=kCustom, calls=%all-reduce-scatter
  %s1 = ((f32[32]{0}), f32[8]{0}) async-start(%r), calls=%scatter
  ROOT %s2 = f32[8]{0} async-done(%s1)
}
"""


def test_collectives_written_in_pieces_count_once():
    cost = count_cost(parse_module(OVERLAPPED), 4)
    found = cost.collectives
    assert (cost.kernels, cost.kernel_flops) == (1, 77)
    assert {kind: x.count for kind, x in found.items()} == {"all-gather": 1, "all-reduce": 1, "reduce-scatter": 2}
    assert found["all-gather"].received_bytes == 3 / 4 * 32 * 4 * 2
    assert found["all-reduce"].received_bytes == 2 * 1 / 2 * 32 * 4
    assert found["reduce-scatter"].received_bytes == 2 * 3 * 8 * 4
    apart = count_cost(parse_module(OVERLAPPED.replace("%g2", "%x").replace("_id=5, r", "_id=8, r", 1)), 4).collectives
    assert apart["all-gather"].count == 2


def test_shapes_and_groups_are_read_in_every_spelling():
    first, second = parse_shapes("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[]{:T(512)})")
    assert (first.bytes, first.space) == (12, 1)
    assert (second.bytes, second.space) == (1, 0)
    assert group_size("replica_groups={{0,1},{2,3}}, x", 8) == 2
    assert group_size("replica_groups=[2,4]<=[4,2]T(1,0)", 8) == 4
    assert group_size("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8) == 8
    assert group_size("", 8) == 8


def test_memory_that_would_have_been_needed_is_read_from_the_error(square):
    assert needed_gib("the total memory required for HLO temporaries (22.48G) exceeds available HBM (15.75G)") == 22.48
    assert needed_gib("Ran out of memory in memory space hbm. Used 512.5M of 15.75G hbm.") == 512.5 / 1024
    assert needed_gib("Out of memory") is None
    x = jax.ShapeDtypeStruct(
        (1 << 17, 1 << 17), jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(square.devices[0])
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as error:
        jax.jit(lambda x: jnp.sort(x, axis=0)).lower(x).compile()
    assert 32 < needed_gib(str(error.value)) < 200


@pytest.mark.parametrize(
    ("name", "count", "chip"),
    [
        ("v5e-16", 16, "v5e"),
        ("v4-8", 4, "v4"),
        ("v5p:2x2x2", 8, "v5p"),
        ("v6e:2x2", 4, "v6e"),
        ("tpu7x:2x2x1", 8, "tpu7x"),
    ],
)
def test_slices_go_by_shape_and_by_number(name, count, chip):
    found = find_topology(name)
    assert (len(found.devices), found.chip.name) == (count, chip)


def test_several_slices_lie_along_data(square):
    two = find_topology("2x v5e:2x2")
    mesh = topology_mesh(two, {"data": 2, "fsdp": -1, "tensor": 1, "sequence": 1})
    assert [{x.slice_index for x in row.flat} for row in mesh.devices] == [{0}, {1}]
    with pytest.raises(ShardingError, match="data=1 must be a multiple of the 2 slices"):
        topology_mesh(two, {"data": 1, "fsdp": 8, "tensor": 1, "sequence": 1})
    with pytest.raises(ShardingError, match=r"v5e:2x2: mesh .* does not cover 4 devices"):
        topology_mesh(square, {"data": 3, "fsdp": 1, "tensor": 1, "sequence": 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "is not like v5e:4x4"),
        ("v9z:2x2", "'v9z' is not one of v4, v5e, v5p, v6e, tpu7x, h100"),
        ("v5e-17", "is not one of v5e-1, v5e-4, v5e-8"),
        ("v5e:3x3", "v5e:3x3: .*; known are v5e:4x4"),
    ],
)
def test_unknown_topologies_list_the_known(name, message):
    with pytest.raises(TopologyError, match=message):
        find_topology(name)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError, match="pip install libtpu"):
        find_topology("v5e:2x2")
    monkeypatch.setattr(gpu.importlib.metadata, "distributions", list)
    with pytest.raises(gpu.GpuPackagesError, match=f"pip install --no-deps jax-cuda12-plugin=={jax.__version__}"):
        find_topology("h100:8")


def test_chips_are_known_by_what_jax_calls_them():
    assert find_chip("TPU v5 lite").name == "v5e"
    assert find_chip("TPU v5").name == "v5p"
    assert find_chip("cpu") is None
    kinds = [kind for chip in CHIPS for kind in chip.device_kinds]
    assert len(set(kinds)) == len(kinds)


@pytest.fixture
def small_config():
    """A run whose step compiles in seconds."""
    config = easy_vqa.get_config("llava")
    config.stage_order = ("finetune",)
    config.stages.finetune.update(
        {"batch_size": 4, "length": 72, "conversations": 1, "optimizer": "adamw", "clip_norm": 0.0}
    )
    config.model.vision.update({"depth": 3, "image_size": 16})
    config.stages.finetune.rules = (("vision_encoder/", None), (".*", 1e-3))
    config.mesh.update({"data": 1, "fsdp": -1})
    return config.to_dict()


def test_a_run_is_reported_whole(small_config, tmp_path, capsys):
    path = tmp_path / "report.json"
    assert check(small_config, "v5e:2x2", 1, Options(), path)
    found = json.loads(path.read_text())
    (report,) = found["programs"]
    assert found["fits"]
    assert (report["chips"], report["mesh"]["fsdp"], report["limit_gib"]) == (4, 4, 15.75)
    memory = report["memory_gib_per_chip"]
    assert memory["total"] == pytest.approx(sum(memory[x] for x in ("arguments", "results", "temporaries", "code")))
    assert report["model_flops"]["vision_encoder"]["backward"] == 0
    whole = report["model_flops"]["total"]
    # Plain counting: causal attention half, what is recomputed, and matmuls that the compiler turns into something else.
    assert 0.9 < report["compiled"]["matmul_flops"] * 4 / (whole["model"] + whole["recomputed"]) < 1.5
    assert report["compiled"]["collectives"]["all-gather"]["received_bytes"] > 0
    assert report["step_seconds_bound"] == max(report["seconds"][x] for x in ("compute", "memory", "collectives"))
    assert 0 < report["mfu_bound"] < 1
    assert report["compile_seconds"] > 0
    assert "model FLOPs" in capsys.readouterr().out


def test_decoding_is_reported_too(small_config, tmp_path):
    path = tmp_path / "report.json"
    assert check(small_config, "v5e:1x1", 1, Options(decode=True), path)
    (report,) = json.loads(path.read_text())["programs"]
    assert report["program"] == "decode"
    assert report["model_flops"]["llm"]["model"] > report["model_flops"]["head"]["model"] > 0
    assert report["stage_hours_bound"] is None


def test_a_stage_that_is_not_there_is_refused(small_config):
    with pytest.raises(ConfigError, match="no stage 'dance'; the config has finetune"):
        check(small_config, "v5e:2x2", 1, Options(stage="dance"), None)


def test_the_script_exits_with_two_and_one_line_on_a_wrong_question():
    command = [sys.executable, "launch/aot.py", "--config=configs/smoke.py", "--topology=v5e:banana"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: topology 'v5e:banana' is not like")
    assert "Traceback" not in done.stderr


def fake_reports(monkeypatch, needed):
    """compile_choice that looks memory up, of which 10 GiB are there; returns the list of what was asked for."""
    asked = []

    def compile_choice(run, stage, where, choice):
        asked.append(choice)
        gib, shape = float(needed(choice)), dict(choice.mesh)
        again = float(search.BY_SPEED.index(choice.remat) + shape["tensor"])
        seconds = Seconds(again, None, None, again, again, None) if gib <= 10 else None
        program = Program("finetune", 4, 72, 288, 4, {}, lambda: None)
        mesh = topology_mesh(where, shape)
        return Report(program, where, mesh, choice.remat, gib <= 10, None, gib, 10.0, None, seconds, 0.0, "", ())

    monkeypatch.setattr(search, "compile_choice", compile_choice)
    return asked


def recommended(small_config, square, **changes):
    run = dataclasses.replace(parse_run(small_config), **changes)
    (stage,) = run.stages
    known = search.compile_choice(run, stage, square, search.given(run, stage, square))
    return known, search.recommend(run, stage, square, known)


def test_the_fastest_that_fits_is_recommended(monkeypatch, small_config, square):
    memory = {"none": 40, "dots": 12, "attention": 9, "full": 5}
    asked = fake_reports(monkeypatch, lambda x: memory[x.remat] * dict(x.mesh)["fsdp"] * dict(x.mesh)["tensor"] / 4)
    known, fitting = recommended(small_config, square, remat="none")
    choice, report = fitting[0]
    assert not known.fits
    assert report.fits
    assert (
        choice.flags("finetune")
        == "--config.remat=dots --config.mesh.data=2 --config.mesh.fsdp=2 --config.mesh.tensor=1"
    )
    assert len(asked) == len(set(asked)), "something was compiled twice"


def test_smaller_parts_are_tried_where_the_least_memory_is_too_much(monkeypatch, small_config, square):
    small_config["stages"]["finetune"]["batch_size"] = 16
    asked = fake_reports(monkeypatch, lambda x: 32 / x.accumulate)
    _, fitting = recommended(small_config, square, remat="full")
    assert {choice.remat for choice in asked} == {"full"}
    assert fitting[0][0].accumulate == 4
    assert fitting[0][0].flags("finetune").endswith("--config.stages.finetune.accumulate=4")
    assert {choice.accumulate for choice in asked} == {1, 4}, "2 parts would take 16 GiB"


def test_the_table_says_which_rows_are_older_than_the_code(monkeypatch):
    rows = table.read_rows(ROOT / "docs" / "slices.json")
    assert rows
    assert set(rows) <= {entry.key for entry in table.ENTRIES}
    shown = (ROOT / "docs" / "slices.md").read_text()
    assert shown == table.markdown(rows), "run python launch/aot.py --table=mark"
    monkeypatch.setattr(table, "fingerprint", lambda entry: "of other code")
    assert table.markdown(rows).count("| earlier |") == len(rows) >= shown.count("| earlier |")


def test_fingerprint_follows_code_and_config_but_not_comments():
    code = 'def f(x):\n    """Doubles."""\n    return 2 * x\n'
    assert table.code_of(code) == table.code_of("def f(x):  # fast\n    return 2 * x\n")
    assert table.code_of(code) != table.code_of("def f(x):\n    return 3 * x\n")
    entry = table.ENTRIES[0]
    other = dataclasses.replace(entry, changes={"remat": "none"})
    assert table.fingerprint(entry) != table.fingerprint(other)


def test_what_is_certified_is_compiled_with_the_flags_of_a_run(tmp_path, monkeypatch):
    """They stand in the environment before libtpu starts, and rows are as old as they are."""
    show = "import os, launch.aot; print(os.environ['LIBTPU_INIT_ARGS'])"
    environment = {name: value for name, value in os.environ.items() if name != "LIBTPU_INIT_ARGS"}
    done = subprocess.run([sys.executable, "-c", show], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == xla_flags.environment("tpu", {})["LIBTPU_INIT_ARGS"].split(), done.stderr
    entry = table.ENTRIES[0]
    before = table.fingerprint(entry)
    package = shutil.copytree(table.mmfuser_jax.__path__[0], tmp_path / "package")
    monkeypatch.setattr(table.mmfuser_jax, "__path__", [str(package)])
    assert table.fingerprint(entry) == before
    file = package / "xla_flags.py"
    file.write_text(file.read_text().replace("windowed_einsum_mib={MIB}", "windowed_einsum_mib=1"))
    assert table.fingerprint(entry) != before


def test_a_row_is_kept_where_the_program_is_the_same(monkeypatch):
    """Whatever has changed in the code: what is lowered decides, and is the same each time."""
    compiled = []
    monkeypatch.setattr(table, "compile_report", lambda *args: compiled.append(args) or pytest.fail("compiled"))
    (entry,) = (x for x in table.ENTRIES if x.config.startswith("easy_vqa"))
    row = table.read_rows(ROOT / "docs" / "slices.json")[entry.key]
    monkeypatch.setattr(table, "digest_of", lambda lowered: row["digest"])
    assert table._compile(entry, row) is row
    monkeypatch.setattr(table, "digest_of", lambda lowered: "another")
    with pytest.raises(pytest.fail.Exception):
        table._compile(entry, row)
    assert len(compiled) == 1


def test_every_config_of_the_table_resolves():
    for entry in table.ENTRIES:
        parse_run(table.resolve(entry))
        assert topology.re.fullmatch(r"(\d+x )?\w+[:\-][\dx]+", entry.topology)


def test_a_row_that_cannot_be_compiled_here_stays(tmp_path, monkeypatch):
    """A machine without the GPU's packages must not lose what another one has compiled."""
    entries = tuple(entry for entry in table.ENTRIES if entry.topology == "h100:8")
    rows = table.read_rows(ROOT / "docs" / "slices.json")
    kept = {entry.key: {**rows[entry.key], "fingerprint": "of other code"} for entry in entries}
    (tmp_path / "rows.json").write_text(json.dumps(kept))

    def without_packages(*_):
        raise gpu.GpuPackagesError("compiling for GPUs needs packages")

    monkeypatch.setattr(table, "ENTRIES", entries)
    monkeypatch.setattr(table, "_compile", without_packages)
    table.make_table(tmp_path / "rows.json", tmp_path / "rows.md")
    assert table.read_rows(tmp_path / "rows.json") == kept
    assert "| earlier |" in (tmp_path / "rows.md").read_text()
