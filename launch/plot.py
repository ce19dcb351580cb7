"""Draws runs into one picture or interactive page: loss, gradients, learning rate, speed, validations.

python launch/plot.py runs/a runs/b [--out=runs.png|runs.html] [--x=step|tokens|seconds]
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mmfuser_jax import cli

_OUT = flags.DEFINE_string("out", "runs.png", "File to make: .png, or .html for a page that zooms and hides runs.")
_X = flags.DEFINE_enum("x", "step", ["step", "tokens", "seconds"], "What curves go over.")


def main(workdirs: Sequence[str]) -> None:
    """Draws the runs."""
    from mmfuser_jax.jobs.plot import plot

    plot([Path(workdir) for workdir in workdirs], Path(_OUT.value), _X.value)


if __name__ == "__main__":
    cli.run_on("workdir", main)
