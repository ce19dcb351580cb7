"""Repeats the easy-VQA recipe with the fuser off and on over several seeds, and prints the table.

python launch/ablate.py --workdir=runs/ablate [--seeds=0,1,2] [--config.stages.finetune.steps=… …]
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mmfuser_jax import cli

_CONFIG = config_flags.DEFINE_config_file("config", "configs/easy_vqa.py:mmfuser", "Recipe.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs; finished ones are not repeated.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
flags.mark_flag_as_required("workdir")


def main() -> None:
    from mmfuser_jax.jobs.ablation import run_ablation

    run_ablation(_CONFIG.value.to_dict(), Path(_WORKDIR.value), [int(seed) for seed in _SEEDS.value])


if __name__ == "__main__":
    cli.run(main)
