"""Records -> batches of NumPy arrays, for training and for testing.

What a batch holds follows from (seed, step) and the damaged records alone, never from the number of
threads, of hosts or from timing. A batch is a flat dict; B is the host's share of the batch, and a
training batch has ::

    video    u8[B, T, H, W, 3]   RGB
    dataset  i32[B]              place of the source in ``sources``
    label    i32[B]              class number; where any source is multi-label: f32[B, C],
                                 multi-hot, C the largest number of classes
    weight   f32[B]              1; 0 marks padding (testing only)

and a test batch also ::

    record   i32[B]              record number within the split, -1 for padding
    view     i32[B]              temporal clip * spatial crops + spatial crop
    name     object[B]           str, what the record calls its video; empty for padding
"""

from collections.abc import Iterator, Sequence
import functools
import itertools

import numpy as np

from data_pipelines import sampling
from data_pipelines.clips import ClipDataset, Source, TestSpec, TrainingSpec, open_dataset
from data_pipelines.decode import FrameError
from data_pipelines.prefetch import Batch, Batches, Damage, ElementSpec, Task
from data_pipelines.records import RecordError


class TrainBatches(Batches):
    """Training batches; see ``train_batches``.

    Attributes:
        samples_per_epoch: clips of one epoch: all records of all sources, times ``repeats``.
        step: number of the batch that ``next()`` returns next.
    """

    def __init__(self, *args, samples_per_epoch: int, start_step: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.samples_per_epoch = samples_per_epoch
        self.step = start_step

    def __next__(self) -> Batch:
        batch = super().__next__()
        self.step += 1
        return batch


class EvaluationBatches(Batches):
    """Evaluation batches; see ``evaluation_batches``.

    Attributes:
        num_records: records of the split, on all hosts.
        views: clips per record.
        num_batches: batches that every host runs.
    """

    def __init__(self, *args, num_records: int, views: int, num_batches: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_records, self.views, self.num_batches = num_records, views, num_batches

    def __len__(self) -> int:
        return self.num_batches


class TrainingPlan:
    """Which clips make the training batch of any step, and how they are made.

    Attributes:
        samples_per_epoch: clips of one epoch: all records of all sources, times ``repeats``.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        batch_size: int,
        num_frames: int,
        crop_size: int,
        short_side: tuple[int, int],
        repeats: int = 1,
        seed: int = 0,
        host: int = 0,
        num_hosts: int = 1,
        max_bad_records: int = 0,
        reduced: bool = False,
    ):
        """Opens the datasets. Arguments and errors: see ``train_batches``."""
        if not sources:
            raise ValueError('no sources to train on')
        self._spec = TrainingSpec(num_frames, crop_size, tuple(short_side), reduced)
        self._datasets = [open_dataset(source, self._spec) for source in sources]
        self._order = sampling.TrainingOrder(
            [dataset.num_records for dataset in self._datasets],
            batch_size=batch_size,
            repeats=repeats,
            seed=seed,
        )
        self.samples_per_epoch = self._order.samples_per_epoch
        self._seed, self._host, self._num_hosts = seed, host, num_hosts
        self._max_bad_records = max_bad_records
        self._share = len(sampling.host_share(batch_size, host, num_hosts))
        self._num_classes = _label_width(self._datasets)

    @property
    def element_spec(self) -> ElementSpec:
        """Name -> (shape, type) of the arrays of every batch."""
        return _element_spec(self._new_batch())

    def _new_batch(self) -> Batch:
        spec = self._spec
        return _new_batch(self._share, spec.num_frames, spec.crop_size, self._num_classes)

    def batch(self, step: int) -> tuple[Batch, list[Task]]:
        """This host's batch of a step, still empty, and the tasks that fill it."""
        batch = self._new_batch()
        samples = self._order.batch(step, self._host, self._num_hosts)
        return batch, [
            functools.partial(self._fill_row, batch, row, sample)
            for row, sample in enumerate(samples)
        ]

    def close(self) -> None:
        """Closes the datasets."""
        _close(self._datasets)

    def _fill_row(self, batch: Batch, row: int, sample: sampling.Sample) -> list[Damage]:
        damage = []
        for skipped in range(min(self._order.num_records, self._max_bad_records + 1)):
            if skipped:
                sample = self._order.sample(sample.position, skipped)
            dataset = self._datasets[sample.dataset]
            try:
                rng = sampling.record_generator(self._seed, sample)
                labels = dataset.write_training_clip(sample.record, rng, batch['video'][row])
                batch['dataset'][row] = sample.dataset
                _write_label(batch, row, labels)
                return damage
            except (RecordError, FrameError) as error:
                damage.append(dataset.damage(sample.dataset, sample.record, error))
        if len(damage) <= self._max_bad_records:
            raise RecordError(
                f'all {self._order.num_records} records are damaged; '
                f'the last: {damage[-1].message}'
            )
        return damage  # More than the limit: the consumer raises.


def train_batches(
    sources: Sequence[Source],
    *,
    batch_size: int,
    num_frames: int,
    crop_size: int,
    short_side: tuple[int, int],
    repeats: int = 1,
    seed: int = 0,
    start_step: int = 0,
    num_steps: int | None = None,
    host: int = 0,
    num_hosts: int = 1,
    num_threads: int | None = None,
    prefetch: int = 2,
    max_bad_records: int = 0,
    reduced: bool = False,
) -> TrainBatches:
    """This host's share of the training batches ``start_step, start_step + 1, ...``, in order.

    Samples come from the union of the sources in proportion to size, in a new random order each
    epoch; every record is visited once per epoch (``repeats`` times, in the same batch). See
    ``sampling.TrainingOrder``. Each clip: frames by the source's rule; short side resized to a
    random size, random square crop, random mirroring.

    A damaged record is replaced by the next one of the epoch's order, with weight 1, and counted.

    Args:
        sources: the datasets; their order numbers them.
        batch_size: clips of the global batch, over all hosts.
        num_frames: T.
        crop_size: H = W, pixels.
        short_side: (low, high), pixels; low >= crop_size.
        repeats: samples of each record per epoch; divides ``batch_size``.
        seed: of the order and of everything random in a clip.
        start_step: first batch; any step costs the same to start from.
        num_steps: how many batches; None: without end.
        host: number of this host.
        num_hosts: divides ``batch_size``.
        num_threads: that decode; None: one per processor core of this process.
        prefetch: batches decoded ahead of the one being returned.
        max_bad_records: damaged records that this host bears with.
        reduced: decode at a reduced size where the clip is at most half as large (see ``decode``).

    Raises:
        ValueError: an argument, a dataset directory or a sampling rule that does not fit.
        RecordError: (while iterating) more than ``max_bad_records`` damaged records; the text names
            file and record.
    """
    plan = TrainingPlan(
        sources,
        batch_size=batch_size,
        num_frames=num_frames,
        crop_size=crop_size,
        short_side=short_side,
        repeats=repeats,
        seed=seed,
        host=host,
        num_hosts=num_hosts,
        max_bad_records=max_bad_records,
        reduced=reduced,
    )
    steps = itertools.count(start_step) if num_steps is None else itertools.islice(
        itertools.count(start_step), num_steps
    )
    return TrainBatches(
        map(plan.batch, steps),
        num_threads=num_threads,
        prefetch=prefetch,
        max_bad_records=max_bad_records,
        on_close=plan.close,
        element_spec=plan.element_spec,
        samples_per_epoch=plan.samples_per_epoch,
        start_step=start_step,
    )


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    num_frames: int,
    crop_size: int,
    short_side: int,
    temporal_views: int = 1,
    spatial_views: int = 1,
    dataset: int = 0,
    host: int = 0,
    num_hosts: int = 1,
    num_threads: int | None = None,
    prefetch: int = 2,
    max_bad_records: int = 0,
    reduced: bool = False,
) -> EvaluationBatches:
    """This host's share of the test clips of a dataset: each view of each record exactly once.

    Views of a record follow one another, temporal clip by temporal clip, and may run on into the
    next batch. All hosts run equally many batches of one shape; missing rows are padding (weight 0,
    record -1, black). So are the rows of a damaged record, which is counted.

    Args:
        source: the dataset.
        batch_size: clips of the global batch, over all hosts.
        num_frames: T.
        crop_size: H = W, pixels.
        short_side: to which whole frames are resized, pixels, >= crop_size.
        temporal_views: clips spread over the video; only 'strided' sampling has more than one.
        spatial_views: 1 (centre) or 3 (left, centre, right, or top, centre, bottom).
        dataset: the number to write as ``dataset``.
        host, num_hosts, num_threads, prefetch, max_bad_records, reduced: as in ``train_batches``.

    Raises:
        ValueError: an argument or a dataset directory that does not fit.
        RecordError: (while iterating) more than ``max_bad_records`` damaged records; the text names
            file and record.
    """
    spec = TestSpec(
        num_frames, crop_size, short_side, temporal_views, spatial_views, reduced=reduced
    )
    opened = open_dataset(source, spec)
    share = len(sampling.host_share(batch_size, host, num_hosts))
    views = opened.views
    own = sampling.evaluation_share(opened.num_records, host, num_hosts)
    num_batches = sampling.num_evaluation_batches(opened.num_records, views, batch_size, num_hosts)
    label_width = _label_width([opened])

    def write_views(rows: list[tuple[Batch, int]], record: int) -> None:
        labels = opened.write_views(record, [batch['video'][row] for batch, row in rows])
        for view, (batch, row) in enumerate(rows):
            _write_label(batch, row, labels)
            batch['dataset'][row], batch['weight'][row] = dataset, 1
            batch['record'][row], batch['view'][row] = record, view
            batch['name'][row] = opened.video_name(record)

    def fill_record(rows: list[tuple[Batch, int]], record: int) -> list[Damage]:
        try:
            write_views(rows, record)
            return []
        except (RecordError, FrameError) as error:
            for batch, row in rows:
                batch['video'][row] = 0  # May be written in part; the rest still is padding.
            return [opened.damage(dataset, record, error)]

    def new_batch() -> Batch:
        return _new_batch(
            share, num_frames, crop_size, label_width, dataset=dataset, padding=True
        )

    def plan() -> Iterator[tuple[Batch, list[Task]]]:
        begun: dict[int, Batch] = {}

        def place(row: int) -> tuple[Batch, int]:
            number, row = divmod(row, share)
            if number not in begun:
                begun[number] = new_batch()
            return begun[number], row

        for number in range(num_batches):
            # A record belongs to the batch of its first view. Its other views may lie in later
            # batches: those are complete in time, because batches are handed out in order.
            first = -(-number * share // views)
            end = min(-(-(number + 1) * share // views), len(own))
            tasks = [
                functools.partial(
                    fill_record, [place(k * views + view) for view in range(views)], own[k]
                )
                for k in range(first, end)
            ]
            batch, _ = place(number * share)
            del begun[number]
            yield batch, tasks

    return EvaluationBatches(
        plan(),
        num_threads=num_threads,
        prefetch=prefetch,
        max_bad_records=max_bad_records,
        on_close=functools.partial(_close, [opened]),
        element_spec=_element_spec(new_batch()),
        num_records=opened.num_records,
        views=views,
        num_batches=num_batches,
    )


def _close(datasets: Sequence[ClipDataset]) -> None:
    for dataset in datasets:
        dataset.close()


def _label_width(datasets: Sequence[ClipDataset]) -> int | None:
    """Classes of a multi-hot label; None where labels are class numbers."""
    if not any(dataset.multi_label for dataset in datasets):
        return None
    return max(len(dataset.classes) for dataset in datasets)


def _new_batch(
    rows: int,
    num_frames: int,
    crop_size: int,
    num_classes: int | None,
    *,
    dataset: int = 0,
    padding: bool = False,
) -> Batch:
    """Arrays of a batch to be filled in place; ``num_classes`` asks for multi-hot labels.

    ``padding``: an evaluation batch, all of it padding so far.
    """
    label_shape = (rows,) if num_classes is None else (rows, num_classes)
    allocate = np.zeros if padding else np.empty
    batch = {
        'video': allocate((rows, num_frames, crop_size, crop_size, 3), np.uint8),
        'dataset': np.full(rows, dataset, np.int32),
        'label': np.zeros(label_shape, np.int32 if num_classes is None else np.float32),
        'weight': np.full(rows, 0 if padding else 1, np.float32),
    }
    if padding:
        batch['record'] = np.full(rows, -1, np.int32)
        batch['view'] = np.zeros(rows, np.int32)
        batch['name'] = np.full(rows, '', object)
    return batch


def _element_spec(batch: Batch) -> ElementSpec:
    return {name: (array.shape, array.dtype) for name, array in batch.items()}


def _write_label(batch: Batch, row: int, labels: np.ndarray) -> None:
    """``labels``: i64[number of labels], as many as the record has."""
    if batch['label'].ndim == 1:
        batch['label'][row] = labels[0]
    else:
        batch['label'][row, labels] = 1
