"""Kills, damages and moves a training run at random, and shows that it ends with the bits of one that was left alone.

python launch/torture.py --workdir=runs/torture [--steps=300] [--faults=24] [--seed=0]
"""

import sys
from pathlib import Path

from absl import flags

from mmfuser_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for both runs; must not exist.")
_STEPS = flags.DEFINE_integer("steps", 300, "Of both runs.", lower_bound=30)
_FAULTS = flags.DEFINE_integer("faults", 24, "That happen to the second.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of what happens, and when.")
flags.mark_flags_as_required(["workdir"])


def main() -> None:
    """Exit code 1 where the two differ."""
    from mmfuser_jax.jobs.torture import torture

    root = Path(__file__).parent
    config = f"{root.parent}/configs/torture.py:{_STEPS.value}"
    same = torture(root / "train.py", config, _STEPS.value, Path(_WORKDIR.value), _FAULTS.value, _SEED.value)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    cli.run(main)
