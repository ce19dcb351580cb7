"""Where numbers and pictures of a run go to be looked at while it runs: TensorBoard, and Weights & Biases where asked."""

from __future__ import annotations

import dataclasses
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorboardX import SummaryWriter

from mmfuser_jax import files
from mmfuser_jax.train.errors import TrainingError

RUN_ID = "wandb_run_id"
"""File of a workdir that names its run in W&B."""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A picture to look at beside the numbers of a row.

    Attributes:
      pixels: uint8[height, width, 3].
    """

    pixels: np.ndarray

    def __repr__(self) -> str:
        height, width, _ = self.pixels.shape
        return f"picture {width}×{height}"


class Sink(Protocol):
    """Takes what is logged at a step."""

    def write(self, step: int, numbers: Mapping[str, int | float], drawings: Mapping[str, Drawing]) -> None:
        """Numbers and drawings by tag, such as `validation/accuracy`."""

    def close(self) -> None:
        """Flushes everything."""


class TensorBoard:
    """Event files in `tensorboard/` of a workdir."""

    def __init__(self, workdir: Path, resume_step: int) -> None:
        """What earlier parts of the run wrote beyond `resume_step` is not shown any more."""
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1, write_to_disk=True)

    def write(self, step: int, numbers: Mapping[str, int | float], drawings: Mapping[str, Drawing]) -> None:
        """See `Sink`."""
        for tag, number in numbers.items():
            self._board.add_scalar(tag, number, step)
        for tag, drawing in drawings.items():
            self._board.add_image(tag, drawing.pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._board.close()


def import_wandb() -> Any:
    """The library; imported late, as it is an extra and takes a second.

    Raises:
      TrainingError: it is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise TrainingError("Weights & Biases is not installed; run: pip install 'mmfuser-jax[wandb]'") from None
    return wandb


class WeightsAndBiases:
    """A run in W&B. WANDB_MODE and the like say where to: `offline` keeps it in `wandb/` of the workdir.

    A resumed run goes on in the same one. W&B passes over steps that it has, those between a checkpoint and a kill: they
    are computed again, and are the same.
    """

    def __init__(self, workdir: Path, project: str) -> None:
        """Begins or resumes the workdir's run.

        Raises:
          TrainingError: W&B is not installed, or refuses, for example without a key.
        """
        self._wandb = import_wandb()
        path = workdir / RUN_ID
        if not path.exists():
            files.write_text(path, f"{uuid.uuid4().hex[:8]}\n")
        config = files.read_json(workdir / "config.json")
        settings = self._wandb.Settings(console="off", silent=True)
        try:
            self._run = self._wandb.init(
                project=project, id=path.read_text().strip(), resume="allow", name=workdir.resolve().name,
                dir=workdir, config=config, allow_val_change=True, settings=settings,
            )  # fmt: skip
        except self._wandb.Error as error:
            raise TrainingError(f"Weights & Biases: {error}") from None

    def write(self, step: int, numbers: Mapping[str, int | float], drawings: Mapping[str, Drawing]) -> None:
        """See `Sink`."""
        pictures = {tag: self._wandb.Image(drawing.pixels) for tag, drawing in drawings.items()}
        self._run.log({**numbers, **pictures}, step=step)

    def close(self) -> None:
        """Marks the run as failed where an exception brings it to its end."""
        self._run.finish(exit_code=0 if sys.exc_info()[1] is None else 1)
