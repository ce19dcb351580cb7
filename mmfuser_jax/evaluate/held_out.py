"""Loss and accuracy of a model's next tokens on held-out records: teacher-forced, packed as a stage packs, nothing drawn."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mmfuser_jax import sharding
from mmfuser_jax.data import Record, Tokenizer
from mmfuser_jax.data.packing import plan_rows
from mmfuser_jax.data.rows import Assemble, Augmentation, Drawn, Encode, Row, RowFormat
from mmfuser_jax.data.sources import InMemory
from mmfuser_jax.generate.placed import params_jit
from mmfuser_jax.models import VLM
from mmfuser_jax.ops.cross_entropy import TokenLoss
from mmfuser_jax.types import Batch

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Score:
    """What `HeldOut.score` returns.

    Attributes:
      loss: nats per supervised token; every token weighs alike, wherever it is packed.
      token_accuracy: share of the supervised tokens whose arg-max is right.
      tokens: how many these are.
    """

    loss: float
    token_accuracy: float
    tokens: int


class HeldOut:
    """Records that are encoded and packed once, and scored any number of times. Pixels are read at each time.

    Every conversation counts once: a record that has more than a row's share of them is shown several times. Records that
    training would refuse are left out, with a warning, and those that it would cut are cut.
    """

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: Tokenizer,
        row_format: RowFormat,
        *,
        conversations: int,
        batch_size: int,
        threads: int = 4,
    ) -> None:
        """
        Args:
          records: whose pictures open.
          tokenizer: of the language model.
          row_format: of the stage.
          conversations: that share one copy of their pictures, at most.
          batch_size: rows computed together by all devices, at most.
          threads: that decode pictures.
        """
        self._batch_size = batch_size
        self._branches = conversations > 1
        self._assemble = Assemble(row_format, Augmentation(), threads)
        parts = InMemory(part for record in records for part in _parts(record, conversations))
        encode = Encode(parts, tokenizer, row_format, conversations)
        rng = np.random.default_rng(0)  # all conversations are drawn: it decides on their order alone
        encoded = [encode.random_map(index, rng) for index in range(len(parts))]
        drawn = [x for x in encoded if isinstance(x, Drawn)]
        for refused in encoded:
            if not isinstance(refused, Drawn):
                LOG.warning("not used to validate: %s", refused.detail)
        lengths, tiles = [x.example.length for x in drawn], [x.example.tiles for x in drawn]
        planned = plan_rows(lengths, tiles, row_format.length, row_format.tiles)
        self._rows = [Row(tuple(drawn[i] for i in row)) for row in planned]

    def __len__(self) -> int:
        """Rows."""
        return len(self._rows)

    def score(self, model: VLM, params: Any) -> Score:
        """Scores parameters, on the devices that they are spread over; all processes of a run call it, and get the same.

        Raises:
          ValueError: there is no row.
        """
        if not self._rows:
            raise ValueError("nothing to score: no rows")
        total, count, correct = 0.0, 0, 0
        for batch in self._batches(sharding.mesh_of(params)):
            loss = jax.device_get(_loss(model, params, batch))
            total, count, correct = total + float(loss.total), count + int(loss.count), correct + int(loss.correct)
        return Score(total / count, correct / count, count)

    def _batches(self, mesh: Any) -> Iterator[Batch]:
        """Batches of one shape; the last is filled up with empty rows, and each process decodes its share of each."""
        size = sharding.padded_rows(min(self._batch_size, len(self)), mesh)
        index, shares = (0, 1) if mesh is None else sharding.batch_share(mesh)
        share = size // shares
        for start in range(0, len(self), size):
            rows = [*self._rows[start : start + size], *[Row(())] * size][:size]
            batch, _ = self._assemble.map(rows[index * share : (index + 1) * share])
            if not self._branches:
                batch = dataclasses.replace(batch, branch_ids=None)
            yield batch if mesh is None else sharding.shard_batch(batch, mesh)


def _parts(record: Record, conversations: int) -> Iterator[Record]:
    """A record as several of at most so many conversations."""
    for start in range(0, len(record.conversations), conversations):
        part = slice(start, start + conversations)
        yield dataclasses.replace(record, conversations=record.conversations[part], tags=record.tags[part])


@params_jit
def _loss(model: VLM, params: Any, batch: Batch) -> TokenLoss:
    return model.apply({"params": params}, batch, method="loss")  # type: ignore[return-value]
