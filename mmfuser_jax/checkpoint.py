"""Checkpoints on disk: parameters, optimizer, step, random key and data position together. The only user of Orbax."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint.experimental import v1 as ocp_v1
from orbax.checkpoint.experimental.v1 import partial as ocp_partial

from mmfuser_jax import checksums, layout

PARAMS, TRAIN, DATA, META = "params", "train", "data", "meta"
METADATA = "_CHECKPOINT_METADATA"
"""Orbax's own file beside the items of a step."""


class CheckpointError(ValueError):
    """A checkpoint is missing or does not fit what it is restored into."""


class Checkpoints:
    """The checkpoints of one run, a numbered folder each, with checksums. Saving goes on in the background."""

    def __init__(self, folder: Path, keep: int = 2, *, keep_best: bool = False) -> None:
        """Opens or creates `folder`; half-written checkpoints are removed.

        Args:
          folder: of all checkpoints.
          keep: so many of the newest stay.
          keep_best: and the one that was saved with the greatest merit.
        """
        self._background = ThreadPoolExecutor(1, "checkpoints")
        self._saving: Future[None] | None = None
        policies = ocp.checkpoint_managers.preservation_policy
        stay: list[Any] = [policies.LatestN(keep)]
        if keep_best:
            stay.append(policies.BestN(get_metric_fn=_merit, n=1, keep_checkpoints_without_metrics=False))
        self._keep_best = keep_best
        options = ocp.CheckpointManagerOptions(
            best_fn=_merit if keep_best else None,
            preservation_policy=policies.AnyPreservationPolicy(stay),
            create=True,
            cleanup_tmp_directories=True,
        )
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def read_meta(self, step: int) -> dict[str, Any]:
        """The `meta` that was saved at `step`."""
        return self._manager.restore(step, args=ocp.args.Composite(**{META: ocp.args.JsonRestore()}))[META]

    def save(
        self,
        step: int,
        *,
        params: Any,
        train: Any,
        meta: dict[str, Any],
        data: grain.DatasetIterator,
        merit: Sequence[float] = (),
    ) -> None:
        """Starts saving step `step`; waits only for the previous save.

        Args:
          step: global step, greater than any saved before.
          params: parameter tree.
          train: the rest of the training state, a tree of arrays.
          meta: small JSON values.
          data: the iterator that the next batch comes from.
          merit: what the best checkpoint has most of, compared number by number; empty, the least, where it is not known.

        Raises:
          CheckpointError: this save or the previous one has failed.
        """
        self._finish()
        items = {
            PARAMS: ocp.args.StandardSave(params),
            TRAIN: ocp.args.StandardSave(train),
            META: ocp.args.JsonSave(meta),
            DATA: grain.checkpoint.CheckpointSave(data),
        }
        with self._naming(step):
            metrics = {"merit": list(merit)} if self._keep_best else None
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)
        self._saving = self._background.submit(self._complete, step)

    def _complete(self, step: int) -> None:
        """In the background: waits until a checkpoint is on the disk, and adds its checksums."""
        with self._naming(step):
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                checksums.write_manifest(self._folder / str(step))

    @contextlib.contextmanager
    def _naming(self, step: int) -> Iterator[None]:
        """Says which save has failed: a full disk is an OSError here and a ValueError there."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self._folder}: step {step} could not be saved ({_first_line(error)})") from error

    def check(self) -> None:
        """Does not wait.

        Raises:
          CheckpointError: the save that is going on in the background has failed.
        """
        if self._saving is not None and self._saving.done():
            self._finish()

    def _finish(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

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
        """Returns when every save has reached the disk.

        Raises:
          CheckpointError: the last one has failed.
        """
        self._finish()

    def close(self) -> None:
        """Finishes saving and stops the background threads."""
        self._background.shutdown()
        self._manager.close()


def _merit(metrics: Mapping[str, Any]) -> Any:
    return metrics["merit"]


class ParamsWriter:
    """Writes the parameters of a checkpoint a few at a time, so that a model larger than memory can be written.

    Use as a context manager; the checkpoint appears when the block ends without an error, and else not at all.
    """

    def __init__(self, folder: Path, step: int = 0, buffer_bytes: int = 256 << 20) -> None:
        """`folder` is a run's `checkpoints`; about `buffer_bytes` are held before they are written."""
        self._folder = folder.absolute()
        self._target = self._folder / str(step)
        self._draft = self._folder / f"{step}.draft"
        self._limit = buffer_bytes
        self._held: dict[str, np.ndarray] = {}

    def add(self, path: str, array: np.ndarray) -> None:
        """Adds the parameter at `path` ("llm/final_norm/scale"), in its own dtype."""
        self._held[path] = array
        if sum(x.nbytes for x in self._held.values()) >= self._limit:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            context = ocp_v1.Context()
            context.array.saving.use_compression = False  # trained weights hardly shrink, and it costs most of the time
            with context:
                ocp_partial.save(self._draft, unflatten_dict(self._held, sep="/"))
            self._held = {}

    def __enter__(self) -> ParamsWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self._flush()
            ocp_partial.finalize(self._draft)
            self._target.mkdir()
            (self._draft / "state").rename(self._target / PARAMS)  # where restoring a run's checkpoint looks
            (self._draft / METADATA).rename(self._target / METADATA)
        for leftover in self._folder.glob(f"{self._draft.name}*"):
            shutil.rmtree(leftover)


