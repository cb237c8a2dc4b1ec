"""Video datasets that TFDS (tensorflow-datasets) has prepared: `tfds:NAME` or `tfds:DIRECTORY`.

`NAME` is what `tfds.builder` takes, such as `ucf101` or `ucf101/ucf101_2:2.0.0`; splits may
be TFDS's, `train[:90%]` included. What TFDS wrote is read record by record, as our own shards are:
TFDS stores one `tf.train.Example` per video, with every frame encoded. So order, resuming, views
and counting are those of our records, nothing but the frames of a clip is decoded, and TensorFlow
takes no part. Nothing is downloaded here.
"""

from collections.abc import Iterator
import contextlib
import os
import re
import sys
import threading

import numpy as np

from data_pipelines.datasets.base import Clip, TestSpec, TrainingSpec, boxes_are_not_read
from data_pipelines.datasets.records import EncodedDataset
from data_pipelines.datasets.stored import Stills
from data_pipelines.options import Source
from data_pipelines.storage.reader import ShardReader
from data_pipelines.storage.record_index import index_files
from data_pipelines.storage.sequence_example import RecordError, decode_sequence_example


class TfdsDataset(EncodedDataset):
    """A split of a prepared TFDS dataset that has a video and a class label, or several."""

    def __init__(self, source: Source, spec: TrainingSpec | TestSpec):
        """Opens the files that TFDS wrote.

        Raises:
            ValueError: TFDS is not installed, or the dataset is unknown, not prepared, or no
                labelled video dataset.
        """
        super().__init__(source, spec)
        name = os.fspath(source.path).removeprefix('tfds:')
        tfds = _import_tfds()
        if re.match(r'\w+:[a-zA-Z_]', name):
            raise ValueError(
                f'{source.path}: of a namespace, whose code TFDS would download and run; prepare '
                'it yourself, and give its directory'
            )
        with _importing_nothing_else(tfds, source.path):
            if os.path.isabs(os.path.expanduser(name)):
                builder = tfds.builder_from_directory(os.path.expanduser(name))
            else:
                try:
                    builder = tfds.builder(name)
                except ValueError as error:
                    raise ValueError(f'{source.path}: {str(error).splitlines()[0]}') from error
        info = builder.info
        if not info.splits:
            raise ValueError(
                f'{source.path}: not prepared in {builder.data_dir}; run "tfds build {name}" first'
            )
        try:
            split = info.splits[source.split]
        except (ValueError, KeyError) as error:
            raise ValueError(
                f'{source.path} has no split {source.split!r}, only '
                f'{", ".join(sorted(info.splits))}'
            ) from error
        if source.task == 'auto' and _has_boxes(tfds, info.features):
            raise ValueError(boxes_are_not_read(source.path))
        self._video, self._label = _find_features(tfds, info.features, source.path)
        label = info.features[self._label]
        self.multi_label = not isinstance(label, tfds.features.ClassLabel)
        self.classes = tuple((label.feature if self.multi_label else label).names)
        self._read = _open_files(split.file_instructions, info.file_format.value, source.path)
        self.num_records = len(self._read)

    def load(self, record: int) -> Clip:
        where = self.where(record)
        # An Example has its features where a SequenceExample has its context.
        features = decode_sequence_example(self._read[record], where).context
        labels, frames = features.get(self._label), features.get(self._video)
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
            raise RecordError(f'{where}: no class number ({self._label!r})')
        self._check_labels(labels, where)
        if not isinstance(frames, list) or not frames:
            raise RecordError(f'{where}: no frames ({self._video!r})')
        return Clip(frames=Stills(frames), labels=labels, frame_rate=None)

    def where(self, record: int) -> str:
        return f'{self.source.path}, split {self.source.split}: record {record}'

    def close(self) -> None:
        self._read.close()


def _import_tfds():
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f'datasets named tfds:... need TFDS ({error}); '
            'pip install tensorflow-datasets array-record importlib-resources'
        ) from error
    return tfds


@contextlib.contextmanager
def _importing_nothing_else(tfds, path) -> Iterator[None]:
    """TFDS imports the modules of the features that a prepared dataset names; only its own here."""
    connector = tfds.features.FeatureConnector
    original, find = vars(connector)['cls_from_name'], connector.cls_from_name

    def find_known(name: str):
        module = name.rpartition('.')[0]
        if not module.startswith('tensorflow_datasets.') and module not in sys.modules:
            raise ValueError(
                f'{path}: has a feature {name!r}, which is none of TFDS; its module is not imported'
            )
        return find(name)

    connector.cls_from_name = staticmethod(find_known)
    try:
        yield
    finally:
        connector.cls_from_name = original


def _has_boxes(tfds, feature) -> bool:
    """Whether a feature is a box, or holds one at any depth."""
    if isinstance(feature, tfds.features.FeaturesDict):
        return any(_has_boxes(tfds, part) for part in feature.values())
    if isinstance(feature, tfds.features.Sequence):
        return _has_boxes(tfds, feature.feature)
    return isinstance(feature, tfds.features.BBoxFeature)


def _find_features(tfds, features, path) -> tuple[str, str]:
    """Names of the video and of the label.

    Raises:
        ValueError: there is none, or not exactly one.
    """

    def is_video(feature) -> bool:
        return isinstance(feature, tfds.features.Sequence) and (
            isinstance(feature.feature, tfds.features.Image)
            and feature.feature.np_dtype == np.uint8
        )

    def is_label(feature) -> bool:
        own = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
        return isinstance(own, tfds.features.ClassLabel)

    found = []
    for kind, matches in (('video of 8 bits', is_video), ('class label', is_label)):
        names = [name for name, feature in features.items() if matches(feature)]
        if len(names) != 1:
            raise ValueError(
                f'{path}: needs exactly one {kind} among its features, has '
                f'{", ".join(names) or "none"} of {", ".join(features)}'
            )
        found += names
    return found[0], found[1]


class _TfRecordFiles:
    """The records of some parts of TFRecord files."""

    def __init__(self, instructions):
        index = index_files('', [part.filename for part in instructions])
        self._reader = ShardReader('', index)
        first = np.concatenate([[0], np.cumsum(index.counts)])
        self._numbers = np.concatenate(
            [
                np.arange(start + part.skip, min(start + part.skip + part.take, end))
                for part, start, end in zip(instructions, first, first[1:])
            ]
        )

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, record: int) -> memoryview:
        return self._reader.read(int(self._numbers[record]))

    def close(self) -> None:
        self._reader.close()


class _ArrayRecordFiles:
    """The same of ArrayRecord files."""

    def __init__(self, instructions):
        from array_record.python import array_record_data_source

        self._files = array_record_data_source.ArrayRecordDataSource(instructions)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, record: int) -> bytes:
        try:
            with self._lock:
                return self._files[record]
        except (ValueError, RuntimeError) as error:
            raise RecordError(f'record {record} cannot be read: {error}') from error

    def close(self) -> None:
        """Closed when it is forgotten."""


def _open_files(instructions, file_format: str, path):
    """
    Raises:
        ValueError: of another format than these two.
    """
    if file_format == 'tfrecord':
        return _TfRecordFiles(instructions)
    if file_format == 'array_record':
        return _ArrayRecordFiles(instructions)
    raise ValueError(
        f'{path}: prepared as {file_format}; only tfrecord and array_record can be read: '
        'prepare it anew with "tfds build --file_format=tfrecord"'
    )
