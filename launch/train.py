"""Trains a model: every stage of a config, into a workdir. Run again with the same workdir, it resumes.

python launch/train.py --config=configs/easy_vqa.py --workdir=runs/demo [--config.field=value …]

SIGTERM and SIGINT (Ctrl-C) save and stop, with exit code 143 and 130; a second one stops at once.

On several hosts, every process runs the same command with --distributed and a workdir that all of them see.
"""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mmfuser_jax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config program, configs/NAME.py[:ARG].", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.environ.get("MMFUSER_CACHE", "~/.cache/mmfuser_jax"),
    "Folder that keeps compiled programs (MMFUSER_CACHE); empty for none.",
)
_CLUSTER = cli.define_cluster_flags()
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    """Trains and evaluates."""
    from mmfuser_jax import compilation, distributed
    from mmfuser_jax.jobs.main import train_and_evaluate
    from mmfuser_jax.train import Stopped

    if _CACHE.value:
        compilation.cache_compilations(Path(_CACHE.value).expanduser())
    code = 0
    with distributed.joined(**_CLUSTER()):
        try:
            train_and_evaluate(_CONFIG.value.to_dict(), Path(_WORKDIR.value))
        except Stopped as stopped:  # in all processes of a run at once: they part as after a finished one
            print(stopped, file=sys.stderr)
            code = stopped.exit_code
    sys.exit(code)


if __name__ == "__main__":
    cli.run(main)