class StoredParams:
    """The parameters of one checkpoint on disk, readable one by one.

    Attributes:
      step: of the checkpoint.
      shapes: jax.ShapeDtypeStruct of every parameter by path, as stored.
    """

    def __init__(self, folder: Path, step: int | None = None) -> None:
        """Opens the newest checkpoint of a run's `checkpoints` folder, or that of `step`.

        Raises:
          CheckpointError: there is none.
        """
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no checkpoints here")
        steps = checksums.steps(folder)
        self.step = step if step is not None else max(steps, default=-1)
        if self.step not in steps:
            raise CheckpointError(f"{folder}: no checkpoint of step {step}; there are {steps}")
        self._folder = folder.absolute() / str(self.step) / PARAMS
        self._handler = ocp.PyTreeCheckpointHandler()
        try:
            tree = self._handler.metadata(epath.Path(self._folder)).tree
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{self._folder}: not readable parameters ({_first_line(error)})") from error
        leaves = flatten_dict(tree, sep="/")
        self.shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}

    def check_fit(self, wanted: Mapping[str, Any]) -> None:
        """Checks that abstract parameters can be restored, whatever the layout of their layers, and are all there is.

        Raises:
          CheckpointError: some are not stored, are of another shape, or others are stored too.
        """
        where = self._folder.parent
        sources = {path: layout.sources(path, x.shape, self.shapes) for path, x in wanted.items()}
        if lacking := [path for path, found in sources.items() if not found]:
            raise CheckpointError(f"{where} does not fit this model: it lacks {_some(lacking)}")
        if unused := self.shapes.keys() - {source for found in sources.values() for source, _ in found}:
            raise CheckpointError(f"{where} does not fit this model: it also has {_some(unused)}")
        shapes = {path: layout.assembled_shape(self.shapes, found) for path, found in sources.items()}
        if odd := [
            f"{path} {shapes[path]} instead of {x.shape}" for path, x in wanted.items() if shapes[path] != x.shape
        ]:
            raise CheckpointError(f"{where} does not fit this model: {_some(odd)}")

    def restore(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Some parameters as `place`, with layers stacked or taken apart where `wanted` has them so.

        Raises:
          CheckpointError: damaged data.
        """
        sources = {path: layout.sources(path, x.shape, self.shapes) for path, x in wanted.items()}
        same = {path: x for path, x in wanted.items() if sources[path] == ((path, None),)}
        restored = self.place(same) if same else {}
        for path, x in wanted.items():
            if path not in same:
                arrays = self.read({source for source, _ in sources[path]})
                restored[path] = jax.device_put(layout.assemble(arrays, sources[path]).astype(x.dtype), x.sharding)
        return restored

    def read(self, paths: Iterable[str]) -> dict[str, np.ndarray]:
        """Some parameters as NumPy arrays, as stored.

        Raises:
          CheckpointError: damaged data.
        """
        return self._restore({path: self.shapes[path] for path in paths}, ocp.RestoreArgs(restore_type=np.ndarray))

    def place(self, wanted: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Some parameters on devices, in the dtypes and shardings of `wanted`.

        Raises:
          CheckpointError: damaged data.
        """
        return self._restore(wanted, None)

    def _restore(self, wanted: dict[str, Any], how: Any) -> dict[str, Any]:
        args = {
            path: how or ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype, global_shape=x.shape)
            for path, x in wanted.items()
        }
        try:
            tree = self._handler.restore(
                epath.Path(self._folder),
                args=ocp.args.PyTreeRestore(
                    unflatten_dict(wanted, sep="/"),
                    restore_args=unflatten_dict(args, sep="/"),
                    partial_restore=True,
                ),
            )
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self._folder}: damaged ({_first_line(error)})") from error
        return flatten_dict(tree, sep="/")


def restore_params(folder: Path, params: Any, step: int | None = None, *, as_stored: bool = False) -> tuple[Any, int]:
    """Only the parameters of a checkpoint, into the shapes and shardings of abstract `params`; and its step.

    Layers stored one by one are stacked where `params` has them stacked (`layers.Stack`), and the other way round.

    Args:
      folder: the `checkpoints` folder of a run.
      params: tree of jax.ShapeDtypeStruct, with shardings.
      step: which one; None for the newest.
      as_stored: keep the dtypes of the checkpoint instead of those of `params`, for models that are only read.

    Raises:
      CheckpointError: no such checkpoint, or it holds other parameters.
    """
    stored = StoredParams(folder, step)
    wanted = flatten_dict(params, sep="/")
    stored.check_fit(wanted)
    if as_stored:
        sources = {path: layout.sources(path, x.shape, stored.shapes) for path, x in wanted.items()}
        wanted = {path: x.update(dtype=stored.shapes[sources[path][0][0]].dtype) for path, x in wanted.items()}
    return unflatten_dict(stored.restore(wanted), sep="/"), stored.step


def _some(names: Iterable[str], count: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
