"""The cluster scripts: what they would run, without the clouds' tools, and flags that the compilers know."""

import os
import shlex
import subprocess
import sys

import pytest
import yaml

from mmfuser_jax import xla_flags
from mmfuser_jax.aot.topology import TPUS
from tests.conftest import ROOT

TRAIN = ["launch/train.py", "--config=configs/finetune.py:7b", "--workdir=/mnt/runs/a run"]
POD = ["launch/tpu_pod.sh", "--name=pod", "--zone=us-west4-a", "--type=v5litepod-64", "--version=v2-alpha-tpuv5-lite"]
XPK = [
    "launch/gke/xpk.sh",
    "--cluster=c",
    "--project=p",
    "--zone=z",
    "--workload=w",
    "--type=v5litepod-64",
    "--image=i",
]


def run(command, **variables):
    """Output of a script on a machine that has bash, git and Python, and nothing of a cloud."""
    folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{folder}:/usr/bin:/bin", "PYTHON": sys.executable, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def commands(result):
    """Commands that a dry run printed, as words."""
    assert result.returncode == 0, result.stderr
    return [
        shlex.split(line) for line in result.stdout.splitlines() if line and not line.startswith(("#", ":", "export"))
    ]


def inner(text):
    """The words of the launch command inside a shell command, from launch/train.py on."""
    words = shlex.split(text.partition("launch/train.py")[2].partition(">")[0].rstrip("&) "))
    return ["launch/train.py", *words]


def assert_parses(words):
    """The real script takes these flags."""
    result = run([sys.executable, *words, "--only_check_args"], JAX_PLATFORMS="cpu")
    assert result.returncode == 0, result.stderr
    wrong = run([sys.executable, *words, "--distribute_all"], JAX_PLATFORMS="cpu")
    assert wrong.returncode == 2, "the negative control: a flag that does not exist"


@pytest.mark.parametrize("script", ["launch/tpu_pod.sh", "launch/slurm.sbatch", "launch/gke/xpk.sh"])
def test_scripts_are_bash(script):
    assert subprocess.run(["bash", "-n", script], cwd=ROOT, capture_output=True).returncode == 0
    assert os.access(ROOT / script, os.X_OK)


def test_a_pod_is_made_filled_and_followed():
    printed = commands(run([*POD, "--nfs=10.0.0.2:/runs", "--spot", "--dry_run", "--", *TRAIN]))
    tpu = ["gcloud", "compute", "tpus", "tpu-vm"]
    create, archive, copy, install, train, follow = printed
    assert create == [*tpu, "create", "pod", "--zone=us-west4-a", "--accelerator-type=v5litepod-64",
                      "--version=v2-alpha-tpuv5-lite", "--spot"]  # fmt: skip
    assert archive[:2] == ["git", "archive"]
    assert copy[:5] == [*tpu, "scp"]
    assert all(words[:5] == [*tpu, "ssh"] and "--worker=all" in words for words in (install, train))
    assert "mount 10.0.0.2:/runs /mnt/runs" in install[-1]
    assert "'.[tpu]'" in install[-1]
    assert 'eval "$(.venv/bin/python -m mmfuser_jax.xla_flags tpu)"' in train[-1]
    assert inner(train[-1]) == [*TRAIN, "--distributed"]
    assert follow[-1] == "--command=tail -n +1 -F ~/run.log"
    assert_parses(inner(train[-1]))


def test_slurm_runs_a_task_a_gpu():
    result = run(["launch/slurm.sbatch", *TRAIN[1:], "--config.mesh.fsdp=32"], DRY_RUN="1")
    (task,) = commands(result)
    assert task[:2] == ["srun", "--kill-on-bad-exit=1"]
    assert task[2:] == [sys.executable, TRAIN[0], "--distributed", *TRAIN[1:], "--config.mesh.fsdp=32"]
    assert "--xla_gpu_enable_latency_hiding_scheduler=true" in result.stdout
    assert_parses(task[3:])


