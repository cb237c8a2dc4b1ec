"""Labels of all records: read once, kept, and made anew when the records are others."""

import numpy as np
import pytest

from data_pipelines.annotations import Annotations
from data_pipelines.conversion import plan
from data_pipelines.datasets.base import TestSpec
from data_pipelines.datasets.records import RecordDataset
from data_pipelines.options import ClipSize, Source, ViewOptions
from data_pipelines.storage import label_index
from tests.helpers.tiny_records import flat_frame, write_records

LABELS = [[0], [2, 1], [1], [0, 1, 2], [2]]


@pytest.fixture
def directory(tmp_path):
    write(tmp_path / 'd', LABELS)
    return tmp_path / 'd'


def write(directory, labels):
    clips = [[flat_frame(number, frame) for frame in range(2)] for number in range(len(labels))]
    write_records(directory, clips, labels, num_classes=3, multi_label=True)


def opened(directory):
    views = ViewOptions(short_side=16, spatial_views=1, temporal_views=1)
    source = Source(directory, name='d', split='train', sampling='uniform')
    return RecordDataset(source, TestSpec(ClipSize(2, 16), views))


def as_lists(found):
    parts = np.split(found.labels, np.cumsum(found.counts)[:-1])
    return [part.tolist() for part in parts]


def test_read_once_and_kept(directory, monkeypatch):
    assert as_lists(opened(directory).labels()) == LABELS
    assert (directory / 'train.labels').exists()
    dataset = opened(directory)
    monkeypatch.setattr(dataset, 'load', None)  # not asked
    assert as_lists(dataset.labels()) == LABELS


@pytest.mark.parametrize(
    'change',
    [
        lambda data: b'',
        lambda data: b'{}\n',
        lambda data: data[:-4],
        lambda data: data + b'\0\0\0\0',
        lambda data: data.replace(b'"version": 1', b'"version": 9'),
        lambda data: b'[' * 100_000 + b'\n',
        lambda data: b'\xff' + data,
    ],
)
def test_a_damaged_one_is_made_anew(directory, change):
    opened(directory).labels()
    path = directory / 'train.labels'
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert as_lists(opened(directory).labels()) == LABELS and path.read_bytes() == before


def test_one_of_other_records_is_made_anew(directory):
    opened(directory).labels()
    for path in directory.glob('train-*'):
        path.unlink()
    (directory / 'train.index').unlink()
    write(directory, LABELS[::-1] + [[1]])
    assert as_lists(opened(directory).labels()) == LABELS[::-1] + [[1]]


def test_a_conversion_that_begins_anew_forgets_it(directory):
    """Shards of other labels may be of the same size, by which it would be taken for theirs."""
    opened(directory).labels()
    annotations = Annotations(('a', 'b', 'c'), {'train': ()})
    plan.forget(directory, annotations, {})
    assert not (directory / 'train.labels').exists()
    write(directory, LABELS[::-1])
    assert as_lists(opened(directory).labels()) == LABELS[::-1]


def test_a_directory_that_cannot_be_written(directory, monkeypatch, caplog):
    def refuse(*unused):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(label_index.files, 'write_atomically', refuse)
    assert as_lists(opened(directory).labels()) == LABELS
    assert 'cannot be written' in caplog.text and not (directory / 'train.labels').exists()


def test_damaged_records_have_none(directory):
    shard = next(iter(sorted(directory.glob('train-*-of-*'))))
    opened(directory)  # indexes
    data = bytearray(shard.read_bytes())
    data[40] ^= 255
    shard.write_bytes(data)
    found = as_lists(opened(directory).labels())
    assert found[0] == [] and found[1:] == LABELS[1:]
