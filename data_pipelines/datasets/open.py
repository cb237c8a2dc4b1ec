"""Datasets by path: a directory of records, `tfds:NAME` or `dmvr:MODULE:FUNCTION`."""

import os

import numpy as np

from data_pipelines import files
from data_pipelines.datasets.base import (
    Clip,
    ClipDataset,
    EncodedDataset,
    Source,
    TestSpec,
    TrainingSpec,
)
from data_pipelines.datasets.dataset_info import load_dataset_info
from data_pipelines.storage import regions
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.sequence_example import (
    IMAGE_FRAME_RATE,
    VIDEO_FILENAME,
    encoded_frames,
    label_indices,
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
            raise ValueError(
                f'{source.path} has no split {source.split!r}, '
                f'only {", ".join(sorted(self.info.splits))}'
            )
        self.reader = RecordReader(source.path, source.split)
        stated = self.info.splits[source.split].records
        if stated != len(self.reader):
            raise ValueError(
                f'{source.path}: dataset.json states {stated} records in split '
                f'{source.split!r}, the shards hold {len(self.reader)}; convert again'
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
            frames=encoded_frames(example, where),
            labels=labels,
            frame_rate=float(rate[0]) if has_rate else self.info.frame_rate,
            key_frame=None if found is None else found.key_frame,
            key_frame_regions=found,
            name=_text(example.context.get(VIDEO_FILENAME)),
        )

    def where(self, record: int) -> str:
        return self.reader.where(record)

    def close(self) -> None:
        self.reader.close()


def _text(feature: object) -> str:
    """The first of a feature's byte strings; empty where it is none."""
    if isinstance(feature, list) and feature and isinstance(feature[0], bytes):
        return feature[0].decode('utf-8', errors='replace')
    return ''


def dataset_path(root: str | os.PathLike, path: str) -> str:
    """`path` as a source wants it: directories of records are under `root`."""
    return path if path.startswith(('tfds:', 'dmvr:')) else files.join(root, path)


def open_dataset(source: Source, spec: TrainingSpec | TestSpec) -> ClipDataset:
    """Opens a dataset of any kind.

    Raises:
        ValueError: there is no such dataset, or not what the source says about it.
    """
    path = os.fspath(source.path)
    if path.startswith('tfds:'):
        from data_pipelines.datasets import tfds  # These bring packages that others do not need.

        return tfds.TfdsDataset(source, spec)
    if path.startswith('dmvr:'):
        from data_pipelines.datasets import dmvr

        return dmvr.DmvrDataset(source, spec)
    return RecordDataset(source, spec)
