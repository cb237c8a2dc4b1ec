"""Which records make a batch, repeated augmentation too: arithmetic on (seed, step, host) only.

Training draws from the union of the datasets in proportion to their sizes ("concatenate"). An epoch
is a permutation of all records; batches run on over its end, so no record is dropped, repeated or
padded, and any step can be computed without the steps before it: resuming needs only the step
number.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple, Protocol

import numpy as np

# Keep the streams of one seed apart. The values are arbitrary, but changing them changes every run.
_PERMUTATION = 0x7065726D75746174
_RECORD = 0x7265636F72642E2E


class Sample(NamedTuple):
    """One place of a training batch.

    `dataset` and `record` count from 0; `repeat` tells apart the samples of one record in one
    epoch; `position` is the place in the endless sequence of all samples.
    """

    position: int
    epoch: int
    dataset: int
    record: int
    repeat: int


class _Key(np.random.bit_generator.ISeedSequence):
    """Gives Philox its key as a seed: with `key=` it asks the system for a seed in vain first."""

    def __init__(self, key: np.ndarray):
        self._key = key

    def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
        return self._key


def generator(purpose: int, seed: int, counter: Sequence[int]) -> np.random.Philox:
    """A counter-based stream; different (purpose, seed, counter) give streams that never meet."""
    # The lowest counter word runs while numbers are drawn; the three others name the stream.
    key = _Key(np.array([seed, purpose], np.uint64))
    return np.random.Philox(key, counter=np.array([0, *counter], np.uint64))


def epoch_permutation(num_records: int, seed: int, epoch: int) -> np.ndarray:
    """Order in which one epoch visits `num_records` records; read-only i64[num_records]."""
    # Sorting raw bits instead of Generator.permutation: NumPy promises the former never to change.
    keys = generator(_PERMUTATION, seed, (epoch, 0, 0)).random_raw(num_records)
    order = np.argsort(keys, kind='stable')
    order.flags.writeable = False
    return order


def record_generator(seed: int, sample: Sample) -> np.random.Generator:
    """Random numbers of one sample: a function of (seed, epoch, dataset, record, repeat)."""
    counter = (sample.epoch, sample.dataset << 32 | sample.repeat, sample.record)
    return np.random.Generator(generator(_RECORD, seed, counter))


class EpochRecords(Protocol):
    """The records at a dataset's places of an epoch, where these are not all records once."""

    most_visits: int  # of a record in an epoch

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """i64[N] records, and i64[N] the how manieth visit of its record each is, from 0."""


class TrainingOrder:
    """The endless sequence of training samples.

    Args:
        sizes: number of records of each dataset.
        records: of each dataset what its epochs consist of; None: each record once.
        batch_size: places of the global batch.
        repeats: samples of a record per epoch (repeated augmentation); they share a batch.
        seed: 0 <= seed < 2**64.

    Raises:
        ValueError: an empty dataset, or a batch size that `repeats` does not divide.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        batch_size: int,
        repeats: int = 1,
        seed: int = 0,
        records: Sequence[EpochRecords | None] = (),
    ):
        if not sizes or min(sizes) < 1:
            raise ValueError(f'every dataset needs at least one record, got sizes {list(sizes)}')
        if repeats < 1 or batch_size < 1 or batch_size % repeats:
            raise ValueError(
                f'batch_size={batch_size} must be a positive multiple of repeats={repeats}, '
                'because the samples of one record share a batch'
            )
        if not 0 <= seed < 2**64:
            raise ValueError(f'seed must be in [0, 2**64), got {seed}')
        self.batch_size, self.repeats, self.seed = batch_size, repeats, seed
        self.num_records = sum(sizes)
        # Decoding ahead touches two epochs at most.
        self._permutation = functools.lru_cache(maxsize=2)(
            functools.partial(epoch_permutation, self.num_records, seed)
        )
        self._records = records or [None] * len(sizes)
        # [N + 1]: where each dataset starts in the union.
        self._first = np.concatenate([[0], np.cumsum(sizes)])

    @property
    def samples_per_epoch(self) -> int:
        return self.num_records * self.repeats

    def sample(self, position: int, skipped: int = 0) -> Sample:
        """The sample at `position`, or its stand-in after `skipped` damaged records.

        Stand-ins are the records that follow in the epoch's permutation (from its end on to its
        start). Their repeat number is raised past the regular ones, so that a stand-in is never the
        same clip as the record's own visit.
        """
        epoch, place = divmod(position, self.samples_per_epoch)
        rank, repeat = divmod(place, self.repeats)
        order = self._permutation(epoch)
        number = order[(rank + skipped) % self.num_records]
        dataset = int(np.searchsorted(self._first, number, side='right')) - 1
        record, visits = int(number - self._first[dataset]), skipped
        if (balanced := self._records[dataset]) is not None:
            drawn, visit = balanced.epoch(epoch)
            # Later visits are other clips, too, and those of stand-ins again.
            visits = int(visit[record]) + skipped * balanced.most_visits
            record = int(drawn[record])
        return Sample(
            position=position,
            epoch=epoch,
            dataset=dataset,
            record=record,
            repeat=repeat + visits * self.repeats,
        )

    def stand_in(self, sample: Sample, skipped: int) -> Sample | None:
        """What takes the place of a sample after so many damaged records; None: none is left."""
        if skipped >= self.num_records:
            return None
        return self.sample(sample.position, skipped)

    def batch(self, step: int, host: int = 0, num_hosts: int = 1) -> list[Sample]:
        """This host's consecutive share of the batch of `step`; the hosts' shares make it up.

        The first samples of all the batch's records come first, then all second ones, and so on:
        neighbours, which mixup pairs, are never samples of the same record.
        """
        share = host_share(self.batch_size, host, num_hosts)
        first, records = step * self.batch_size, self.batch_size // self.repeats
        return [
            self.sample(first + (slot % records) * self.repeats + slot // records) for slot in share
        ]


def host_share(batch_size: int, host: int, num_hosts: int) -> range:
    """Places of the global batch that `host` fills.

    Raises:
        ValueError: the batch does not divide over the hosts, or there is no such host.
    """
    if num_hosts < 1 or not 0 <= host < num_hosts:
        raise ValueError(f'host must be in [0, num_hosts), got host={host}, num_hosts={num_hosts}')
    if batch_size < 1 or batch_size % num_hosts:
        raise ValueError(
            f'batch_size={batch_size} must be a positive multiple of num_hosts={num_hosts}'
        )
    size = batch_size // num_hosts
    return range(host * size, (host + 1) * size)


def evaluation_share(num_records: int, host: int, num_hosts: int) -> range:
    """Records that `host` evaluates: disjoint, all over all hosts, sizes differ by at most 1."""
    if num_hosts < 1 or not 0 <= host < num_hosts:
        raise ValueError(f'host must be in [0, num_hosts), got host={host}, num_hosts={num_hosts}')
    return range(host * num_records // num_hosts, (host + 1) * num_records // num_hosts)


def num_evaluation_batches(num_records: int, views: int, batch_size: int, num_hosts: int) -> int:
    """Batches that *every* host runs to evaluate `views` clips of each record."""
    largest_share = -(-num_records // num_hosts)
    return -(-largest_share * views // (batch_size // num_hosts))
