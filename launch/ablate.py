"""Repeats the easy-VQA recipe with the fuser off and on over several seeds, and prints the table.

python launch/ablate.py --workdir=runs/ablate [--seeds=0,1,2]
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mmfuser_jax import cli

_OFF = config_flags.DEFINE_config_file(
    "off", "configs/easy_vqa.py:llava", "Recipe without the fuser.", lock_config=True
)
_ON = config_flags.DEFINE_config_file("on", "configs/easy_vqa.py:mmfuser", "Recipe with it.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs; finished ones are not repeated.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
flags.mark_flag_as_required("workdir")


def main() -> None:
    """Runs the ablation."""
    from mmfuser_jax.jobs.ablation import run_ablation

    run_ablation(_OFF.value.to_dict(), _ON.value.to_dict(), Path(_WORKDIR.value), [int(seed) for seed in _SEEDS.value])


if __name__ == "__main__":
    cli.run(main)
