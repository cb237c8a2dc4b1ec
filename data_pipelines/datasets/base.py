"""Datasets as clips: record number -> pixels and labels, for training and for testing.

What all kinds of datasets have in common; `open.py` opens one by its path.
"""

import abc
from collections.abc import Sequence
import dataclasses
import os
from typing import NamedTuple

import numpy as np

from data_pipelines.clip.boxes import LabelledBoxes, ViewBoxes
from data_pipelines.datasets.stored import RecordFrames
from data_pipelines.options import ClipSize, InputOptions, Source, ViewOptions, check_crops_fit
from data_pipelines.storage import regions
from data_pipelines.storage.label_index import RecordLabels
from data_pipelines.storage.sequence_example import RecordError
from data_pipelines.workers import Damage


@dataclasses.dataclass(frozen=True)
class TrainingSpec:
    """What training clips are to be."""

    size: ClipSize
    input: InputOptions

    def __post_init__(self):
        check_crops_fit('short_side', self.input.short_side, 'crop_size', self.size.crop_size)


@dataclasses.dataclass(frozen=True)
class TestSpec:
    """What test clips are to be; `reduced`: see `decode`."""

    __test__ = False  # Not a test, whatever pytest thinks of its name.

    size: ClipSize
    views: ViewOptions
    reduced: bool = False

    def __post_init__(self):
        check_crops_fit('short_side', self.views.short_side, 'crop_size', self.size.crop_size)


class Views(NamedTuple):
    """What belongs to the test views of a record.

    Attributes:
        found: i64[number of labels], class numbers; of a dataset that localises the boxes to test.
        name: what the dataset calls the record's video; where it has no name, its place.
    """

    found: np.ndarray | ViewBoxes
    name: str


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
        class_counts: of the split: clips of each class, or boxes where there are any; None:
            unknown.
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
    def write_views(self, record: int, out: Sequence[np.ndarray]) -> Views:
        """Writes all test views of a record to `out`, `views` arrays u8[T, H, W, 3].

        Raises: as `write_training_clip`.
        """

    def labels(self) -> RecordLabels:
        """Class numbers of all records.

        Raises:
            ValueError: the dataset does not tell.
        """
        raise ValueError(
            f'{self.source.name}: balance={self.source.balance} needs the labels of all records, '
            f'which {self.source.path} does not tell; leave balance out'
        )

    @abc.abstractmethod
    def where(self, record: int) -> str:
        """A record's place in words, for messages."""

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
        frames: the stored frames.
        labels: i64[number of labels], class numbers.
        frame_rate: stored frames per second; None where unknown.
        key_frame: number of the key frame among the stored frames; None: the record has none.
        name: what the record calls its video; empty: nothing.
        key_frame_regions: the boxes of a record of a dataset that localises.
    """

    frames: RecordFrames
    labels: np.ndarray
    frame_rate: float | None
    key_frame: int | None = None
    name: str = ''
    key_frame_regions: regions.Regions | None = None


def boxes_are_not_read(path: str | os.PathLike) -> str:
    """A source whose boxes would be overlooked: only records tell how they lie in their frames."""
    return (
        f'{path} has boxes, which are only read from directories of records (region/bbox/*, see '
        'docs/data.md): convert it, or set task="classification" for labels without boxes'
    )
