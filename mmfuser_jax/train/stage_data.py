"""The data of one stage: its stream of batches, what it could not use, and whether a checkpoint's position fits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmfuser_jax.data.pipeline import Loading, Weighted, fingerprint, make_loader, named_seed
from mmfuser_jax.data.sources import Source, SourceSpec
from mmfuser_jax.data.tally import Tally
from mmfuser_jax.data.tokenizer import Tokenizer
from mmfuser_jax.train.config import RunConfig, Stage, flatten_config
from mmfuser_jax.train.errors import TrainingError
from mmfuser_jax.train.metrics import Meter
from mmfuser_jax.types import Batch


def stage_loading(config: RunConfig, stage: Stage, shares: int) -> Loading:
    """How a process loads its share of a stage's batches, one of `shares`.

    Raises:
      TrainingError: the batch cannot be split so.
    """
    batch_size, remainder = divmod(stage.batch_size, shares)
    if remainder:
        raise TrainingError(f"stage {stage.name}: batch_size {stage.batch_size} over {shares} processes")
    return Loading(batch_size, stage.grouping, stage.window, config.workers, config.threads)


class StageData:
    """Batches of this process.

    Attributes:
      iterator: what a checkpoint saves.
      tally: counts of records.
      records: ids of what is in the newest batch.
    """

    def __init__(
        self,
        config: RunConfig,
        stage: Stage,
        tokenizer: Tokenizer,
        open_source: Callable[[SourceSpec], Source],
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Opens the sources and starts reading this process's share, (index, count), see `sharding.batch_share`."""
        index, self._shares = share
        self._stage = stage
        sources = {name: Weighted(open_source(spec), weight) for name, (spec, weight) in stage.sources.items()}
        loading = stage_loading(config, stage, self._shares)
        self._fingerprint = fingerprint(sources, loading, self._shares)
        self._max_bad_fraction = config.max_bad_fraction
        self.tally = Tally(config.max_bad_fraction)
        self.records: tuple[str, ...] = ()
        loader = make_loader(
            sources,
            tokenizer,
            stage.row,
            loading,
            conversations=stage.conversations,
            augmentation=stage.augmentation,
            seed=named_seed(config.seed, stage.name),
            process_index=index,
            process_count=self._shares,
        )
        self.iterator = iter(loader)

    def next(self, meter: Meter) -> Batch:
        """The next batch, counted in `meter` with the time it was waited for.

        Raises:
          RecordError: too many records cannot be used.
        """
        with meter.waiting():
            batch, report = next(self.iterator)
        self.tally.add(report)
        self.records = report.used
        # Of the other shares is known only that they are alike.
        meter.add(int(np.count_nonzero(batch.segment_ids)) * self._shares, batch.segment_ids.size * self._shares)
        # One conversation a record is all trunk: said by None, which attention kernels can see while tracing.
        return batch if self._stage.conversations > 1 else batch.replace(branch_ids=None)

    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the position."""
        return {"data": self._fingerprint, "counts": dict(self.tally.counts)}

    def resume(self, meta: Mapping[str, Any]) -> None:
        """Takes the counts of a checkpoint of this stage, whose position `iterator` gets next.

        Raises:
          TrainingError: the position was counted in other data, or by another number of processes or workers.
        """
        old, new = flatten_config(meta["data"]), flatten_config(self._fingerprint)
        differing = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
        changed = [f"{key}: {str(old.get(key))[:60]} → {str(new.get(key))[:60]}" for key in differing]
        if changed:
            raise TrainingError(
                f"stage {self._stage.name} cannot go on at its position in the data, which has changed "
                f"({'; '.join(changed)}); restore what it was, or start a new workdir with config.init_from"
            )
        self.tally = Tally(self._max_bad_fraction, meta["counts"])

    def close(self) -> None:
        """Ends worker processes."""
        self.iterator.close()
