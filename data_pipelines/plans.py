"""What fills which row of which batch: a function of the step, for training and for testing."""

from collections.abc import Iterator, Sequence
import functools

from data_pipelines import batch_arrays
from data_pipelines.clip.decode import FrameError
from data_pipelines.datasets.base import TestSpec, TrainingSpec
from data_pipelines.datasets.open import open_dataset
from data_pipelines.options import ClipSize, InputOptions, OrderOptions, Source, ViewOptions
from data_pipelines.order import epochs
from data_pipelines.order.balance import BalancedRecords
from data_pipelines.order.schedules import make_order
from data_pipelines.storage.sequence_example import RecordError
from data_pipelines.workers import ArrayPool, Batch, Damage, ElementSpec, Task


class TrainingPlan:
    """Which clips make the training batch of any step, and how they are made.

    Attributes:
        samples_per_epoch: clips of one epoch: all records of all sources, times `repeats`.
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
        spec = TrainingSpec(size, options)
        self._datasets = [open_dataset(source, spec) for source in sources]
        self._order = make_order(
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
        self.samples_per_epoch = self._order.samples_per_epoch
        self.max_bad_records = options.max_bad_records
        self._seed, self._host, self._num_hosts = order.seed, host, num_hosts
        self._layout = batch_arrays.layout(size, self._datasets)
        self._pool = ArrayPool()

    @property
    def element_spec(self) -> ElementSpec:
        """Name -> (shape, type) of the arrays of every batch."""
        size = self._order.batch_size
        rows = (size or 0) // self._num_hosts
        example = batch_arrays.new_training_batch(self._layout, rows, self._pool)
        return batch_arrays.element_spec(example, {} if size else dict.fromkeys(example, 0))

    def batch(self, step: int) -> tuple[Batch, list[Task]]:
        """This host's batch of a step, still empty, and the tasks that fill it."""
        samples = self._order.batch(step, self._host, self._num_hosts)
        batch = batch_arrays.new_training_batch(self._layout, len(samples), self._pool)
        return batch, [
            functools.partial(self._fill_row, batch, row, sample)
            for row, sample in enumerate(samples)
        ]

    def close(self) -> None:
        """Closes the datasets."""
        for dataset in self._datasets:
            dataset.close()

    def _fill_row(self, batch: Batch, row: int, sample: epochs.Sample) -> list[Damage]:
        damage = []
        while len(damage) <= self.max_bad_records:
            chosen = self._order.stand_in(sample, len(damage)) if damage else sample
            if chosen is None:
                raise RecordError(
                    f'all {len(damage)} records are damaged; the last: {damage[-1].message}'
                )
            dataset = self._datasets[chosen.dataset]
            try:
                rng = epochs.record_generator(self._seed, chosen)
                found = dataset.write_training_clip(chosen.record, rng, batch['video'][row])
                batch['dataset'][row] = chosen.dataset
                batch_arrays.write_training_row(batch, row, found)
                return damage
            except (RecordError, FrameError) as error:
                damage.append(dataset.damage(chosen.dataset, chosen.record, error))
        return damage  # More than the limit: the consumer raises.


class EvaluationPlan:
    """Which views of a dataset make this host's test batches.

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
        self._opened = open_dataset(source, TestSpec(size, views, options.reduced_decoding))
        self.num_records, self.views = self._opened.num_records, self._opened.views
        self.num_batches = epochs.num_evaluation_batches(
            self.num_records, self.views, views.batch_size, num_hosts
        )
        self.max_bad_records = options.max_bad_records
        self._rows = len(epochs.host_share(views.batch_size, host, num_hosts))
        self._records = epochs.evaluation_share(self.num_records, host, num_hosts)
        self._layout, self._dataset = batch_arrays.layout(size, [self._opened]), dataset

    @property
    def element_spec(self) -> ElementSpec:
        """Name -> (shape, type) of the arrays of every batch."""
        batch, _ = batch_arrays.finish(self._new_batch())
        return batch_arrays.element_spec(batch, {'truth_box': 1, 'truth_label': 1, 'truth_mask': 1})

    def batches(self) -> Iterator[tuple[Batch, list[Task]]]:
        """Every batch, still empty, and the tasks that fill it, and rows of later ones."""
        begun: dict[int, Batch] = {}

        def place(row: int) -> tuple[Batch, int]:
            number, row = divmod(row, self._rows)
            if number not in begun:
                begun[number] = self._new_batch()
            return begun[number], row

        for number in range(self.num_batches):
            # A record belongs to the batch of its first view. Its other views may lie in later
            # batches: those are complete in time, because batches are handed out in order.
            first = -(-number * self._rows // self.views)
            end = min(-(-(number + 1) * self._rows // self.views), len(self._records))
            tasks = [
                functools.partial(
                    self._fill_record,
                    [place(k * self.views + view) for view in range(self.views)],
                    self._records[k],
                )
                for k in range(first, end)
            ]
            batch, _ = place(number * self._rows)
            del begun[number]
            yield batch, tasks

    def close(self) -> None:
        """Closes the dataset."""
        self._opened.close()

    def _new_batch(self) -> Batch:
        return batch_arrays.new_evaluation_batch(self._layout, self._rows, self._dataset)

    def _fill_record(self, rows: list[tuple[Batch, int]], record: int) -> list[Damage]:
        try:
            views = self._opened.write_views(record, [batch['video'][row] for batch, row in rows])
        except (RecordError, FrameError) as error:
            for batch, row in rows:
                batch['video'][row] = 0  # May be written in part; the rest still is padding.
            return [self._opened.damage(self._dataset, record, error)]
        for view, (batch, row) in enumerate(rows):
            batch_arrays.write_view(batch, row, view, views)
            batch['dataset'][row], batch['weight'][row] = self._dataset, 1
            batch['record'][row] = record
        return []
