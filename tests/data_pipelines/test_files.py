"""Records in an object store: a bucket that is a folder of this machine,
reached through etils' file layer.
"""

import contextlib
import threading

from etils.epath import gpath, testing
import numpy as np
import pytest

from data_pipelines import files
from data_pipelines.datasets import dataset_info
from data_pipelines.options import Source
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.record_index import find_shards
from data_pipelines.storage.sequence_example import RecordError
from tests.helpers.batches import evaluation_batches, train_batches
from tests.helpers.tiny_records import flat_dataset


@pytest.fixture(params=['fsspec', 'tensorflow'])
def bucket(tmp_path, request, monkeypatch):
    """The folder behind gs://bucket; files open as they do in either of etils' layers."""

    def local(path):
        path = str(path)
        assert path.startswith('gs://bucket'), path
        return str(tmp_path) + path.removeprefix('gs://bucket')

    @contextlib.contextmanager
    def manager(path, mode):
        with open(path, mode) as file:
            yield file

    def open_file(original, path, mode):
        return (original if request.param == 'fsspec' else manager)(local(path), mode)

    names = ('exists', 'isdir', 'listdir', 'stat')
    mocks = {n: lambda original, path, *rest: original(local(path), *rest) for n in names}
    monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
    with testing.mock_epath(open=open_file, **mocks):
        yield tmp_path


def test_remote_records_give_the_same_batches_as_local_ones(bucket):
    local = flat_dataset(bucket / 'd', 7, num_frames=9)
    remote = Source('gs://bucket/d', 'd', 'train')
    spec = dict(num_frames=3, crop_size=16, batch_size=4, num_threads=3)
    batches = [
        [
            *train_batches([source], **spec, short_side=(16, 20), num_steps=5),
            *evaluation_batches(source, **spec, short_side=16),
        ]
        for source in (remote, local)
    ]
    assert (bucket / 'd' / 'train.index').exists()  # Written by the remote reader.
    for first, second in zip(*batches, strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_damage_to_remote_records_is_named(bucket):
    flat_dataset(bucket / 'd', 4)
    RecordReader('gs://bucket/d', 'train')
    path = bucket / 'd' / 'train-00001-of-00002'
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match='gs://bucket/d/train-00001-of-00002: damaged'):
        RecordReader('gs://bucket/d', 'train').read(2)
    path.write_bytes(data[:-9])
    with pytest.raises(RecordError, match='gs://bucket/d/train.index: out of date'):
        RecordReader('gs://bucket/d', 'train')
    path.unlink()
    with pytest.raises(RecordError, match='train-00001-of-00002: this shard is missing'):
        RecordReader('gs://bucket/d', 'train')


def test_remote_descriptions_are_read_and_written(bucket):
    flat_dataset(bucket / 'd', 2)
    info = dataset_info.load_dataset_info('gs://bucket/d')
    (bucket / 'e').mkdir()
    dataset_info.save_dataset_info('gs://bucket/e', info)
    assert dataset_info.load_dataset_info(bucket / 'e') == info
    with pytest.raises(ValueError, match='gs://bucket/nowhere: no dataset.json'):
        dataset_info.load_dataset_info('gs://bucket/nowhere')
    with pytest.raises(RecordError, match='gs://bucket/nowhere: no such directory'):
        find_shards('gs://bucket/nowhere', 'train')


def test_threads_share_a_remote_file(bucket):
    (bucket / 'file').write_bytes(bytes(range(256)) * 40)
    file = files.open_random_access('gs://bucket/file')
    wrong = []

    def read(offset):
        for _ in range(50):
            if file.read(20, offset) != bytes((offset + i) % 256 for i in range(20)):
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    assert not wrong


@pytest.mark.parametrize(
    'directory, name, joined',
    [
        ('a/b', 'c', 'a/b/c'),
        ('a', '/c', '/c'),
        ('gs://a/b/', 'c/d', 'gs://a/b/c/d'),
        ('gs://a/b', '/c', '/c'),
        ('a', 'gs://b/c', 'gs://b/c'),
    ],
)
def test_join(directory, name, joined):
    assert files.join(directory, name) == joined


def test_unknown_kinds_of_paths_are_refused():
    with pytest.raises(ValueError, match='ftp://a/b: this kind of remote path is not supported'):
        files.size('ftp://a/b')


def test_a_short_read_of_a_local_file_goes_on(tmp_path, monkeypatch):
    (tmp_path / 'file').write_bytes(bytes(range(100)))
    original = files.os.pread
    monkeypatch.setattr(
        files.os, 'pread', lambda file, count, at: original(file, min(count, 7), at)
    )
    file = files.open_random_access(tmp_path / 'file')
    assert file.read(50, 10) == bytes(range(10, 60))
    assert file.read(50, 80) == bytes(range(80, 100))
    file.close()
