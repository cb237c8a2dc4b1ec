"""Records -> batches of NumPy arrays, for training and for testing.

What a batch holds follows from (seed, step) and the damaged records alone, never from the number of
threads, of hosts or from timing. A batch is a flat dict; B is the host's share of the batch, and a
training batch has ::

    video    u8[B, T, H, W, 3]   RGB
    dataset  i32[B]              place of the source in `sources`
    label    i32[B]              class number; where any source is multi-label: f32[B, C],
                                 multi-hot, C the largest number of classes
    weight   f32[B]              1; 0 marks padding (testing only)

and a test batch also ::

    record   i32[B]              record number within the split, -1 for padding
    view     i32[B]              temporal clip * spatial crops + spatial crop
    name     object[B]           str, what the record calls its video; empty for padding

Clips of a dataset that localises have boxes instead of a label, which stays 0. With such a source
every training batch also has, for all its clips ::

    boxes      f32[B, M, 4]      x1, y1, x2, y2 in the clip, 0 to 1; 0 for padding
    box_label  f32[B, M, A]      multi-hot, A the largest number of actions of a source
    box_mask   f32[B, M]         1 for a box that exists

and a test batch, which then has no label, ::

    boxes            f32[B, M, 4]  the boxes to test, in the view, clipped
    box_mask         f32[B, M]     1 where the view shows enough of the box
    candidate        f32[B, M, 4]  the same boxes in the whole frame
    candidate_score  f32[B, M]     the detector's; 1 for annotated boxes
    candidate_mask   f32[B, M]     1 for a box that exists
    truth_box        f32[B, G, 4]  all annotated boxes in the whole frame; G as many as the batch needs
    truth_label      f32[B, G, A]
    truth_mask       f32[B, G]

Its views are numbered ((short side * mirrored or not) * temporal clip) * spatial crops + spatial crop.
"""

from collections.abc import Iterator, Sequence
import functools
import itertools
import logging

from data_pipelines import batch_arrays
from data_pipelines.array_pool import ArrayPool
from data_pipelines.clip.decode import FrameError
from data_pipelines.datasets.base import ClipDataset, Source, TestSpec, TrainingSpec
from data_pipelines.datasets.open import open_dataset
from data_pipelines.order import epochs
from data_pipelines.order.training_order import ScheduleOptions, make_order
from data_pipelines.storage.sequence_example import RecordError
from data_pipelines.workers import Batch, Batches, Damage, ElementSpec, Task


