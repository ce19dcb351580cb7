"""The one table of compiler and runtime flags for each platform, with the reason for every one.

`python -m mmfuser_jax.xla_flags tpu` prints them as shell commands. A flag that a version of XLA or libtpu does not know
ends the process at its start, so the tests start both with all of these. User's own values stand behind ours, and win.

libtpu 0.0.52 seems to have the TPU flags on by itself, but for the last: a small FSDP program for v5e compiles to as long a
program with and without them, and to another one with the fusion of collectives off. They are said here because other
versions differ. None of the GPU flags has been measured on a GPU by this project; they are those of JAX's and NCCL's guides.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import MutableMapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Flag:
    """One setting.

    Attributes:
      variable: of the environment, which it belongs in.
      text: what goes there: "--name=value", or the value of a variable of its own.
      reason: why.
    """

    variable: str
    text: str
    reason: str


def _tpu(name: str, reason: str) -> Flag:
    return Flag("LIBTPU_INIT_ARGS", f"--{name}", reason)


def _gpu(name: str, reason: str) -> Flag:
    return Flag("XLA_FLAGS", f"--{name}", reason)


MIB = 1 << 20

PLATFORMS: dict[str, tuple[Flag, ...]] = {
    "tpu": (
        _tpu("xla_tpu_enable_async_collective_fusion=true", "collectives run inside the loop of a matmul beside them"),
        # Not ..._fuse_all_gather: libtpu does it where it can, on v5e, and refuses to compile for any other TPU if told to.
        _tpu(
            "xla_tpu_enable_async_collective_fusion_multiple_steps=true",
            "a gather longer than one matmul goes on under the next",
        ),
        _tpu("xla_tpu_overlap_compute_collective_tc=true", "the scheduler starts them early, to hide their latency"),
        _tpu("xla_enable_async_all_gather=true", "gathers that nothing is fused with are asynchronous too"),
        _tpu(
            "xla_tpu_enable_data_parallel_all_reduce_opt=true",
            "gradients summed over the data axis, between slices, are summed while the backward pass goes on",
        ),
        _tpu(
            "xla_tpu_data_parallel_opt_different_sized_ops=true", "also where layers differ in size: tower and decoder"
        ),
        _tpu(
            f"xla_jf_spmd_threshold_for_windowed_einsum_mib={MIB}",
            "never: cut into windows of one chip's weights, matmuls grew by a half (7B on v5e-16 in two parts: 1,297 "
            "TFLOPs a chip instead of 822, 2.7 TB of memory traffic instead of 0.8)",
        ),
    ),
    "gpu": (
        _gpu("xla_gpu_enable_latency_hiding_scheduler=true", "collectives start early, and compute goes on meanwhile"),
        _gpu(
            "xla_gpu_enable_pipelined_all_gather=true", "a scanned layer's weights are gathered during the one before"
        ),
        _gpu("xla_gpu_enable_pipelined_reduce_scatter=true", "its gradients are scattered during the next"),
        _gpu("xla_gpu_enable_pipelined_all_reduce=true", "and summed over the data axis"),
        _gpu("xla_gpu_enable_while_loop_double_buffering=true", "which needs two layers of a scan to be in flight"),
        _gpu(
            f"xla_gpu_all_gather_combine_threshold_bytes={256 * MIB}",
            "a 7B layer is 200 million weights: its gathers become few messages, large enough for full bandwidth",
        ),
        _gpu(f"xla_gpu_reduce_scatter_combine_threshold_bytes={256 * MIB}", "likewise for its gradients"),
        _gpu(f"xla_gpu_all_reduce_combine_threshold_bytes={256 * MIB}", "likewise over the data axis"),
        Flag("NCCL_LL128_BUFFSIZE", "-2", "on one host, buffers for messages of a middle size as large as they can be"),
        Flag("NCCL_LL_BUFFSIZE", "-2", "and of a small one"),
        Flag("NCCL_PROTO", "SIMPLE,LL,LL128", "lets NCCL choose among all of its protocols"),
    ),
    "cpu": (),
}
"""Platform → its flags."""


def detect() -> str:
    """ "tpu", "gpu" or "cpu", from JAX_PLATFORMS or the device files of this host; does not start JAX."""
    wanted = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if wanted:
        return "gpu" if wanted in ("cuda", "rocm") else wanted
    if Path("/dev/nvidiactl").exists():
        return "gpu"
    return "tpu" if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists() else "cpu"


def environment(platform: str, present: MutableMapping[str, str]) -> dict[str, str]:
    """Variables with the flags of a platform before what is `present` in them; one flag given there stays as it is.

    Raises:
      ValueError: no such platform.
    """
    if platform not in PLATFORMS:
        raise ValueError(f"no flags for platform {platform!r}; there are {', '.join(PLATFORMS)}")
    values: dict[str, list[str]] = {}
    for flag in PLATFORMS[platform]:
        given = present.get(flag.variable, "")
        name = flag.text.partition("=")[0]
        if flag.text.startswith("--") and not any(word.partition("=")[0] == name for word in given.split()):
            values.setdefault(flag.variable, []).append(flag.text)
        elif not flag.text.startswith("--") and not given:
            values[flag.variable] = [flag.text]
    return {variable: " ".join([*ours, present.get(variable, "")]).strip() for variable, ours in values.items()}


def apply() -> str:
    """Sets the flags of this host's platform; call it before JAX touches a device. Returns the platform."""
    platform = detect()
    if platform in PLATFORMS:
        os.environ.update(environment(platform, os.environ))
    return platform


def main(arguments: list[str]) -> int:
    """Prints the flags of a platform as shell commands, each reason as a comment before them."""
    if len(arguments) != 1 or arguments[0] not in PLATFORMS:
        print(f"error: give one platform: {', '.join(PLATFORMS)}", file=sys.stderr)
        return 2
    for flag in PLATFORMS[arguments[0]]:
        print(f"# {flag.variable} {flag.text}: {flag.reason}")
    for variable, value in environment(arguments[0], {}).items():
        ours = shlex.quote(value)
        # A list of flags goes before the user's; a variable with one value is only set where the user has not.
        user = f'"${{{variable}:+ ${variable}}}"' if value.startswith("--") else ""
        print(f"export {variable}={ours}{user}" if user else f": ${{{variable}:={ours}}}; export {variable}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
