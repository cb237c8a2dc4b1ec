"""Clips read by the places of their frames, against clips read from whole records."""

import json
import os
import shutil

import numpy as np
import pytest

from data_pipelines import index
from data_pipelines.datasets.records import RecordDataset
from data_pipelines.datasets.stored import Stills
from data_pipelines.options import Source
from data_pipelines.storage import frame_index
from data_pipelines.storage.frame_index import FrameIndex
from data_pipelines.storage.indexing import write_frame_index
from data_pipelines.storage.reader import RecordReader, ShardReader
from data_pipelines.storage.record_index import by_shard, load_index
from data_pipelines.storage.sequence_example import (
    IMAGE_ENCODED,
    LABEL_INDEX,
    RecordError,
    decode_clip,
    encode_sequence_example,
    encoded_frames,
)
from data_pipelines.storage.tfrecord import RecordWriter
from tests.helpers.batches import evaluation_batches, train_batches, training_spec
from tests.helpers.golden import shared_path
from tests.helpers.read_records import flip_record_byte, read_records
from tests.helpers.tiny_records import flat_frame, write_records

NUM_FRAMES = 8
SPEC = dict(num_frames=3, crop_size=8, short_side=(10, 16))


@pytest.fixture
def source(tmp_path):
    """4 records of 8 frames, the last of which has a layout that is parsed in full:
    it has no places.
    """
    clips = [[flat_frame(r, f) for f in range(NUM_FRAMES)] for r in range(4)]
    write_records(tmp_path / 'd', clips, [[r] for r in range(4)], num_classes=4)
    shard = tmp_path / 'd' / 'train-00001-of-00002'
    third, last = (data for _, data in read_records(shard))
    lists_first = encode_sequence_example({}, {IMAGE_ENCODED: clips[3]})
    halves = encode_sequence_example({LABEL_INDEX: [3]}, {IMAGE_ENCODED: [b'replaced']})
    assert len(last) > len(third) - 100
    with RecordWriter(shard) as writer:
        writer.write(third)
        writer.write(halves + lists_first)
    return Source(tmp_path / 'd', 'd', 'train', stride=2)


def batches(source, **options):
    training = list(train_batches([source], **SPEC, batch_size=4, num_steps=4, seed=1, **options))
    spec = dict(SPEC, short_side=10, temporal_views=2)
    return training + list(evaluation_batches(source, **spec, batch_size=4, **options))


def assert_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize('max_gap', [0, 1 << 18])
def test_batches_are_those_of_whole_records(source, monkeypatch, max_gap):
    expected = batches(source)
    assert index.main([str(source.path)]) == 0
    monkeypatch.setattr(frame_index, '_MAX_GAP', max_gap)
    whole = []
    read = ShardReader.read
    monkeypatch.setattr(
        ShardReader, 'read', lambda self, number: whole.append(number) or read(self, number)
    )
    assert_equal(batches(source), expected)
    assert set(whole) == {3}  # Only the one without places is read as a whole.


@pytest.mark.parametrize('max_gap, requests', [(0, 3), (1 << 18, 1)])
def test_only_the_asked_frames_are_read(source, monkeypatch, max_gap, requests):
    index.main([str(source.path)])
    monkeypatch.setattr(frame_index, '_MAX_GAP', max_gap)
    dataset = RecordDataset(source, training_spec(**SPEC))
    stored = dataset.reader.read_clip(1).feature_lists[IMAGE_ENCODED]
    counts, read_part = [], stored._read
    stored._read = lambda start, count: counts.append(count) or read_part(start, count)
    frames = Stills(stored).fetch([4, 0, 2, 2])
    assert {number: bytes(frame) for number, frame in frames.items()} == {
        n: flat_frame(1, n) for n in (0, 2, 4)
    }
    assert len(counts) == requests
    if max_gap == 0:
        assert sum(counts) == sum(len(flat_frame(1, n)) for n in (0, 2, 4))
    assert [bytes(frame) for frame in stored] == [flat_frame(1, n) for n in range(NUM_FRAMES)]
    dataset.close()


def test_damage_is_met_where_it_is_used(source):
    index.main([str(source.path)])
    reader = RecordReader(source.path, 'train')
    places = reader._frames.places(1).tolist()
    flip_record_byte(source.path, 1, places[3][0])  # the first byte of frame 2
    frames = reader.read_clip(1).feature_lists[IMAGE_ENCODED]
    assert bytes(frames[1]) == flat_frame(1, 1)
    with pytest.raises(
        RecordError, match=r'train-00000-of-00002: record at byte .*damaged frame 2 .*checksum'
    ):
        frames.read([1, 2])
    flip_record_byte(source.path, 1, places[0][0])
    with pytest.raises(RecordError, match='train-00000-of-00002: .*damaged context .*checksum'):
        reader.read_clip(1)
    reader.close()