class TrainBatches(Batches):
    """Training batches; see `train_batches`.

    Attributes:
        samples_per_epoch: clips of one epoch: all records of all sources, times `repeats`.
        step: number of the batch that `next()` returns next.
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
    """Evaluation batches; see `evaluation_batches`.

    Attributes:
        num_records: records of the split, on all hosts.
        views: clips per record.
        num_batches: batches that every host runs.
    """

    def __init__(
        self, *args, source: Source, num_records: int, views: int, num_batches: int, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.num_records, self.views, self.num_batches = num_records, views, num_batches
        self._source, self._given = source, 0
        self._counts = batch_arrays.CandidateCounts()

    def __next__(self) -> Batch:
        batch, counts = batch_arrays.finish(super().__next__())
        self._given += 1
        self._counts = batch_arrays.CandidateCounts(*map(sum, zip(self._counts, counts)))
        if self._given == self.num_batches and 'candidate' in batch:
            self._report_candidates()
        return batch

    def _report_candidates(self) -> None:
        name, options = self._source.name, self._source.boxes
        records, candidates, dropped = self._counts
        if dropped:
            logging.warning(
                '%s: max_boxes=%d leaves out %d of %d candidate boxes, those of the lowest scores',
                name,
                options.max_boxes,
                dropped,
                candidates + dropped,
            )
        if records and not candidates:
            logging.warning(
                '%s: no candidate boxes to test in any of %d records (candidates=%r, min_candidate_score=%g); were '
                'proposals given to the conversion?',
                name,
                records,
                options.candidates,
                options.min_candidate_score,
            )

    def __len__(self) -> int:
        return self.num_batches


class TrainingPlan:
    """Which clips make the training batch of any step, and how they are made.

    Attributes:
        samples_per_epoch: clips of one epoch: all records of all sources, times `repeats`.
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
        schedule: ScheduleOptions | None = None,
    ):
        """Opens the datasets. Arguments and errors: see `train_batches`."""
        if not sources:
            raise ValueError('no sources to train on')
        self._spec = TrainingSpec(num_frames, crop_size, tuple(short_side), reduced)
        self._datasets = [open_dataset(source, self._spec) for source in sources]
        self._order = make_order(
            [dataset.num_records for dataset in self._datasets],
            schedule,
            batch_size=batch_size,
            repeats=repeats,
            seed=seed,
            num_hosts=num_hosts,
        )
        self.samples_per_epoch = self._order.samples_per_epoch
        self._seed, self._host, self._num_hosts = seed, host, num_hosts
        self._max_bad_records = max_bad_records
        self._layout = batch_arrays.layout(self._spec, self._datasets)
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
        _close(self._datasets)

    def _fill_row(self, batch: Batch, row: int, sample: epochs.Sample) -> list[Damage]:
        damage = []
        while len(damage) <= self._max_bad_records:
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
    schedule: ScheduleOptions | None = None,
) -> TrainBatches:
    """This host's share of the training batches `start_step, start_step + 1, ...`, in order.

    Samples come from the union of the sources in proportion to size, in a new random order each
    epoch; every record is visited once per epoch (`repeats` times, in the same batch). See
    `sampling.TrainingOrder`. Each clip: frames by the source's rule; short side resized to a
    random size, random square crop, random mirroring; boxes go with the pixels (`boxes.py`).

    A damaged record is replaced by the next one of the epoch's order, with weight 1, and counted.
    Where a schedule decides which dataset fills a place, it is replaced by one of the same dataset.

    Args:
        sources: the datasets; their order numbers them.
        batch_size: clips of the global batch, over all hosts.
        num_frames: T.
        crop_size: H = W, pixels.
        short_side: (low, high), pixels; low >= crop_size.
        repeats: samples of each record per epoch; divides `batch_size`.
        seed: of the order and of everything random in a clip.
        start_step: first batch; any step costs the same to start from.
        num_steps: how many batches; None: without end.
        host: number of this host.
        num_hosts: divides `batch_size`.
        num_threads: that decode; None: one per processor core of this process.
        prefetch: batches decoded ahead of the one being returned.
        max_bad_records: damaged records that this host bears with.
        reduced: decode at a reduced size where the clip is at most half as large (see `decode`).
        schedule: how batches are made of several datasets, see `order.py`; None: as above. B may
            then differ from batch to batch, and `batch_size` counts only where batches are of
            several datasets.

    Raises:
        ValueError: an argument, a dataset directory or a sampling rule that does not fit.
        RecordError: (while iterating) more than `max_bad_records` damaged records; the text names
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
        schedule=schedule,
    )
    steps = (
        itertools.count(start_step)
        if num_steps is None
        else itertools.islice(itertools.count(start_step), num_steps)
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
            A source with boxes may have more short sides and mirrored views: see `boxes.BoxOptions`.
        spatial_views: 1 (centre) or 3 (left, centre, right, or top, centre, bottom).
        dataset: the number to write as `dataset`.
        host, num_hosts, num_threads, prefetch, max_bad_records, reduced: as in `train_batches`.

    Raises:
        ValueError: an argument or a dataset directory that does not fit.
        RecordError: (while iterating) more than `max_bad_records` damaged records; the text names
            file and record.
    """
    spec = TestSpec(
        num_frames, crop_size, short_side, temporal_views, spatial_views, reduced=reduced
    )
    opened = open_dataset(source, spec)
    share = len(epochs.host_share(batch_size, host, num_hosts))
    views = opened.views
    own = epochs.evaluation_share(opened.num_records, host, num_hosts)
    num_batches = epochs.num_evaluation_batches(opened.num_records, views, batch_size, num_hosts)
    layout = batch_arrays.layout(spec, [opened])

    def write_views(rows: list[tuple[Batch, int]], record: int) -> None:
        found = opened.write_views(record, [batch['video'][row] for batch, row in rows])
        for view, (batch, row) in enumerate(rows):
            batch_arrays.write_view(batch, row, view, found)
            batch['dataset'][row], batch['weight'][row] = dataset, 1
            batch['record'][row], batch['name'][row] = record, opened.video_name(record)

    def fill_record(rows: list[tuple[Batch, int]], record: int) -> list[Damage]:
        try:
            write_views(rows, record)
            return []
        except (RecordError, FrameError) as error:
            for batch, row in rows:
                batch['video'][row] = 0  # May be written in part; the rest still is padding.
            return [opened.damage(dataset, record, error)]

    def new_batch() -> Batch:
        return batch_arrays.new_evaluation_batch(layout, share, dataset)

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
        element_spec=batch_arrays.element_spec(
            batch_arrays.finish(new_batch())[0],
            {'truth_box': 1, 'truth_label': 1, 'truth_mask': 1},
        ),
        source=source,
        num_records=opened.num_records,
        views=views,
        num_batches=num_batches,
    )


def _close(datasets: Sequence[ClipDataset]) -> None:
    for dataset in datasets:
        dataset.close()
