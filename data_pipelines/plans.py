"""How rows of batches are made: a record opened, cut, decoded; in training a damaged one replaced.

What fills which row is a function of the step.
"""

from collections.abc import Iterator, Sequence
import functools

import numpy as np

from data_pipelines import batch_arrays
from data_pipelines.clip.decode import FrameError
from data_pipelines.datasets.base import TestSpec, TrainingSpec, Views
from data_pipelines.datasets.open import open_dataset
from data_pipelines.options import ClipSize, InputOptions, OrderOptions, Source, ViewOptions
from data_pipelines.order import epochs
from data_pipelines.order.balance import BalancedRecords
from data_pipelines.order.schedules import ScheduledOrder, make_order
from data_pipelines.storage.sequence_example import RecordError
from data_pipelines.workers import ArrayPool, Batch, ElementSpec, Job, Made


class TrainingPlan:
    """Which clips make the training batch of any step, and how they are made.

    It can be pickled: whoever unpickles it opens the datasets anew.

    Attributes:
        max_bad_records: damaged records that this host bears with.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        size: ClipSize,
        order: OrderOptions,
        options: InputOptions,
        *,
        host: int = 0,
        num_hosts: int = 1,
    ):
        """Opens the datasets. Arguments and errors: see `pipeline.train_batches`."""
        if not sources:
            raise ValueError('no sources to train on')
        self._arguments = sources, size, order, options, host, num_hosts
        spec = TrainingSpec(size, options)
        self._datasets = [open_dataset(source, spec) for source in sources]
        self.max_bad_records = options.max_bad_records
        self._seed, self._host, self._num_hosts = order.seed, host, num_hosts
        self._layout = batch_arrays.layout(size, self._datasets)
        self._pool = ArrayPool()

    def __reduce__(self):
        *arguments, host, num_hosts = self._arguments
        return functools.partial(TrainingPlan, host=host, num_hosts=num_hosts), tuple(arguments)

    @functools.cached_property
    def _order(self) -> epochs.TrainingOrder | ScheduledOrder:
        sources, _, order, options, _, num_hosts = self._arguments
        return make_order(
            sources,
            [dataset.num_records for dataset in self._datasets],
            order,
            repeats=options.repeats,
            num_hosts=num_hosts,
            records=[
                None
                if source.balance is None
                else BalancedRecords(
                    dataset.labels(), source.balance, seed=order.seed, dataset=number
                )
                for number, (source, dataset) in enumerate(zip(sources, self._datasets))
            ],
        )

    @property
    def samples_per_epoch(self) -> int:
        """Clips of one epoch: all records of all sources, times `repeats`."""
        return self._order.samples_per_epoch

    @property
    def element_spec(self) -> ElementSpec:
        """Name -> (shape, type) of the arrays of every batch."""
        size = self._order.batch_size
        rows = (size or 0) // self._num_hosts
        example = self.new_batch(rows)
        return batch_arrays.element_spec(example, {} if size else dict.fromkeys(example, 0))

    def use(self, pool: ArrayPool) -> None:
        """The pixels of batches are to be taken from this pool."""
        self._pool = pool

    def batch(self, step: int) -> tuple[Batch, list[Job]]:
        """This host's batch of a step, still empty, and the jobs that fill it: a row each."""
        samples = self.samples(step)
        batch = self.new_batch(len(samples))
        return batch, [Job(sample, [(batch, row)]) for row, sample in enumerate(samples)]

    def samples(self, step: int) -> list[epochs.Sample]:
        """What the rows of this host's batch of a step show."""
        return self._order.batch(step, self._host, self._num_hosts)

    def new_batch(self, rows: int) -> Batch:
        """A batch of so many rows, still empty."""
        return batch_arrays.new_training_batch(self._layout, rows, self._pool)

    def make(self, work: epochs.Sample, pixels: Sequence[np.ndarray]) -> Made:
        """Writes a clip; finds (dataset, labels or boxes), None where too many are damaged."""
        damage = []
        while len(damage) <= self.max_bad_records:
            chosen = self._order.stand_in(work, len(damage)) if damage else work
            if chosen is None:
                raise RecordError(
                    f'all {len(damage)} records are damaged; the last: {damage[-1].message}'
                )
            dataset = self._datasets[chosen.dataset]
            try:
                rng = epochs.record_generator(self._seed, chosen)
                found = dataset.write_training_clip(chosen.record, rng, pixels[0])
                return Made((chosen.dataset, found), damage)
            except (RecordError, FrameError) as error:
                damage.append(dataset.damage(chosen.dataset, chosen.record, error))
        return Made(None, damage)  # More than the limit: the consumer raises.

    def write(self, rows: Sequence[tuple[Batch, int]], found: tuple | None) -> None:
        """Writes what `make` found."""
        ((batch, row),) = rows
        if found is not None:
            batch['dataset'][row], labels = found
            batch_arrays.write_training_row(batch, row, labels)

    def close(self) -> None:
        """Closes the datasets."""
        for dataset in self._datasets:
            dataset.close()