def test_xpk_gets_a_workload_of_slices():
    (words,) = commands(run([*XPK, "--slices=2", "--dry_run", "--", *TRAIN, "--config.mesh.data=2"]))
    assert words[:3] == ["xpk", "workload", "create"]
    assert {"--cluster=c", "--tpu-type=v5litepod-64", "--num-slices=2", "--docker-image=i"} <= set(words)
    assert inner(words[-1]) == [*TRAIN, "--config.mesh.data=2", "--distributed"]


def test_the_jobset_has_a_job_a_slice_and_a_pod_a_host():
    spec = yaml.safe_load((ROOT / "launch/gke/jobset.yaml").read_text())["spec"]
    (slices,) = spec["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == int(rows) * int(columns)
    words = inner(container["args"][0])
    assert f"--config.mesh.data={slices['replicas']}" in words
    assert "--distributed" in words
    assert_parses(words)


@pytest.mark.parametrize("script", [POD, XPK])
def test_a_missing_option_is_named(script):
    for command, match in (
        (script[:2], "is missing"),
        ([*script, "--dry_run"], "after --"),
        ([script[0], "--x"], "--x"),
    ):
        result = run(command)
        assert result.returncode == 2
        assert match in result.stderr
        assert result.stderr.count("\n") == 1


COMPILES = """
import sys, jax
from mmfuser_jax.aot.topology import TPUS, find_topology
for name in sys.argv[1:]:
    device = find_topology(f"{name}:{TPUS[name].shapes[4]}").devices[0]
    x = jax.ShapeDtypeStruct((8, 128), "float32", sharding=jax.sharding.SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(x).compile()
        print(name)
    except jax.errors.JaxRuntimeError as error:
        print(error, file=sys.stderr)
"""
"""Prints the generations of TPUs for which a program compiles."""


def test_flags_are_known_to_the_compilers():
    """JAX ends at once where it does not know a flag; libtpu when it is loaded to compile."""
    gpu = xla_flags.environment("gpu", {})
    assert run([sys.executable, "-c", "import jax; jax.devices()"], JAX_PLATFORMS="cpu", **gpu).returncode == 0
    ours = xla_flags.environment("tpu", {})
    fuse = {
        "LIBTPU_INIT_ARGS": f"{ours['LIBTPU_INIT_ARGS']} --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
    }
    for tpu, right in (
        (ours, TPUS.keys()),
        (fuse, {"v5e"}),
        ({"LIBTPU_INIT_ARGS": "--xla_tpu_no_such"}, set()),
    ):
        result = run([sys.executable, "-c", COMPILES, *TPUS], JAX_PLATFORMS="cpu", **tpu)
        assert set(result.stdout.split()) == right, result.stderr
    wrong = run(
        [sys.executable, "-c", "import jax; jax.devices()"], JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_gpu_no_such=1"
    )
    assert wrong.returncode != 0


def test_a_users_own_flags_win():
    ours = xla_flags.environment("tpu", {"LIBTPU_INIT_ARGS": "--xla_enable_async_all_gather=false"})
    assert ours["LIBTPU_INIT_ARGS"].split().count("--xla_enable_async_all_gather=false") == 1
    assert "--xla_enable_async_all_gather=true" not in ours["LIBTPU_INIT_ARGS"]
    assert "NCCL_PROTO" not in xla_flags.environment("gpu", {"NCCL_PROTO": "Simple"})
    assert xla_flags.environment("tpu", ours) == {}
    with pytest.raises(ValueError, match="no flags for platform 'fpga'; there are tpu, gpu, cpu"):
        xla_flags.environment("fpga", {})


def test_the_platform_is_found_without_starting_jax(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert xla_flags.detect() == "gpu"
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert xla_flags.detect() == "cpu"


def test_the_shell_sees_what_python_sets():
    script = f'eval "$({sys.executable} -m mmfuser_jax.xla_flags gpu)"; echo "$XLA_FLAGS;$NCCL_PROTO"'
    result = run(["bash", "-c", script], XLA_FLAGS="--mine", NCCL_PROTO="Simple")
    flags, protocol = result.stdout.strip().split(";")
    assert flags == xla_flags.environment("gpu", {"XLA_FLAGS": "--mine"})["XLA_FLAGS"]
    assert protocol == "Simple"
