"""Datasets as clips: record number -> pixels and labels, for training and for testing.

What all kinds of datasets have in common; `datasets.py` opens one by its path.
"""

import abc
from collections.abc import Mapping, Sequence
import dataclasses
import os

import numpy as np

from data_pipelines.clip import decode, frame_sampling
from data_pipelines.clip.boxes import (
    BoxOptions,
    LabelledBoxes,
    ViewBoxes,
    boxes_in_views,
    training_boxes,
)
from data_pipelines.storage import regions
from data_pipelines.storage.frame_index import StoredFrames
from data_pipelines.storage.sequence_example import RecordError
from data_pipelines.workers import Damage

SAMPLINGS = ('strided', 'uniform', 'key_frame')
TASKS = ('auto', 'classification')


@dataclasses.dataclass(frozen=True)
class Source:
    """One dataset and how clips are taken from its records.

    Attributes:
        path: a directory of `dataset.json` and shards, which may be remote (`gs://...`);
            `tfds:NAME`, a dataset that TFDS has prepared (see `tfds_source`); or
            `dmvr:MODULE:FUNCTION`, one that a DMVR factory reads (see `dmvr_source`).
        name: what to call it in messages.
        split: the shards' common name, such as `train`.
        sampling: 'strided', frames at a fixed step from a part of the video; 'uniform', frames over
            all of it; or 'key_frame', frames at a fixed step around the record's key frame (the
            middle frame of a record that has none).
        stride: step of 'strided' and 'key_frame' sampling, in frames of a video of
            `target_frame_rate`. Ignored by 'uniform'.
        target_frame_rate: frames per second that `stride` counts in; None: stored frames,
            whatever their rate.
        flip: mirror half of the training clips; False where left and right matter.
        task: 'auto', what the dataset is for: boxes where its key frames have them, else labels of
            clips; or 'classification', labels of clips in any case: of a clip with boxes, the
            actions of its key frame, whoever does them.
        boxes: what is done with boxes, where there are any.
    """

    path: str | os.PathLike
    name: str
    split: str
    sampling: str = 'strided'
    stride: float = 1
    target_frame_rate: float | None = None
    flip: bool = True
    task: str = 'auto'
    boxes: BoxOptions = BoxOptions()

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(
                f'{self.name}: task must be one of {", ".join(TASKS)}, got {self.task!r}'
            )
        if self.sampling not in SAMPLINGS:
            raise ValueError(
                f'{self.name}: sampling must be one of {", ".join(SAMPLINGS)}, '
                f'got {self.sampling!r}'
            )
        if not self.stride > 0:
            raise ValueError(f'{self.name}: stride must be positive, got {self.stride}')
        if self.target_frame_rate is not None and not self.target_frame_rate > 0:
            raise ValueError(
                f'{self.name}: target_frame_rate must be positive or None, '
                f'got {self.target_frame_rate}'
            )


@dataclasses.dataclass(frozen=True)
class TrainingSpec:
    """What training clips are to be: see the arguments of `pipeline.train_batches`."""

    num_frames: int
    crop_size: int
    short_side: tuple[int, int]
    reduced: bool = False

    def __post_init__(self):
        if not self.crop_size <= self.short_side[0] <= self.short_side[1]:
            raise ValueError(
                f'need crop_size <= short_side[0] <= short_side[1], '
                f'got {self.crop_size} and {tuple(self.short_side)}'
            )


@dataclasses.dataclass(frozen=True)
class TestSpec:
    """What test clips are to be: see the arguments of `pipeline.evaluation_batches`."""

    __test__ = False  # Not a test, whatever pytest thinks of its name.

    num_frames: int
    crop_size: int
    short_side: int
    temporal_views: int = 1
    spatial_views: int = 1
    reduced: bool = False

    def __post_init__(self):
        # Refuses what does not fit.
        frame_sampling.crop_corners(
            self.short_side, self.short_side, self.crop_size, self.spatial_views
        )
        if self.temporal_views < 1:
            raise ValueError(f'temporal_views must be at least 1, got {self.temporal_views}')


