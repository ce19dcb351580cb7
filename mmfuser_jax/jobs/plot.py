"""Several runs in one picture, or on one page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mmfuser_jax.evaluate.curves import AXES, load_runs

LOG = logging.getLogger(__name__)


def plot(workdirs: Sequence[Path], out: Path, axis: str = "step") -> None:
    """Draws runs, also some that go on, told apart by colour: loss, gradients, learning rate, speed and validations.

    Args:
      workdirs: of the runs.
      out: .png for a picture, .html for an interactive page.
      axis: key of `curves.AXES`.

    Raises:
      ValueError: a folder without a logged step, or a file of another kind.
      RuntimeError: what draws it is not installed.
    """
    if axis not in AXES:
        raise ValueError(f"no axis {axis!r}; there are {', '.join(AXES)}")
    if out.suffix not in (".png", ".html"):
        raise ValueError(f"{out}: only .png and .html can be drawn")
    runs = load_runs(workdirs, axis)
    try:
        if out.suffix == ".png":
            from mmfuser_jax.evaluate.curve_pictures import draw_runs as draw
        else:
            from mmfuser_jax.evaluate.curve_pages import write_page as draw
    except ImportError as error:
        raise RuntimeError(f"drawing needs an extra ({error}): pip install 'mmfuser-jax[plot]'") from None
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(runs, out, axis)
    LOG.info("%s: %s", out, ", ".join(run.name for run in runs))
