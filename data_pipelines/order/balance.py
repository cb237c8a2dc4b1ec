"""Which records an epoch visits when classes are drawn by a power of their frequency.

Of N records, those of class c are drawn `N n_c^p / sum n^p` times in an epoch, together: with p = 1
in proportion to their number, with 0 all classes alike (Kang et al., arXiv 1910.09217, section
4.1). A record of several classes is drawn as the mean of its classes is.
"""

import functools

import numpy as np

from data_pipelines.order.epochs import generator
from data_pipelines.storage.label_index import RecordLabels

# Keeps the stream apart from others of a seed; see `epochs`.
_BALANCE = 0x62616C616E63652E
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 times the golden ratio: its multiples fill 0 to 2^64 evenly
_UNIT = 1 << 16  # of the weights, which are whole numbers: the same on every machine


class BalancedRecords:
    """The records that stand at the N places of an epoch, as a function of the epoch.

    Every record is visited as often as its weight says, rounded down or up, in every epoch; over
    the epochs it is up as often as it should be. So a rare record is not drawn by luck, and a
    frequent one does not wait long.

    Attributes:
      most_visits: of a record in an epoch.
    """

    def __init__(self, labels: RecordLabels, power: float, *, seed: int, dataset: int):
        """
        Args:
          labels: of all records.
          power: of a class's frequency, 0 to 1.
          seed, dataset: name the random order.
        """
        weights = _weights(labels, power)
        numbers = generator(_BALANCE, seed, (dataset, 0, 0)).random_raw(len(weights) + 1)
        self._start, keys = int(numbers[0]), numbers[1:]
        # The first label of each record, plus 1, or 0: records of one label stand together.
        first = np.zeros(len(weights), np.int64)
        starts = np.cumsum(labels.counts, dtype=np.int64) - labels.counts
        some = labels.counts > 0
        first[some] = labels.labels[starts[some]].astype(np.int64) + 1
        self._records = np.lexsort((keys, first))
        self._ends = np.cumsum(weights[self._records])
        self.most_visits = int(np.ceil(weights.max() * len(weights) / self._ends[-1])) + 1
        # Decoding ahead touches two epochs at most.
        self.epoch = functools.lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """i64[N] records, and i64[N] the how manieth visit of its record each is, from 0."""
        count = len(self._records)
        shift = ((self._start + epoch * _GOLDEN) % 2**64) / 2**64
        drawn = (np.arange(count) + shift) * (self._ends[-1] / count)
        place = np.minimum(np.searchsorted(self._ends, drawn, side='right'), count - 1)
        visit = np.arange(count) - np.searchsorted(place, place, side='left')
        return self._records[place], visit


def _weights(labels: RecordLabels, power: float) -> np.ndarray:
    """i64[R] in proportion to which records are drawn."""
    frequency = np.bincount(labels.labels)
    of_class = np.zeros(len(frequency))
    known = frequency > 0
    of_class[known] = frequency[known].astype(np.float64) ** (power - 1)
    owner = np.repeat(np.arange(len(labels.counts)), labels.counts)
    total = np.bincount(owner, of_class[labels.labels], minlength=len(labels.counts))
    bare = labels.counts == 0  # a class of their own
    mean = np.where(bare, max(bare.sum(), 1) ** (power - 1.0), total / np.maximum(labels.counts, 1))
    return np.maximum(np.round(mean / mean.min() * _UNIT), 1).astype(np.int64)