class EvaluationPlan:
    """Which views of a dataset make this host's test batches; it can be pickled, as the other.

    Attributes:
        num_records: records of the split, on all hosts.
        views: clips per record.
        num_batches: batches that every host runs.
        max_bad_records: damaged records that this host bears with.
    """

    def __init__(
        self,
        source: Source,
        size: ClipSize,
        views: ViewOptions,
        options: InputOptions,
        *,
        dataset: int = 0,
        host: int = 0,
        num_hosts: int = 1,
    ):
        """Opens the dataset. Arguments and errors: see `pipeline.evaluation_batches`."""
        self._arguments = source, size, views, options, dataset, host, num_hosts
        self._opened = open_dataset(source, TestSpec(size, views, options.reduced_decoding))
        self.num_records, self.views = self._opened.num_records, self._opened.views
        self.num_batches = epochs.num_evaluation_batches(
            self.num_records, self.views, views.batch_size, num_hosts
        )
        self.max_bad_records = options.max_bad_records
        self._rows = len(epochs.host_share(views.batch_size, host, num_hosts))
        self._records = epochs.evaluation_share(self.num_records, host, num_hosts)
        self._layout, self._dataset = batch_arrays.layout(size, [self._opened]), dataset
        self._pool = ArrayPool()

    def __reduce__(self):
        *arguments, dataset, host, num_hosts = self._arguments
        hosts = {'host': host, 'num_hosts': num_hosts}
        return functools.partial(EvaluationPlan, dataset=dataset, **hosts), tuple(arguments)

    @property
    def element_spec(self) -> ElementSpec:
        """Name -> (shape, type) of the arrays of every batch."""
        batch, _ = batch_arrays.finish(self._new_batch(0))
        return batch_arrays.element_spec(batch, {'truth_box': 1, 'truth_label': 1, 'truth_mask': 1})

    def use(self, pool: ArrayPool) -> None:
        """The pixels of batches are to be taken from this pool."""
        self._pool = pool

    def batches(self) -> Iterator[tuple[Batch, list[Job]]]:
        """Every batch, still empty, and the jobs that fill it, and rows of later ones."""
        begun: dict[int, Batch] = {}

        def place(row: int) -> tuple[Batch, int]:
            number, row = divmod(row, self._rows)
            if number not in begun:
                begun[number] = self._new_batch(number)
            return begun[number], row

        for number in range(self.num_batches):
            # A record belongs to the batch of its first view. Its other views may lie in later
            # batches: those are complete in time, because batches are handed out in order.
            first = -(-number * self._rows // self.views)
            end = min(-(-(number + 1) * self._rows // self.views), len(self._records))
            jobs = [
                Job(self._records[k], [place(k * self.views + view) for view in range(self.views)])
                for k in range(first, end)
            ]
            batch, _ = place(number * self._rows)
            del begun[number]
            yield batch, jobs

    def close(self) -> None:
        """Closes the dataset."""
        self._opened.close()

    def make(self, work: int, pixels: Sequence[np.ndarray]) -> Made:
        """Writes the views of a record; finds (record, `Views`), None where it is damaged."""
        try:
            return Made((work, self._opened.write_views(work, pixels)), [])
        except (RecordError, FrameError) as error:
            for view in pixels:
                view[:] = 0  # May be written in part.
            return Made(None, [self._opened.damage(self._dataset, work, error)])

    def write(self, rows: Sequence[tuple[Batch, int]], found: tuple[int, Views] | None) -> None:
        """Writes what `make` found."""
        if found is None:
            return  # The rest still is padding.
        record, views = found
        for view, (batch, row) in enumerate(rows):
            batch_arrays.write_view(batch, row, view, views)
            batch['dataset'][row], batch['weight'][row] = self._dataset, 1
            batch['record'][row] = record

    def _new_batch(self, number: int) -> Batch:
        filled = len(self._records) * self.views - number * self._rows
        return batch_arrays.new_evaluation_batch(
            self._layout, self._rows, self._dataset, self._pool, filled
        )
