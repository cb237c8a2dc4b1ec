"""Records -> batches of NumPy arrays, decoded ahead by threads.

What a batch holds follows from (seed, step) and the damaged records alone, never from the number of threads, of hosts
or from timing. A batch is a flat dict; B is the host's share of the batch, and a training batch has ::

    video    u8[B, T, H, W, 3]   RGB
    dataset  i32[B]              place of the source in ``sources``
    label    i32[B]              class number; f32[B, C], multi-hot, C the largest number of classes, if any
                                 source is multi-label
    weight   f32[B]              1; 0 marks padding (evaluation only)

and an evaluation batch also ::

    record   i32[B]              record number within the split, -1 for padding
    view     i32[B]              temporal clip * spatial crops + spatial crop

OpenCV's own threads are switched off in this process while these iterators are made: they would compete with ours.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import dataclasses
import functools
import logging
import os
import time
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines import decode
from data_pipelines import frames
from data_pipelines import records
from data_pipelines import sampling
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.records import RecordError

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """One dataset and how clips are taken from its records.

    Attributes:
        directory: where ``dataset.json`` and the shards are.
        name: what to call it in messages.
        split: the shards' common name, such as ``train``.
        sampling: 'strided', frames at a fixed step from a part of the video, or 'uniform', frames over all of it.
        stride: step of 'strided' sampling, in frames of a video of ``target_frame_rate``. Ignored by 'uniform'.
        target_frame_rate: frames per second that ``stride`` counts in; None: stored frames, whatever their rate.
        flip: mirror half of the training clips; False where left and right matter.
    """

    directory: str | os.PathLike
    name: str
    split: str
    sampling: str = 'strided'
    stride: float = 1
    target_frame_rate: float | None = None
    flip: bool = True

    def __post_init__(self):
        if self.sampling not in ('strided', 'uniform'):
            raise ValueError(f"{self.name}: sampling must be 'strided' or 'uniform', got {self.sampling!r}")
        if not self.stride > 0:
            raise ValueError(f'{self.name}: stride must be positive, got {self.stride}')
        if self.target_frame_rate is not None and not self.target_frame_rate > 0:
            raise ValueError(f'{self.name}: target_frame_rate must be positive or None, got {self.target_frame_rate}')


class _Dataset:
    """An opened Source."""

    def __init__(self, source: Source):
        self.source = source
        self.info = load_dataset_info(source.directory)
        self.reader = records.RecordReader(source.directory, source.split)
        stated = self.info.splits.get(source.split)
        if stated is not None and stated.records != len(self.reader):
            raise ValueError(
                f'{source.directory}: dataset.json states {stated.records} records in split {source.split!r}, '
                f'the shards hold {len(self.reader)}; convert again'
            )

    def load(self, record: int) -> '_Clip':
        """Reads and parses a record, labels checked; no frame is decoded yet."""
        where = self.reader.where(record)
        example = records.decode_sequence_example(self.reader.read(record), where)
        labels = records.label_indices(example, where)
        if labels.min() < 0 or labels.max() >= len(self.info.classes):
            raise RecordError(f'{where}: class number {labels.tolist()} outside the {len(self.info.classes)} classes')
        if len(labels) > 1 and not self.info.multi_label:
            raise RecordError(f'{where}: several labels, {labels.tolist()}, in a dataset of one label per clip')
        rate = example.context.get(records.IMAGE_FRAME_RATE)
        has_rate = isinstance(rate, np.ndarray) and len(rate) == 1
        return _Clip(
            frames=records.encoded_frames(example, where),
            labels=labels,
            frame_rate=float(rate[0]) if has_rate else self.info.frame_rate,
        )

    def span(self, clip: '_Clip', num_frames: int) -> float:
        source = self.source
        return frames.clip_span(num_frames, source.stride, clip.frame_rate, source.target_frame_rate)


@dataclasses.dataclass(frozen=True)
class _Clip:
    """One parsed record: JPEG frames, class numbers i64[labels], stored frames per second."""

    frames: list[bytes]
    labels: np.ndarray
    frame_rate: float | None


class _Damage(NamedTuple):
    """A damaged record, and what is wrong with it."""

    dataset: int
    record: int
    message: str


def _damage(number: int, record: int, dataset: _Dataset, error: ValueError) -> _Damage:
    # The reader's own errors say where; a decoder knows only the frame.
    where = '' if isinstance(error, RecordError) else f'{dataset.reader.where(record)}: '
    return _Damage(number, record, f'{dataset.source.name}: {where}{error}')


# Fills some rows of a batch; returns the damaged records that it met.
_Task = Callable[[], list[_Damage]]


class Batches:
    """Iterator of batches, decoded ahead of their use by a pool of threads. Close it, or use it in a ``with``.

    Attributes:
        bad_records: damaged records met so far in the batches handed out (each counted once).
        wait_seconds: time spent in ``next()`` so far: how long the consumer waited for data.
    """

    def __init__(
        self,
        plan: Iterator[tuple[Batch, list[_Task]]],
        datasets: Sequence[_Dataset],
        *,
        num_threads: int | None,
        prefetch: int,
        max_bad_records: int,
    ):
        if num_threads is None:
            num_threads = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        if num_threads < 1 or prefetch < 0 or max_bad_records < 0:
            raise ValueError(
                'need num_threads >= 1, prefetch >= 0 and max_bad_records >= 0, '
                f'got {num_threads}, {prefetch} and {max_bad_records}'
            )
        cv2.setNumThreads(1)
        self.bad_records = 0
        self.wait_seconds = 0.0
        self._max_bad_records = max_bad_records
        self._damaged: set[tuple[int, int]] = set()
        self._datasets = datasets
        self._plan = plan
        self._prefetch = prefetch
        self._pending: deque[tuple[Batch, list[concurrent.futures.Future]]] = deque()
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads, thread_name_prefix='decode')
        self._submit(prefetch)

    def _submit(self, batches: int) -> None:
        """Starts work until ``batches`` batches are under way, or the plan ends."""
        while len(self._pending) < batches:
            planned = next(self._plan, None)
            if planned is None:
                return
            batch, tasks = planned
            self._pending.append((batch, [self._pool.submit(task) for task in tasks]))

    def __iter__(self) -> 'Batches':
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            self._submit(self._prefetch + 1)
            if not self._pending:
                raise StopIteration
            batch, futures = self._pending.popleft()
            for future in futures:
                self._count(future.result())
        except BaseException:
            self.close()
            raise
        finally:
            self.wait_seconds += time.perf_counter() - start
        return batch

    def _count(self, damage: list[_Damage]) -> None:
        # Counted here, in the order of the batches, so that the limit strikes at the same step on any machine.
        for found in damage:
            if found[:2] in self._damaged:
                continue
            self._damaged.add(found[:2])
            self.bad_records += 1
            if self.bad_records > self._max_bad_records:
                raise RecordError(
                    f'{found.message} (that is 1 damaged record more than max_bad_records={self._max_bad_records})'
                )
            logging.warning('damaged record skipped: %s', found.message)

    def close(self) -> None:
        """Stops the threads and closes the files. Iteration then ends. May be called again."""
        self._plan = iter(())
        self._pending.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for dataset in self._datasets:
            dataset.reader.close()

    def __enter__(self) -> 'Batches':
        return self

    def __exit__(self, *exception) -> None:
        self.close()


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

    Samples come from the union of the sources in proportion to size, in a new random order each epoch; every record
    is visited once per epoch (``repeats`` times, in the same batch). See ``sampling.TrainingOrder``.
    Each clip: frames by the source's rule; short side resized to a random size, random square crop, random mirroring.

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
        RecordError: (while iterating) more than ``max_bad_records`` damaged records; the text names file and record.
    """
    if not sources:
        raise ValueError('no sources to train on')
    if not crop_size <= short_side[0] <= short_side[1]:
        raise ValueError(f'need crop_size <= short_side[0] <= short_side[1], got {crop_size} and {tuple(short_side)}')
    datasets = [_Dataset(source) for source in sources]
    order = sampling.TrainingOrder(
        [len(dataset.reader) for dataset in datasets], batch_size=batch_size, repeats=repeats, seed=seed
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
        decode.decode_window(clip.frames, numbers, window, batch['video'][row], flip=flip, reduced=reduced)
        batch['dataset'][row] = sample.dataset
        _write_label(batch, row, clip.labels)

    def fill_row(batch: Batch, row: int, sample: sampling.Sample) -> list[_Damage]:
        damage = []
        for skipped in range(min(order.num_records, max_bad_records + 1)):
            if skipped:
                sample = order.sample(sample.position, skipped)
            try:
                write_clip(batch, row, sample)
                return damage
            except (RecordError, decode.FrameError) as error:
                damage.append(_damage(sample.dataset, sample.record, datasets[sample.dataset], error))
        if len(damage) <= max_bad_records:
            raise RecordError(f'all {order.num_records} records are damaged; the last: {damage[-1].message}')
        return damage  # More than the limit: the consumer raises.

    def plan() -> Iterator[tuple[Batch, list[_Task]]]:
        step = start_step
        while num_steps is None or step < start_step + num_steps:
            batch = _new_batch(share, num_frames, crop_size, num_classes if multi_label else None)
            samples = order.batch(step, host, num_hosts)
            yield batch, [functools.partial(fill_row, batch, row, sample) for row, sample in enumerate(samples)]
            step += 1

    return TrainBatches(
        plan(),
        datasets,
        num_threads=num_threads,
        prefetch=prefetch,
        max_bad_records=max_bad_records,
        samples_per_epoch=order.samples_per_epoch,
        start_step=start_step,
    )


def views_per_record(source: Source, temporal_views: int, spatial_views: int) -> int:
    """Test clips of each record. 'uniform' sampling has one temporal clip: more would hold the same frames."""
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
    """This host's share of all test clips of one dataset: every view of every record exactly once over the hosts.

    Views of a record follow one another, temporal clip by temporal clip, and may run on into the next batch. All
    hosts run equally many batches of one shape; missing rows are padding (weight 0, record -1, black). So are
    the rows of a damaged record, which is counted.

    Args:
        source: the dataset.
        batch_size: clips of the global batch, over all hosts.
        num_frames: T.
        crop_size: H = W, pixels.
        short_side: to which whole frames are resized, pixels, >= crop_size.
        temporal_views: clips spread over the video; 'uniform' sampling has one (see ``views_per_record``).
        spatial_views: 1 (centre) or 3 (left, centre, right, or top, centre, bottom).
        dataset: the number to write as ``dataset``.
        host, num_hosts, num_threads, prefetch, max_bad_records, reduced: as in ``train_batches``.

    Raises:
        ValueError: an argument or a dataset directory that does not fit.
        RecordError: (while iterating) more than ``max_bad_records`` damaged records; the text names file and record.
    """
    frames.crop_corners(short_side, short_side, crop_size, spatial_views)  # Refuses what cannot be cropped.
    if temporal_views < 1:
        raise ValueError(f'temporal_views must be at least 1, got {temporal_views}')
    opened = _Dataset(source)
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
            numbers = frames.strided_views(len(clip.frames), num_frames, span, temporal_views)  # [V, T]
        scaled = frames.scaled_size(*decode.frame_size(clip.frames, int(numbers[0, 0])), short_side)
        corners = frames.crop_corners(*scaled, crop_size, spatial_views)
        out = [batch['video'][row] for batch, row in rows]
        decode.decode_views(clip.frames, numbers, scaled, corners, out, reduced=reduced)
        for view, (batch, row) in enumerate(rows):
            _write_label(batch, row, clip.labels)
            batch['dataset'][row], batch['weight'][row] = dataset, 1
            batch['record'][row], batch['view'][row] = record, view

    def fill_record(rows: list[tuple[Batch, int]], record: int) -> list[_Damage]:
        try:
            write_views(rows, record)
            return []
        except (RecordError, decode.FrameError) as error:
            for batch, row in rows:
                batch['video'][row] = 0  # Some frames may have been written; everything else is still padding.
            return [_damage(0, record, opened, error)]

    def plan() -> Iterator[tuple[Batch, list[_Task]]]:
        begun: dict[int, Batch] = {}

        def place(row: int) -> tuple[Batch, int]:
            number, row = divmod(row, share)
            if number not in begun:
                begun[number] = _new_batch(
                    share, num_frames, crop_size, num_classes if multi_label else None, dataset=dataset, padding=True
                )
            return begun[number], row

        for number in range(num_batches):
            # A record belongs to the batch of its first view. Its other views may lie in later batches: those are
            # complete in time, because batches are handed out in order.
            first, end = -(-number * share // views), min(-(-(number + 1) * share // views), len(own))
            tasks = [
                functools.partial(fill_record, [place(k * views + view) for view in range(views)], own[k])
                for k in range(first, end)
            ]
            batch, _ = place(number * share)
            del begun[number]
            yield batch, tasks

    return EvaluationBatches(
        plan(),
        [opened],
        num_threads=num_threads,
        prefetch=prefetch,
        max_bad_records=max_bad_records,
        num_records=len(opened.reader),
        views=views,
        num_batches=num_batches,
    )


def _new_batch(
    rows: int, num_frames: int, crop_size: int, num_classes: int | None, *, dataset: int = 0, padding: bool = False
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
