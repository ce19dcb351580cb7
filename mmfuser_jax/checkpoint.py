"""Checkpoints on disk: parameters, optimizer, step, random key and data position together. The only user of Orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grain
import orbax.checkpoint as ocp

PARAMS, TRAIN, DATA, META = "params", "train", "data", "meta"


class CheckpointError(ValueError):
    """A checkpoint is missing or does not fit what it is restored into."""


class Checkpoints:
    """The checkpoints of one run, a numbered folder each. Saving goes on in the background."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Opens or creates `folder`; the newest `keep` checkpoints stay, half-written ones are removed."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def read_meta(self, step: int) -> dict[str, Any]:
        """The `meta` that was saved at `step`."""
        return self._manager.restore(step, args=ocp.args.Composite(**{META: ocp.args.JsonRestore()}))[META]

    def save(self, step: int, *, params: Any, train: Any, meta: dict[str, Any], data: grain.DatasetIterator) -> None:
        """Starts saving step `step`; waits only for the previous save, whose errors surface here.

        Args:
          step: global step, greater than any saved before.
          params: parameter tree.
          train: the rest of the training state, a tree of arrays.
          meta: small JSON values.
          data: the iterator that the next batch comes from.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    PARAMS: ocp.args.StandardSave(params),
                    TRAIN: ocp.args.StandardSave(train),
                    META: ocp.args.JsonSave(meta),
                    DATA: grain.checkpoint.CheckpointSave(data),
                }
            ),
        )

    def restore(self, step: int, *, params: Any, train: Any, data: grain.DatasetIterator) -> tuple[Any, Any]:
        """Reads step `step` into the shapes, dtypes and shardings of abstract `params` and `train`, and moves `data`.

        Returns:
          (params, train).

        Raises:
          CheckpointError: the checkpoint's tree or shapes differ from what is asked for.
        """
        args = {
            PARAMS: ocp.args.StandardRestore(params),
            TRAIN: ocp.args.StandardRestore(train),
            DATA: grain.checkpoint.CheckpointRestore(data),
        }
        try:
            items = self._manager.restore(step, args=ocp.args.Composite(**args))
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{self._folder / str(step)} does not fit this run: {_first_line(error)}") from error
        return items[PARAMS], items[TRAIN]

    def wait(self) -> None:
        """Returns when every save has reached the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes saving and stops the background threads."""
        self._manager.close()


def restore_params(folder: Path, params: Any, step: int | None = None) -> tuple[Any, int]:
    """Only the parameters of a checkpoint, into the shapes and shardings of abstract `params`; and its step.

    Args:
      folder: the `checkpoints` folder of a run.
      params: tree of jax.ShapeDtypeStruct, with shardings.
      step: which one; None for the newest.

    Raises:
      CheckpointError: no such checkpoint, or it holds other parameters.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no checkpoints here")
    with ocp.CheckpointManager(folder.absolute()) as manager:
        step = manager.latest_step() if step is None else step
        if step is None or step not in manager.all_steps():
            raise CheckpointError(f"{folder}: no checkpoint of step {step}; there are {sorted(manager.all_steps())}")
        try:
            items = manager.restore(step, args=ocp.args.Composite(**{PARAMS: ocp.args.StandardRestore(params)}))
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{folder / str(step)} does not fit this model: {_first_line(error)}") from error
    return items[PARAMS], step


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
