"""How mini-batches are made of several datasets: co-finetuning's schedules.

`make_order` gives the samples of every step as `ScheduleOptions` say. 'concatenate' is
`epochs.TrainingOrder` over all datasets together. For the others every dataset has an endless
sequence of its own (each record once per epoch of *that* dataset). A schedule says how many samples
each dataset gives to each step; they are taken from its sequence in order. How many it has given
before a step is known without going through the steps before, so that any step can be started from.

    alternating     step n is a batch of dataset n mod N
    accumulated     every step has a batch of every dataset
    weighted        step n is a batch of a dataset drawn with the given probability ('batch'), or
                    every sample of every batch is drawn so ('example')
    task_by_task    all batches of the first dataset, then all of the second, ...: ordinary transfer
                    learning

(PolyViT, arXiv 2111.12993, section 3.2; co-finetuning, arXiv 2207.03807, section 3.) Drawing is
balanced: of every `BLOCK` draws each dataset gets its share, rounded, in random order.
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import numpy as np

from data_pipelines.options import OrderOptions, ScheduleOptions, Source, check_schedule
from data_pipelines.order.epochs import EpochRecords, Sample, TrainingOrder, generator, host_share

BLOCK = 1000

# Keep the streams of one seed apart; see `epochs`.
_DRAW = 0x7363686564756C65
_DATASET = 0x6461746173657421


class Turn(NamedTuple):
    """What a step is made of.

    Attributes:
        counts: i64[N], samples of each dataset.
        before: i64[N], samples that each has given to the steps before.
        datasets: i64[batch], the dataset of each place; sums up to `counts`.
    """

    counts: np.ndarray
    before: np.ndarray
    datasets: np.ndarray


# What to do at a step.
Schedule = Callable[[int], Turn]


def make_order(
    sources: Sequence[Source],
    sizes: Sequence[int],
    options: OrderOptions,
    *,
    repeats: int = 1,
    num_hosts: int = 1,
    records: Sequence[EpochRecords | None] = (),
) -> 'TrainingOrder | ScheduledOrder':
    """The order of the training samples.

    Args:
        sources: the datasets.
        sizes: records of each.
        options: batch size, schedule, length of the run, seed.
        repeats: samples of a record per epoch; they share a batch.
        num_hosts: over which every batch must divide.
        records: of each dataset what its epochs consist of, see `balance`; None: each record once.

    Raises:
        ValueError: numbers that do not fit.
    """
    schedule, seed = options.schedule, options.seed
    check_schedule(schedule, [source.name for source in sources])
    if schedule.kind == 'concatenate':
        host_share(options.batch_size, 0, num_hosts)  # Refuses what does not divide.
        return TrainingOrder(
            sizes, batch_size=options.batch_size, repeats=repeats, seed=seed, records=records
        )
    if min(sizes, default=0) < 1:
        raise ValueError(f'{schedule.kind}: every dataset needs a record, got sizes {list(sizes)}')
    own = _batch_sizes(sources, options)
    batches = own if schedule.by_dataset else [options.batch_size]
    for size in batches:
        if size % repeats:
            raise ValueError(
                f'{schedule.kind}: batch_size={size} must be a positive multiple of '
                f'repeats={repeats}, because the samples of one record share a batch'
            )
    places = {sum(own)} if schedule.kind == 'accumulated' else set(batches)
    for size in places:
        host_share(size, 0, num_hosts)
    return ScheduledOrder(
        sizes,
        _schedule(sources, sizes, options, repeats),
        repeats=repeats,
        seed=seed,
        batch_size=places.pop() if len(places) == 1 else None,
        records=records,
    )


def clips_per_step(sources: Sequence[Source], sizes: Sequence[int], options: OrderOptions) -> float:
    """Clips of a batch, over all hosts, in the mean of the run."""
    schedule, own = options.schedule, np.asarray(_batch_sizes(sources, options), np.float64)
    if not schedule.by_dataset:
        return float(options.batch_size)
    if schedule.kind == 'accumulated':
        return float(own.sum())
    if schedule.kind == 'alternating':
        return float(own.mean())
    if schedule.kind == 'task_by_task':
        return float(sum(sizes) / (np.asarray(sizes) / own).sum())
    return float(_probabilities(sources, sizes, schedule) @ own)


def _batch_sizes(sources: Sequence[Source], options: OrderOptions) -> list[int]:
    """Clips of each dataset in a batch of its own."""
    return [source.batch_size or options.batch_size for source in sources]


def _schedule(
    sources: Sequence[Source], sizes: Sequence[int], options: OrderOptions, repeats: int
) -> Schedule:
    schedule, own = options.schedule, _batch_sizes(sources, options)
    if schedule.kind == 'alternating':
        return alternating(own)
    if schedule.kind == 'accumulated':
        return accumulated(own)
    if schedule.kind == 'task_by_task':
        names = [source.name for source in sources]
        order = [names.index(name) for name in schedule.order or names]
        # Rounded so that all steps together are the whole run's, and nobody's share is off by more
        # than a step.
        exact = [options.epochs * sizes[dataset] * repeats / own[dataset] for dataset in order]
        ends = np.maximum(np.round(np.cumsum(exact)).astype(np.int64), 1)
        steps = np.zeros(len(sizes), np.int64)
        steps[order] = np.diff(ends, prepend=0)
        if not steps.all():
            raise ValueError(
                f'task_by_task: no step is left for dataset {names[steps.argmin()]} in '
                f'{options.epochs:g} epochs; give it smaller batches, or train longer'
            )
        return task_by_task(steps, own, order)
    probabilities = _probabilities(sources, sizes, schedule)
    if not schedule.by_dataset:
        return weighted_by_example(probabilities, options.batch_size, options.seed, repeats=repeats)
    return weighted_by_batch(probabilities, own, options.seed)


def _probabilities(
    sources: Sequence[Source], sizes: Sequence[int], schedule: ScheduleOptions
) -> np.ndarray:
    """f64[N] with which the datasets are drawn."""
    if schedule.weights is not None:
        weights = np.asarray([schedule.weights[source.name] for source in sources], np.float64)
        return weights / weights.sum()
    return proportions(sizes, schedule.size_power if schedule.kind == 'weighted' else 0.0)


def alternating(batch_sizes: Sequence[int]) -> Schedule:
    """Datasets in turn, one a step, with batches of these sizes.

    Raises:
        ValueError: (as all schedules here) sizes that are not positive.
    """
    sizes = _sizes(batch_sizes)

    def turn(step: int) -> Turn:
        rounds, dataset = divmod(step, len(sizes))
        batches = rounds + (np.arange(len(sizes)) < dataset)
        return _single(dataset, sizes, batches)

    return turn


def accumulated(batch_sizes: Sequence[int]) -> Schedule:
    """A batch of every dataset, each of its size, in one step."""
    sizes = _sizes(batch_sizes)
    datasets = np.repeat(np.arange(len(sizes)), sizes)
    return lambda step: Turn(sizes, step * sizes, datasets)


def weighted_by_batch(weights: Sequence[float], batch_sizes: Sequence[int], seed: int) -> Schedule:
    """Each step is a batch of one dataset, drawn with these probabilities."""
    sizes = _sizes(batch_sizes)
    drawn = _Draws(weights, seed)

    def turn(step: int) -> Turn:
        return _single(int(drawn.draws(step, 1)[0]), sizes, drawn.before(step))

    return turn


def weighted_by_example(
    weights: Sequence[float], batch_size: int, seed: int, *, repeats: int = 1
) -> Schedule:
    """Each record of each batch is of a dataset drawn with these probabilities.

    Its `repeats` samples stay together.
    """
    if batch_size < 1 or repeats < 1 or batch_size % repeats:
        raise ValueError(
            f'batch_size={batch_size} must be a positive multiple of repeats={repeats}'
        )
    records = batch_size // repeats
    drawn = _Draws(weights, seed)

    def turn(step: int) -> Turn:
        draws = drawn.draws(step * records, records)
        counts = np.bincount(draws, minlength=drawn.number) * repeats
        # First samples of all records first, as in `TrainingOrder.batch`.
        return Turn(counts, drawn.before(step * records) * repeats, np.tile(draws, repeats))

    return turn


def task_by_task(
    steps: Sequence[int], batch_sizes: Sequence[int], order: Sequence[int] | None = None
) -> Schedule:
    """So many steps of each dataset, one dataset after the other; the last one goes on without end.

    `order`: numbers of the datasets; None: ascending.
    """
    sizes = _sizes(batch_sizes)
    if len(steps) != len(sizes) or min(steps) < 0:
        raise ValueError(
            f'steps={list(steps)}: need one number for each of {len(sizes)} datasets, none negative'
        )
    order = np.arange(len(sizes)) if order is None else np.asarray(order)
    in_order = np.asarray(steps, np.int64)[order]
    starts = np.cumsum(in_order) - in_order

    def turn(step: int) -> Turn:
        place = int(np.searchsorted(starts[1:], step, side='right'))
        batches = np.zeros_like(sizes)
        batches[order[:place]] = in_order[:place]
        batches[order[place]] = step - starts[place]
        return _single(int(order[place]), sizes, batches)

    return turn


def proportions(sizes: Sequence[int], alpha: float) -> np.ndarray:
    """Probabilities in proportion to size^alpha, f64[N]: 1: by size; 0: all alike ('uniform')."""
    weights = np.asarray(sizes, np.float64) ** alpha
    return weights / weights.sum()


class ScheduledOrder:
    """The training samples of several datasets under a schedule; interface of `TrainingOrder`.

    Args:
        sizes: number of records of each dataset.
        schedule: what each step is made of.
        repeats: samples of a record per epoch of its dataset; divides each dataset's share of each
            batch.
        seed: of the datasets' orders.
        batch_size: places of the global batch of every step; None: they differ.
        records: as for `TrainingOrder`.

    Raises:
        ValueError: as `TrainingOrder`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        schedule: Schedule,
        *,
        repeats: int = 1,
        seed: int = 0,
        batch_size: int | None = None,
        records: Sequence[EpochRecords | None] = (),
    ):
        self._schedule, self.repeats, self.seed, self.batch_size = (
            schedule,
            repeats,
            seed,
            batch_size,
        )
        self._orders = [
            TrainingOrder(
                [size],
                batch_size=repeats,
                repeats=repeats,
                seed=_dataset_seed(seed, dataset),
                records=[own],
            )
            for dataset, (size, own) in enumerate(zip(sizes, records or [None] * len(sizes)))
        ]
        self.num_records = sum(sizes)

    @property
    def samples_per_epoch(self) -> int:
        """Samples of all datasets once, whatever the schedule makes of them."""
        return self.num_records * self.repeats

    def sample(self, dataset: int, position: int, skipped: int = 0) -> Sample:
        """The sample at `position` of a dataset's sequence; after `skipped` ones, its stand-in."""
        return self._orders[dataset].sample(position, skipped)._replace(dataset=dataset)

    def stand_in(self, sample: Sample, skipped: int) -> Sample | None:
        """What takes the place of a sample after so many damaged records, of the same dataset.

        None: none is left.
        """
        if skipped >= self._orders[sample.dataset].num_records:
            return None
        return self.sample(sample.dataset, sample.position, skipped)

    def batch(self, step: int, host: int = 0, num_hosts: int = 1) -> list[Sample]:
        """This host's consecutive share of the batch of `step`; the hosts' shares make it up.

        Raises:
            ValueError: the batch does not divide over the hosts, or the repeats not over a
                dataset's part of it.
        """
        turn = self._schedule(step)
        if (turn.counts % self.repeats).any():
            raise ValueError(
                f'step {step}: {turn.counts.tolist()} samples of the datasets are not multiples of '
                f'repeats={self.repeats}'
            )
        share = host_share(len(turn.datasets), host, num_hosts)
        place = np.empty_like(turn.datasets)  # among those of the same dataset
        for dataset, count in enumerate(turn.counts):
            place[turn.datasets == dataset] = np.arange(count)
        records = np.maximum(turn.counts // self.repeats, 1)[turn.datasets]
        # First samples of all the dataset's records first, then the second ones: see
        # `TrainingOrder.batch`.
        positions = turn.before[turn.datasets] + (place % records) * self.repeats + place // records
        chosen = slice(share.start, share.stop)
        return list(map(self.sample, turn.datasets[chosen].tolist(), positions[chosen].tolist()))


class _Draws:
    """A balanced random sequence of datasets: of every `BLOCK` draws each has its share."""

    def __init__(self, weights: Sequence[float], seed: int):
        weights = np.asarray(weights, np.float64)
        if (
            weights.ndim != 1
            or not len(weights)
            or not (weights >= 0).all()
            or not 0 < weights.sum() < np.inf
        ):
            raise ValueError(
                f'weights={weights.tolist()} must be numbers that are not negative and not all 0'
            )
        exact = BLOCK * weights / weights.sum()
        counts = np.floor(exact).astype(np.int64)
        counts[np.argsort(counts - exact, kind='stable')[: BLOCK - counts.sum()]] += 1
        lost = np.flatnonzero((weights > 0) & (counts == 0))
        if len(lost):
            raise ValueError(
                f'weights={weights.tolist()}: number {lost[0]} is less than a {BLOCK}th of all; '
                'raise it, or set it to 0'
            )
        self.number = len(weights)
        self._counts, self._seed = counts, seed
        self._of_block = functools.lru_cache(maxsize=4)(self._compute_block)

    def _compute_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws of a block, i64[BLOCK], and each dataset's before each, i64[BLOCK + 1, N]."""
        keys = generator(_DRAW, self._seed, (block, 0, 0)).random_raw(BLOCK)
        draws = np.repeat(np.arange(self.number), self._counts)[np.argsort(keys, kind='stable')]
        before = np.zeros((BLOCK + 1, self.number), np.int64)
        np.cumsum(draws[:, None] == np.arange(self.number), axis=0, out=before[1:])
        return draws, before

    def draws(self, start: int, count: int) -> np.ndarray:
        """i64[count], the datasets of the draws from number `start` on."""
        parts = []
        while count > 0:
            block, place = divmod(start, BLOCK)
            part = self._of_block(block)[0][place : place + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)

    def before(self, index: int) -> np.ndarray:
        """i64[N], draws of each dataset before draw number `index`."""
        block, place = divmod(index, BLOCK)
        return block * self._counts + self._of_block(block)[1][place]


def _single(dataset: int, sizes: np.ndarray, batches_before: np.ndarray) -> Turn:
    """A batch of one dataset."""
    counts = np.where(np.arange(len(sizes)) == dataset, sizes, 0)
    return Turn(counts, batches_before * sizes, np.full(sizes[dataset], dataset))


def _sizes(batch_sizes: Sequence[int]) -> np.ndarray:
    if not len(batch_sizes) or min(batch_sizes) < 1:
        raise ValueError(f'batch_sizes={list(batch_sizes)} must be positive')
    return np.asarray(batch_sizes, np.int64)


def _dataset_seed(seed: int, dataset: int) -> int:
    """Datasets of one size must not have one order."""
    return int(generator(_DATASET, seed, (dataset, 0, 0)).random_raw())
