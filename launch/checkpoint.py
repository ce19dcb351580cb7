"""Looks after the checkpoints of a run.

python launch/checkpoint.py list --workdir=runs/demo
python launch/checkpoint.py verify --workdir=runs/demo [--step=N]      # exits with 1 where a file is not what was saved
python launch/checkpoint.py prune --workdir=runs/demo --keep=1         # all but the newest sound ones go
python launch/checkpoint.py diff --workdir=runs/a --other=runs/b [--step=N] [--other_step=N]    # 1 where they differ
"""

import sys
from pathlib import Path

from absl import flags

from mmfuser_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run or model.")
_OTHER = flags.DEFINE_string("other", None, "diff: the one to compare with; may be the same folder.")
_STEP = flags.DEFINE_integer("step", None, "One checkpoint; default: verify all, diff the newest.")
_OTHER_STEP = flags.DEFINE_integer("other_step", None, "diff: of the other folder; default: the newest.")
_KEEP = flags.DEFINE_integer("keep", None, "prune: how many stay.", lower_bound=1)


def show() -> None:
    """What there is."""
    from mmfuser_jax.jobs import checkpoints

    checkpoints.show(Path(_WORKDIR.value))


def verify() -> None:
    """Whether it is as it was saved."""
    from mmfuser_jax.jobs import checkpoints

    sys.exit(0 if checkpoints.verify(Path(_WORKDIR.value), _STEP.value) else 1)


def prune() -> None:
    """Makes room."""
    from mmfuser_jax.jobs import checkpoints

    checkpoints.prune(Path(_WORKDIR.value), _KEEP.value)


def diff() -> None:
    """How the parameters of two checkpoints differ."""
    from mmfuser_jax.checkpoint import StoredParams
    from mmfuser_jax.jobs import checkpoints

    first, second = (
        StoredParams(checkpoints.folder_of(Path(workdir)), step)
        for workdir, step in ((_WORKDIR.value, _STEP.value), (_OTHER.value, _OTHER_STEP.value))
    )
    sys.exit(0 if checkpoints.show_differences(first, second) else 1)


COMMANDS = {
    "list": cli.Command(show, ("workdir",)),
    "verify": cli.Command(verify, ("workdir",), ("step",)),
    "prune": cli.Command(prune, ("workdir", "keep")),
    "diff": cli.Command(diff, ("workdir", "other"), ("step", "other_step")),
}

if __name__ == "__main__":
    cli.run_command(COMMANDS)
