"""LLaVA's length grouping: batches of one modality and of like lengths, instead of packed rows."""

from __future__ import annotations

import logging

import grain
import numpy as np

from mmfuser_jax.data.labels import text_length
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.data.sources import Source

LOG = logging.getLogger(__name__)


def modality_lengths(source: Source) -> np.ndarray:
    """int64[n]: words of every record, negative for those without a picture. Reads all records once.

    The reference counts what white space separates, by which a Chinese conversation is one word; here every Chinese
    character counts (`labels.text_length`). Broken records count 1.
    """
    LOG.info("reading the lengths of %d records", len(source))
    lengths = np.ones(len(source), np.int64)
    for index in range(len(source)):
        try:
            record = source[index]
        except RecordError:
            continue
        words = max(1, sum(text_length(turn.text) for turns in record.conversations for turn in turns))
        lengths[index] = words if record.images else -words
    return lengths


class GroupedOrder(grain.transforms.Map):
    """Position in an endless stream → index of a record, every record once an epoch.

    As LLaVA's `LengthGroupedSampler`: pictures and texts apart, each shuffled, cut into global batches, sorted inside
    each from long to short; then the batches of both are shuffled, and what is left of both makes one mixed batch at
    the end. Here that last batch is filled up with the first records of the next epoch: batches have one size.
    """

    def __init__(self, lengths: np.ndarray, global_batch: int, seed: int) -> None:
        """`lengths` from `modality_lengths`; rows of all processes in `global_batch`."""
        self._lengths = lengths
        self._batch = global_batch
        self._seed = seed
        self._epoch: tuple[int, np.ndarray] = (-1, lengths)

    def map(self, element: int) -> int:
        """Index of the record at a position."""
        number, position = divmod(int(element), len(self._lengths))
        epoch = self._epoch  # read once: threads share the object
        if epoch[0] != number:
            epoch = self._epoch = (number, self.order(number))
        return int(epoch[1][position])

    def order(self, epoch: int) -> np.ndarray:
        """int64[n]: the records of an epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        shuffled = rng.permutation(len(self._lengths))
        head = -epoch * len(shuffled) % self._batch
        rest = shuffled[head:]
        batches, tails = [], [rest[:0]]
        for part in (rest[self._lengths[rest] > 0], rest[self._lengths[rest] <= 0]):
            whole = len(part) // self._batch * self._batch
            batches += [self._sorted(x) for x in part[:whole].reshape(-1, self._batch)]
            tails.append(part[whole:])
        left = np.concatenate(tails)
        whole = len(left) // self._batch * self._batch  # what is left of both may fill one more, mixed
        batches += [self._sorted(x) for x in left[:whole].reshape(-1, self._batch)]
        mixed = [batches[i] for i in rng.permutation(len(batches))]
        return np.concatenate([shuffled[:head], *mixed, left[whole:]])

    def _sorted(self, batch: np.ndarray) -> np.ndarray:
        return batch[np.argsort(-np.abs(self._lengths[batch]), kind="stable")]