class ClipDataset(abc.ABC):
    """An opened dataset. Everything about a clip follows from its record and the generator given.

    Its methods are called from many threads at once.

    Attributes:
        source: where it came from.
        classes: class names, in the order of their numbers.
        multi_label: whether a clip may carry several classes.
        localises: whether clips carry boxes with labels, instead of labels.
        num_records: clips in the split.
        views: test clips of each record.
        class_counts: of the split: clips of each class, or boxes where there are any; None: unknown.
        action_ids: where boxes have classes of an official list: their numbers in it.
    """

    source: Source
    classes: tuple[str, ...]
    multi_label: bool
    localises: bool = False
    num_records: int
    views: int
    class_counts: tuple[int, ...] | None = None
    action_ids: tuple[int, ...] = ()

    @abc.abstractmethod
    def write_training_clip(
        self, record: int, rng: np.random.Generator, out: np.ndarray
    ) -> np.ndarray | LabelledBoxes:
        """Writes a random clip of a record to `out`, u8[T, H, W, 3].

        Returns:
            i64[number of labels], class numbers; of a dataset that localises the boxes in the clip.

        Raises:
            RecordError, FrameError: the record is damaged.
        """

    @abc.abstractmethod
    def write_views(self, record: int, out: Sequence[np.ndarray]) -> np.ndarray | ViewBoxes:
        """Writes all test views of a record to `out`, `views` arrays u8[T, H, W, 3].

        Returns:
            i64[number of labels], class numbers; of a dataset that localises the boxes to test.

        Raises: as `write_training_clip`.
        """

    @abc.abstractmethod
    def where(self, record: int) -> str:
        """A record's place in words, for messages."""

    def video_name(self, record: int) -> str:
        """What the dataset calls a record whose views were written; where it has no name, its place."""
        return self.where(record)

    @abc.abstractmethod
    def close(self) -> None:
        """Closes files."""

    def damage(self, number: int, record: int, error: ValueError) -> Damage:
        """What to report of a record that cannot be used; `number`: the dataset's."""
        # The readers' own errors say where; a decoder knows only the frame.
        where = '' if isinstance(error, RecordError) else f'{self.where(record)}: '
        return Damage(number, record, f'{self.source.name}: {where}{error}')


@dataclasses.dataclass(frozen=True)
class Clip:
    """One parsed record.

    Attributes:
        frames: each stored frame, encoded; in memory or still in its file.
        labels: i64[number of labels], class numbers.
        frame_rate: stored frames per second; None where unknown.
        key_frame: number of the key frame among the stored frames; None: the record has none.
        name: what the record calls its video; empty: nothing.
        key_frame_regions: the boxes of a record of a dataset that localises.
    """

    frames: Sequence[bytes | memoryview]
    labels: np.ndarray
    frame_rate: float | None
    key_frame: int | None = None
    name: str = ''
    key_frame_regions: regions.Regions | None = None

    def encoded(
        self, numbers: np.ndarray
    ) -> Sequence[bytes | memoryview] | Mapping[int, memoryview]:
        """The frames of these numbers, in memory, by number.

        Raises:
            RecordError: one is damaged.
        """
        if isinstance(self.frames, StoredFrames):
            return self.frames.read(numbers.ravel().tolist())
        return self.frames


