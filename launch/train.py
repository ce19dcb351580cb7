"""Trains a model: every stage of a config, into a workdir. Run again with the same workdir, it resumes.

python launch/train.py --config=configs/easy_vqa.py --workdir=runs/demo [--config.field=value …]
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mmfuser_jax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config program, configs/NAME.py[:ARG].", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    """Trains and evaluates."""
    from mmfuser_jax.jobs.main import train_and_evaluate

    train_and_evaluate(_CONFIG.value.to_dict(), Path(_WORKDIR.value))


if __name__ == "__main__":
    cli.run(main)
