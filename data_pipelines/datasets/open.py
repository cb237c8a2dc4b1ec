"""Datasets by path: a directory of records, `tfds:NAME` or `dmvr:MODULE:FUNCTION`."""

import os

from data_pipelines import files
from data_pipelines.datasets.base import ClipDataset, TestSpec, TrainingSpec
from data_pipelines.datasets.records import RecordDataset
from data_pipelines.options import CODE_PREFIX, Source

OTHERS = ('tfds:', CODE_PREFIX)  # what is no directory of records


def dataset_path(root: str | os.PathLike, path: str) -> str:
    """`path` as a source wants it: directories of records are under `root`."""
    if path.startswith(OTHERS):
        return path
    found = files.join(root, path)
    return f'./{found}' if found.startswith(OTHERS) else found  # a directory, however called


def open_dataset(source: Source, spec: TrainingSpec | TestSpec) -> ClipDataset:
    """Opens a dataset of any kind.

    Raises:
        ValueError: there is no such dataset, or not what the source says about it.
    """
    path = os.fspath(source.path)
    if path.startswith('tfds:'):
        from data_pipelines.datasets import tfds  # These bring packages that others do not need.

        return tfds.TfdsDataset(source, spec)
    if path.startswith(CODE_PREFIX):
        from data_pipelines.datasets import dmvr

        return dmvr.DmvrDataset(source, spec)
    return RecordDataset(source, spec)