def test_damaged_records_get_no_places(source):
    flip_record_byte(source.path, 0, 200)
    index.main([str(source.path)])
    reader = RecordReader(source.path, 'train')
    assert [len(reader._frames.places(number)) for number in range(4)] == [0, 9, 9, 0]
    with pytest.raises(
        RecordError, match='damaged data .checksum differs. of the record at byte 0'
    ):
        reader.read_clip(0)
    reader.close()


def test_a_record_cut_short_since_is_damage(source):
    """While it is open: later, the sizes of the files tell."""
    index.main([str(source.path)])
    reader = RecordReader(source.path, 'train')
    os.truncate(source.path / 'train-00000-of-00002', 100)
    with pytest.raises(RecordError, match='train-00000.*damaged'):
        reader.read_clip(0).feature_lists[IMAGE_ENCODED].read([5])
    reader.close()


def _rewrite_header(path, **changes):
    line, body = path.read_bytes().split(b'\n', 1)
    path.write_bytes(json.dumps({**json.loads(line), **changes}).encode() + b'\n' + body)


def _point_past_the_end(path):
    line, body = path.read_bytes().split(b'\n', 1)
    path.write_bytes(line + b'\n' + b'\xff' * 4 + body[4:])


def _deal_anew(path):
    """Other records in the shards, and their index made anew, but not that of the frames."""
    clips = [[flat_frame(r, f) for f in range(NUM_FRAMES - 1)] for r in range(4)]
    write_records(path.parent, clips, [[r] for r in range(4)], num_classes=4)
    (path.parent / 'train.index').unlink()


@pytest.mark.parametrize(
    'change, message',
    [
        (
            _deal_anew,
            'out of date: it is the frame index of other shards; delete it, or '
            '.*data_pipelines.index /',
        ),
        (lambda path: _rewrite_header(path, version=2), 'version 2, wanted 1'),
        (lambda path: _rewrite_header(path, format='other'), 'version 1, wanted 1|frame index'),
        (lambda path: path.write_bytes(b'\x00' * 100), 'not a frame index'),
        (lambda path: _rewrite_header(path, places=float('inf')), 'not a frame index'),
        (lambda path: os.truncate(path, path.stat().st_size - 4), 'not of the size that it states'),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-4] + b'\x01\0\0\0'),
            'not of as many places',
        ),
        (_point_past_the_end, 'record at byte 0 .*points past the end of the record'),
    ],
)
def test_frame_index_that_does_not_fit(source, change, message):
    index.main([str(source.path)])
    change(source.path / 'train.frames')
    with pytest.raises(RecordError, match=message):
        RecordReader(source.path, 'train').read_clip(0)


def test_of_records_that_dmvr_wrote(tmp_path):
    for path in shared_path('dmvr').glob('shared-*'):
        shutil.copy(path, tmp_path)
    assert index.main([str(tmp_path), '--threads=2']) == 0
    reader = RecordReader(tmp_path, 'shared')
    for number in range(len(reader)):
        whole = decode_clip(reader.read(number))
        clip = reader.read_clip(number)
        assert len(reader._frames.places(number)) == 1 + len(clip.feature_lists[IMAGE_ENCODED])
        for name, value in whole.context.items():
            np.testing.assert_array_equal(clip.context[name], value)
        expected = [bytes(frame) for frame in encoded_frames(whole)]
        assert [bytes(frame) for frame in encoded_frames(clip)] == expected
    reader.close()


def test_damaged_headers_are_one_line(source, capsys):
    flip_record_byte(source.path, 0, -12)
    assert index.main([str(source.path)]) == 2
    assert 'damaged length' in capsys.readouterr().err
    assert not (source.path / 'train.frames').exists()


def test_shards_are_looked_up_by_their_own_index(source, tmp_path):
    """As conversion does: a shard's own frame index stands for reading it,
    if it is that shard's.
    """
    index.main([str(source.path)])
    whole = load_index(source.path, 'train')
    first, second = by_shard(whole)
    stored = FrameIndex(source.path / 'train.frames', whole)
    marked = [stored.places(number) ^ np.array([0, 0, 1], '<u4') for number in range(2)]
    frame_index.save_frame_index(tmp_path / first.shards[0], first, marked)
    frame_index.save_frame_index(tmp_path / second.shards[0], first, marked)  # another shard's
    write_frame_index(source.path, 'train', whole, known=lambda name: str(tmp_path / name))
    joined = FrameIndex(source.path / 'train.frames', whole)
    for number in range(4):
        expected = marked[number] if number < 2 else stored.places(number)
        np.testing.assert_array_equal(joined.places(number), expected)
