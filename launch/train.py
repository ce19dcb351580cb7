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
_PROFILE = flags.DEFINE_string("profile_steps", "", "FIRST:LAST, global steps to record into WORKDIR/profile.")
_ALLOW = flags.DEFINE_bool(
    "allow_changes", False, "Go on with a config that is not the one the workdir was begun with."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print what the run would do, and the memory it would take; train nothing."
)
_CLUSTER = cli.define_cluster_flags()
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    """Trains and evaluates."""
    from mmfuser_jax import compilation, distributed
    from mmfuser_jax.jobs.dry_run import dry_run
    from mmfuser_jax.jobs.main import train_and_evaluate
    from mmfuser_jax.train import Stopped
    from mmfuser_jax.train.profiling import parse_steps

    if _CACHE.value:
        compilation.cache_compilations(Path(_CACHE.value).expanduser())
    steps, code = parse_steps(_PROFILE.value), 0
    with distributed.joined(**_CLUSTER()):
        if _DRY_RUN.value:
            dry_run(_CONFIG.value.to_dict())
            return
        try:
            train_and_evaluate(
                _CONFIG.value.to_dict(), Path(_WORKDIR.value), profile_steps=steps, allow_changes=_ALLOW.value
            )
        except Stopped as stopped:  # in all processes of a run at once: they part as after a finished one
            print(stopped, file=sys.stderr)
            code = stopped.exit_code
    sys.exit(code)


if __name__ == "__main__":
    cli.run(main)
