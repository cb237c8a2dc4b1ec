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
"""

from collections.abc import Iterator, Sequence
import functools

import numpy as np

from data_pipelines import decode
from data_pipelines import frames
from data_pipelines import sampling
from data_pipelines.clips import Dataset, Source
from data_pipelines.prefetch import Batch, Batches, Damage, Task
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
    if not sources:
        raise ValueError('no sources to train on')
    if not crop_size <= short_side[0] <= short_side[1]:
        raise ValueError(
            f'need crop_size <= short_side[0] <= short_side[1], '
            f'got {crop_size} and {tuple(short_side)}'
        )
    datasets = [Dataset(source) for source in sources]
    order = sampling.TrainingOrder(
        [len(dataset.reader) for dataset in datasets],
        batch_size=batch_size,
        repeats=repeats,
        seed=seed,
    )
    share = len(sampling.host_share(batch_size, host, num_hosts))
    multi_label = any(dataset.info.multi_label for dataset in datasets)
    num_classes = max(len(dataset.info.classes) for dataset in datasets)

    def write_clip(batch: Batch, row: int, sample: sampling.Sample) -> None:
        dataset = datasets[sample.dataset]
        clip = dataset.load(sample.record)
        rng = sampling.record_generator(seed, sample)
        if dataset.source.sampling == 'uniform':
            numbers = frames.random_uniform_frames(rng, len(clip.frames), num_frames)
        else:
            numbers = frames.random_strided_frames(
                rng, len(clip.frames), num_frames, dataset.span(clip, num_frames)
            )
        height, width = decode.frame_size(clip.frames, int(numbers[0]))
        window = frames.random_window(rng, height, width, short_side, crop_size)
        flip = dataset.source.flip and rng.random() < 0.5
        decode.decode_window(
            clip.frames, numbers, window, batch['video'][row], flip=flip, reduced=reduced
        )
        batch['dataset'][row] = sample.dataset
        _write_label(batch, row, clip.labels)

    def fill_row(batch: Batch, row: int, sample: sampling.Sample) -> list[Damage]:
        damage = []
        for skipped in range(min(order.num_records, max_bad_records + 1)):
            if skipped:
                sample = order.sample(sample.position, skipped)
            try:
                write_clip(batch, row, sample)
                return damage
            except (RecordError, decode.FrameError) as error:
                dataset = datasets[sample.dataset]
                damage.append(dataset.damage(sample.dataset, sample.record, error))
        if len(damage) <= max_bad_records:
            raise RecordError(
                f'all {order.num_records} records are damaged; the last: {damage[-1].message}'
            )
        return damage  # More than the limit: the consumer raises.

    def plan() -> Iterator[tuple[Batch, list[Task]]]:
        step = start_step
        while num_steps is None or step < start_step + num_steps:
            batch = _new_batch(share, num_frames, crop_size, num_classes if multi_label else None)
            samples = order.batch(step, host, num_hosts)
            rows = enumerate(samples)
            yield batch, [functools.partial(fill_row, batch, row, sample) for row, sample in rows]
            step += 1

    return TrainBatches(
        plan(),
        num_threads=num_threads,
        prefetch=prefetch,
        max_bad_records=max_bad_records,
        on_close=functools.partial(_close, datasets),
        samples_per_epoch=order.samples_per_epoch,
        start_step=start_step,
    )


def views_per_record(source: Source, temporal_views: int, spatial_views: int) -> int:
    """Test clips of each record. 'uniform' sampling has one temporal clip: all would be equal."""
    return spatial_views * (1 if source.sampling == 'uniform' else temporal_views)


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
        temporal_views: clips spread over the video; 'uniform' sampling has one (see
            ``views_per_record``).
        spatial_views: 1 (centre) or 3 (left, centre, right, or top, centre, bottom).
        dataset: the number to write as ``dataset``.
        host, num_hosts, num_threads, prefetch, max_bad_records, reduced: as in ``train_batches``.

    Raises:
        ValueError: an argument or a dataset directory that does not fit.
        RecordError: (while iterating) more than ``max_bad_records`` damaged records; the text names
            file and record.
    """
    frames.crop_corners(short_side, short_side, crop_size, spatial_views)  # Refuses what won't fit.
    if temporal_views < 1:
        raise ValueError(f'temporal_views must be at least 1, got {temporal_views}')
    opened = Dataset(source)
    share = len(sampling.host_share(batch_size, host, num_hosts))
    views = views_per_record(source, temporal_views, spatial_views)
    own = sampling.evaluation_share(len(opened.reader), host, num_hosts)
    num_batches = sampling.num_evaluation_batches(len(opened.reader), views, batch_size, num_hosts)
    multi_label, num_classes = opened.info.multi_label, len(opened.info.classes)

    def write_views(rows: list[tuple[Batch, int]], record: int) -> None:
        clip = opened.load(record)
        if source.sampling == 'uniform':
            numbers = frames.uniform_frames(len(clip.frames), num_frames)[np.newaxis]  # [1, T]
        else:
            span = opened.span(clip, num_frames)
            numbers = frames.strided_views(  # [V, T]
                len(clip.frames), num_frames, span, temporal_views
            )
        scaled = frames.scaled_size(*decode.frame_size(clip.frames, int(numbers[0, 0])), short_side)
        corners = frames.crop_corners(*scaled, crop_size, spatial_views)
        out = [batch['video'][row] for batch, row in rows]
        decode.decode_views(clip.frames, numbers, scaled, corners, out, reduced=reduced)
        for view, (batch, row) in enumerate(rows):
            _write_label(batch, row, clip.labels)
            batch['dataset'][row], batch['weight'][row] = dataset, 1
            batch['record'][row], batch['view'][row] = record, view

    def fill_record(rows: list[tuple[Batch, int]], record: int) -> list[Damage]:
        try:
            write_views(rows, record)
            return []
        except (RecordError, decode.FrameError) as error:
            for batch, row in rows:
                batch['video'][row] = 0  # May be written in part; the rest still is padding.
            return [opened.damage(dataset, record, error)]

    def plan() -> Iterator[tuple[Batch, list[Task]]]:
        begun: dict[int, Batch] = {}

        def place(row: int) -> tuple[Batch, int]:
            number, row = divmod(row, share)
            if number not in begun:
                begun[number] = _new_batch(
                    share,
                    num_frames,
                    crop_size,
                    num_classes if multi_label else None,
                    dataset=dataset,
                    padding=True,
                )
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
        num_records=len(opened.reader),
        views=views,
        num_batches=num_batches,
    )


def _close(datasets: Sequence[Dataset]) -> None:
    for dataset in datasets:
        dataset.reader.close()


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
    return batch


def _write_label(batch: Batch, row: int, labels: np.ndarray) -> None:
    """``labels``: i64[number of labels], as many as the record has."""
    if batch['label'].ndim == 1:
        batch['label'][row] = labels[0]
    else:
        batch['label'][row, labels] = 1
