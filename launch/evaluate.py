"""Scores a model on a benchmark.

python launch/evaluate.py --model=runs/demo --benchmark=easy_vqa [--split=test] [--out=DIR]
"""

from pathlib import Path

from absl import flags

from mmfuser_jax import cli

_MODEL = flags.DEFINE_string("model", None, "Model folder, PyTorch checkpoint folder, or hub id of one.")
_BENCHMARK = flags.DEFINE_string("benchmark", None, "Benchmark, for example easy_vqa.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the benchmark.")
_OUT = flags.DEFINE_string("out", None, "Folder for eval.json and pictures; default MODEL/BENCHMARK_SPLIT.")
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 16, "Longest answer.")
_PICKLE = flags.DEFINE_bool("allow_pickle", False, "Read a PyTorch checkpoint's .bin files.")
_CLUSTER = cli.define_cluster_flags()
flags.mark_flags_as_required(["model", "benchmark"])


def main() -> None:
    """Scores the model."""
    from mmfuser_jax import distributed
    from mmfuser_jax.evaluate.benchmarks import run_benchmark

    out = Path(_OUT.value or Path(_MODEL.value) / f"{_BENCHMARK.value}_{_SPLIT.value}")
    with distributed.joined(**_CLUSTER()):
        run_benchmark(
            _MODEL.value, _BENCHMARK.value, _SPLIT.value, out, _MAX_NEW_TOKENS.value, allow_pickle=_PICKLE.value
        )


if __name__ == "__main__":
    cli.run(main)