class EncodedDataset(ClipDataset):
    """A dataset whose records hold encoded frames: clips are sampled and decoded here."""

    def __init__(self, source: Source, spec: TrainingSpec | TestSpec):
        self.source, self.spec = source, spec
        self._names: dict[int, str] = {}
        if isinstance(spec, TestSpec):
            self._test_at((spec.short_side,), flip=False)

    def _test_at(self, short_sides: tuple[int, ...], *, flip: bool) -> None:
        """Test views are taken with short sides of so many pixels, and mirrored too if `flip`."""
        spec = self.spec
        self._short_sides, self._flips = short_sides, (False, True) if flip else (False,)
        for side in short_sides:  # Refuses what does not fit.
            frame_sampling.crop_corners(side, side, spec.crop_size, spec.spatial_views)
        temporal_views = spec.temporal_views if self.source.sampling == 'strided' else 1
        self.views = len(short_sides) * len(self._flips) * temporal_views * spec.spatial_views

    @abc.abstractmethod
    def load(self, record: int) -> Clip:
        """Reads and parses a record; no frame is decoded yet.

        Raises:
            RecordError: it is damaged, has no frames, or no label that the dataset knows.
        """

    def write_training_clip(self, record, rng, out):
        spec, clip = self.spec, self.load(record)
        num_stored = len(clip.frames)
        if self.source.sampling == 'uniform':
            numbers = frame_sampling.random_uniform_frames(rng, num_stored, spec.num_frames)
        elif self.source.sampling == 'key_frame':
            numbers = self._around_key_frame(clip)
        else:
            numbers = frame_sampling.random_strided_frames(
                rng, num_stored, spec.num_frames, self._span(clip)
            )
        encoded = clip.encoded(numbers)
        height, width = decode.frame_size(encoded, int(numbers[0]))
        window = frame_sampling.random_window(rng, height, width, spec.short_side, spec.crop_size)
        flip = self.source.flip and rng.random() < 0.5
        decode.decode_window(encoded, numbers, window, out, flip=flip, reduced=spec.reduced)
        if self.localises:
            return training_boxes(
                rng, clip.key_frame_regions, window, (height, width), flip, self.source.boxes
            )
        return clip.labels

    def write_views(self, record, out):
        spec, clip = self.spec, self.load(record)
        if self.source.sampling == 'uniform':
            numbers = frame_sampling.uniform_frames(len(clip.frames), spec.num_frames)[
                np.newaxis
            ]  # [1, T]
        elif self.source.sampling == 'key_frame':
            numbers = self._around_key_frame(clip)[np.newaxis]  # [1, T]
        else:
            numbers = frame_sampling.strided_views(  # [V, T]
                len(clip.frames), spec.num_frames, self._span(clip), spec.temporal_views
            )
        encoded = clip.encoded(numbers)
        size = decode.frame_size(encoded, int(numbers[0, 0]))
        windows = []  # Of each view: where, in a picture of which size, mirrored or not.
        for short_side in self._short_sides:
            scaled = frame_sampling.scaled_size(*size, short_side)
            corners = frame_sampling.crop_corners(*scaled, spec.crop_size, spec.spatial_views)
            count, first = len(numbers) * len(corners), len(windows)
            plain = out[first : first + count]
            decode.decode_views(encoded, numbers, scaled, corners, plain, reduced=spec.reduced)
            for flip in self._flips:
                if flip:
                    for view, mirrored in zip(plain, out[first + count :]):
                        mirrored[:] = view[:, :, ::-1]
                windows += [
                    (frame_sampling.Window(*corner, spec.crop_size, spec.crop_size), scaled, flip)
                    for _ in numbers
                    for corner in corners
                ]
        self._names[record] = clip.name
        if self.localises:
            return boxes_in_views(clip.key_frame_regions, windows, self.source.boxes)
        return clip.labels

    def video_name(self, record):
        return self._names.get(record) or super().video_name(record)

    def _around_key_frame(self, clip: Clip) -> np.ndarray:
        num_stored = len(clip.frames)
        key_frame = num_stored // 2 if clip.key_frame is None else clip.key_frame
        return frame_sampling.key_frame_clip(
            key_frame, self._span(clip), self.spec.num_frames, num_stored
        )

    def _span(self, clip: Clip) -> float:
        """Length of a clip at a fixed step, in stored frames.

        Raises:
            ValueError: the record's frame rate is needed but unknown.
        """
        source = self.source
        try:
            return frame_sampling.clip_span(
                self.spec.num_frames, source.stride, clip.frame_rate, source.target_frame_rate
            )
        except ValueError as error:
            raise ValueError(f'{source.name} ({source.path}): {error}') from error

    def _check_labels(self, labels: np.ndarray, where: str) -> None:
        """
        Raises:
            RecordError: labels that the dataset does not know, or too many of them.
        """
        if len(labels) and (labels.min() < 0 or labels.max() >= len(self.classes)):
            raise RecordError(
                f'{where}: class number {labels.tolist()} is not one of the '
                f'{len(self.classes)} classes'
            )
        if len(labels) > 1 and not self.multi_label:
            raise RecordError(
                f'{where}: several labels, {labels.tolist()}, in a dataset of one label per clip'
            )


def boxes_are_not_read(path: str | os.PathLike) -> str:
    """The mistake of naming a source whose boxes would be overlooked: only records tell how boxes lie in their frames."""
    return (
        f'{path} has boxes, which are only read from directories of records (region/bbox/*, see docs/data.md): '
        'convert it, or set task="classification" for labels without boxes'
    )
