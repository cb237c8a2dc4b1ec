"""Datasets whose records hold encoded frames, and those of our own: directories of records."""

import abc

import numpy as np

from data_pipelines.clip import crops, decode, frame_sampling
from data_pipelines.clip.boxes import boxes_in_views, training_boxes
from data_pipelines.datasets.base import Clip, ClipDataset, TestSpec, TrainingSpec, Views
from data_pipelines.datasets.dataset_info import load_dataset_info
from data_pipelines.datasets.stored import frames_of
from data_pipelines.options import Source, check_crops_fit
from data_pipelines.storage import regions
from data_pipelines.storage.label_index import collect, record_labels
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.sequence_example import (
    IMAGE_FRAME_RATE,
    VIDEO_FILENAME,
    RecordError,
    label_indices,
)


class EncodedDataset(ClipDataset):
    """A dataset whose records hold encoded frames: clips are sampled and decoded here."""

    def __init__(self, source: Source, spec: TrainingSpec | TestSpec):
        self.source, self.spec = source, spec
        if isinstance(spec, TestSpec):
            self._test_at((spec.views.short_side,), flip=False)

    def _test_at(self, short_sides: tuple[int, ...], *, flip: bool) -> None:
        """Test views are taken with short sides of so many pixels, and mirrored too if `flip`."""
        check_crops_fit('test_short_sides', short_sides, 'crop_size', self.spec.size.crop_size)
        views = self.spec.views
        self._short_sides, self._flips = short_sides, (False, True) if flip else (False,)
        temporal_views = views.temporal_views if self.source.sampling == 'strided' else 1
        self.views = len(short_sides) * len(self._flips) * temporal_views * views.spatial_views

    @abc.abstractmethod
    def load(self, record: int) -> Clip:
        """Reads and parses a record; no frame is decoded yet.

        Raises:
            RecordError: it is damaged, has no frames, or no label that the dataset knows.
        """

    def labels(self):
        return collect(map(self._labels_of, range(self.num_records)))

    def _labels_of(self, record: int) -> list[int]:
        try:
            return self.load(record).labels.tolist()
        except RecordError:  # told when it is read
            return []

    def write_training_clip(self, record, rng, out):
        size, options, clip = self.spec.size, self.spec.input, self.load(record)
        num_stored = len(clip.frames)
        if self.source.sampling == 'uniform':
            numbers = frame_sampling.random_uniform_frames(rng, num_stored, size.num_frames)
        elif self.source.sampling == 'key_frame':
            numbers = self._around_key_frame(clip)
        else:
            numbers = frame_sampling.random_strided_frames(
                rng, num_stored, size.num_frames, self._span(clip)
            )
        encoded = clip.frames.fetch(numbers.tolist())
        height, width = decode.frame_size(encoded, int(numbers[0]))
        window = crops.random_window(rng, height, width, options.short_side, size.crop_size)
        flip = self.source.flip and rng.random() < 0.5
        decode.decode_window(
            encoded, numbers, window, out, flip=flip, reduced=options.reduced_decoding
        )
        if self.localises:
            return training_boxes(
                rng, clip.key_frame_regions, window, (height, width), flip, self.source.boxes
            )
        return clip.labels

    def write_views(self, record, out):
        spec, clip = self.spec, self.load(record)
        num_stored, num_frames = len(clip.frames), spec.size.num_frames
        if self.source.sampling == 'uniform':
            numbers = frame_sampling.uniform_frames(num_stored, num_frames)[np.newaxis]  # [1, T]
        elif self.source.sampling == 'key_frame':
            numbers = self._around_key_frame(clip)[np.newaxis]  # [1, T]
        else:
            numbers = frame_sampling.strided_views(  # [V, T]
                num_stored, num_frames, self._span(clip), spec.views.temporal_views
            )
        encoded = clip.frames.fetch(numbers.ravel().tolist())
        size = decode.frame_size(encoded, int(numbers[0, 0]))
        crop_size = spec.size.crop_size
        windows = []  # Of each view: where, in a picture of which size, mirrored or not.
        for short_side in self._short_sides:
            scaled = crops.scaled_size(*size, short_side)
            corners = crops.crop_corners(*scaled, crop_size, spec.views.spatial_views)
            count, first = len(numbers) * len(corners), len(windows)
            plain = out[first : first + count]
            decode.decode_views(encoded, numbers, scaled, corners, plain, reduced=spec.reduced)
            for flip in self._flips:
                if flip:
                    for view, mirrored in zip(plain, out[first + count :]):
                        mirrored[:] = view[:, :, ::-1]
                windows += [
                    (crops.Window(*corner, crop_size, crop_size), scaled, flip)
                    for _ in numbers
                    for corner in corners
                ]
        name = clip.name or self.where(record)
        if self.localises:
            return Views(boxes_in_views(clip.key_frame_regions, windows, self.source.boxes), name)
        return Views(clip.labels, name)

    def whole_clip(self, record: int, width: int) -> tuple[np.ndarray, Clip]:
        """The frames around a record's key frame, uncropped: u8[T, h, `width`, 3]; the record.

        Raises: as `write_views`.
        """
        clip = self.load(record)
        numbers = self._around_key_frame(clip)
        encoded = clip.frames.fetch(numbers.tolist())
        stored_height, stored_width = decode.frame_size(encoded, int(numbers[0]))
        size = max(1, round(stored_height * width / stored_width)), width
        out = np.zeros((len(numbers), *size, 3), np.uint8)
        decode.decode_views(encoded, numbers[np.newaxis], size, [(0, 0)], [out])
        return out, clip

    def _around_key_frame(self, clip: Clip) -> np.ndarray:
        num_stored = len(clip.frames)
        key_frame = num_stored // 2 if clip.key_frame is None else clip.key_frame
        return frame_sampling.key_frame_clip(
            key_frame, self._span(clip), self.spec.size.num_frames, num_stored
        )

    def _span(self, clip: Clip) -> float:
        """Length of a clip at a fixed step, in stored frames.

        Raises:
            ValueError: the record's frame rate is needed but unknown.
        """
        source = self.source
        try:
            return frame_sampling.clip_span(
                self.spec.size.num_frames, source.stride, clip.frame_rate, source.target_frame_rate
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


class RecordDataset(EncodedDataset):
    """A split of a directory of records."""

    def __init__(self, source: Source, spec: TrainingSpec | TestSpec):
        """Opens the shards.

        Raises:
            ValueError: the directory holds no such records, or not those that it describes.
        """
        super().__init__(source, spec)
        self.info = load_dataset_info(source.path)
        if source.split not in self.info.splits:
            there = sorted(self.info.splits)
            text = f'{source.path} has no split {source.split!r}, only {", ".join(there)}'
            if source.split == 'validation' and there:
                text += (
                    '; convert a folder with --validation_share=0.2, or set '
                    f'config.datasets.{source.name}.evaluation_split={there[0]!r}'
                )
            raise ValueError(text)
        self.reader = RecordReader(source.path, source.split)
        stated = self.info.splits[source.split].records
        if stated != len(self.reader):
            raise ValueError(
                f'{source.path}: dataset.json states {stated} records in split '
                f'{source.split!r}, the shards hold {len(self.reader)}; convert again'
            )
        if self.info.arguments.get('storage') == 'link' and source.video_root is None:
            raise ValueError(
                f'{source.path}: its records link to videos; give the directory that these are in, '
                f'config.datasets.{source.name}.video_root in training, --video_root for commands '
                f'(converted from {self.info.arguments.get("video_root")})'
            )
        self.classes = self.info.classes
        self.multi_label = self.info.multi_label or self.info.localisation
        self.num_records = len(self.reader)
        counts = self.info.splits[source.split]
        self.class_counts = counts.class_counts
        if self.info.localisation and source.task == 'auto':
            self._localise(counts.box_counts)

    def _localise(self, box_counts: tuple[int, ...] | None) -> None:
        source = self.source
        if source.sampling != 'key_frame':
            raise ValueError(
                f'{source.path} has boxes on key frames, and sampling={source.sampling!r} may miss '
                "them: use sampling='key_frame', or task='classification' for labels without boxes"
            )
        self.localises = True
        self.class_counts = box_counts or self.class_counts
        self.action_ids = tuple(self.info.arguments.get('action_ids', ()))
        if isinstance(self.spec, TestSpec):
            options = source.boxes
            self._test_at(options.test_short_sides or self._short_sides, flip=options.test_flip)

    def load(self, record: int) -> Clip:
        where = self.where(record)
        example = self.reader.read_clip(record)
        found = None
        if self.info.localisation:
            found = regions.regions(example, len(self.classes), where)
            labels = np.flatnonzero(found.labels.any(axis=0))  # Whoever does them.
        else:
            labels = label_indices(example, where)
            self._check_labels(labels, where)
        rate = example.context.get(IMAGE_FRAME_RATE)
        has_rate = isinstance(rate, np.ndarray) and len(rate) == 1 and rate[0] > 0
        return Clip(
            frames=frames_of(example, where, self.source.video_root),
            labels=labels,
            frame_rate=float(rate[0]) if has_rate else self.info.frame_rate,
            key_frame=None if found is None else found.key_frame,
            key_frame_regions=found,
            name=_text(example.context.get(VIDEO_FILENAME)),
        )

    def labels(self):
        source = self.source
        return record_labels(source.path, source.split, self.reader.index, self._labels_of)

    def where(self, record: int) -> str:
        return self.reader.where(record)

    def close(self) -> None:
        self.reader.close()


def _text(feature: object) -> str:
    """The first of a feature's byte strings; empty where it is none."""
    if isinstance(feature, list) and feature and isinstance(feature[0], bytes):
        return feature[0].decode('utf-8', errors='replace')
    return ''
