"""A dataset on disk, opened for reading: record number -> JPEG frames, labels, clip length."""

from collections.abc import Sequence
import dataclasses
import os

import numpy as np

from data_pipelines import frames
from data_pipelines import records
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.prefetch import Damage
from data_pipelines.records import RecordError


@dataclasses.dataclass(frozen=True)
class Source:
    """One dataset and how clips are taken from its records.

    Attributes:
        directory: where ``dataset.json`` and the shards are.
        name: what to call it in messages.
        split: the shards' common name, such as ``train``.
        sampling: 'strided', frames at a fixed step from a part of the video, or 'uniform', frames
            over all of it.
        stride: step of 'strided' sampling, in frames of a video of ``target_frame_rate``. Ignored
            by 'uniform'.
        target_frame_rate: frames per second that ``stride`` counts in; None: stored frames,
            whatever their rate.
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
            raise ValueError(
                f"{self.name}: sampling must be 'strided' or 'uniform', got {self.sampling!r}"
            )
        if not self.stride > 0:
            raise ValueError(f'{self.name}: stride must be positive, got {self.stride}')
        if self.target_frame_rate is not None and not self.target_frame_rate > 0:
            raise ValueError(
                f'{self.name}: target_frame_rate must be positive or None, '
                f'got {self.target_frame_rate}'
            )


@dataclasses.dataclass(frozen=True)
class Clip:
    """One parsed record.

    Attributes:
        frames: each stored frame, encoded.
        labels: i64[number of labels], class numbers.
        frame_rate: stored frames per second; None where unknown.
    """

    frames: Sequence[bytes | memoryview]
    labels: np.ndarray
    frame_rate: float | None


class Dataset:
    """An opened Source: its description, its records, and how to make a clip of one."""

    def __init__(self, source: Source):
        """Opens the shards.

        Raises:
            ValueError: the directory holds no such records, or not those that it describes.
        """
        self.source = source
        self.info = load_dataset_info(source.directory)
        self.reader = records.RecordReader(source.directory, source.split)
        stated = self.info.splits.get(source.split)
        if stated is not None and stated.records != len(self.reader):
            raise ValueError(
                f'{source.directory}: dataset.json states {stated.records} records in split '
                f'{source.split!r}, the shards hold {len(self.reader)}; convert again'
            )

    def load(self, record: int) -> Clip:
        """Reads and parses a record; no frame is decoded yet.

        Raises:
            RecordError: it is damaged, has no frames, or no label that the dataset knows.
        """
        where = self.reader.where(record)
        example = records.decode_clip(self.reader.read(record), where)
        labels = records.label_indices(example, where)
        if labels.min() < 0 or labels.max() >= len(self.info.classes):
            raise RecordError(
                f'{where}: class number {labels.tolist()} is not one of the '
                f'{len(self.info.classes)} classes'
            )
        if len(labels) > 1 and not self.info.multi_label:
            raise RecordError(
                f'{where}: several labels, {labels.tolist()}, in a dataset of one label per clip'
            )
        rate = example.context.get(records.IMAGE_FRAME_RATE)
        has_rate = isinstance(rate, np.ndarray) and len(rate) == 1 and rate[0] > 0
        return Clip(
            frames=records.encoded_frames(example, where),
            labels=labels,
            frame_rate=float(rate[0]) if has_rate else self.info.frame_rate,
        )

    def span(self, clip: Clip, num_frames: int) -> float:
        """Length of a clip of 'strided' sampling, in stored frames.

        Raises:
            ValueError: the record's frame rate is needed but unknown.
        """
        source = self.source
        try:
            return frames.clip_span(
                num_frames, source.stride, clip.frame_rate, source.target_frame_rate
            )
        except ValueError as error:
            raise ValueError(f'{source.name} ({source.directory}): {error}') from error

    def damage(self, number: int, record: int, error: ValueError) -> Damage:
        """What to report of a record that cannot be used; ``number``: the dataset's."""
        # The reader's own errors say where; a decoder knows only the frame.
        where = '' if isinstance(error, RecordError) else f'{self.reader.where(record)}: '
        return Damage(number, record, f'{self.source.name}: {where}{error}')
