import json
import os
import struct
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from data_pipelines.storage import record_index
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.record_index import build_index, shard_name
from data_pipelines.storage.sequence_example import (
    RecordError,
    decode_sequence_example,
    encode_sequence_example,
    encoded_frames,
    label_indices,
)
from data_pipelines.storage.tfrecord import RecordWriter, masked_crc32c
from tests.helpers.golden import shared_path
from tests.helpers.read_records import flip_byte, read_records


def write_shards(directory, split, shards):
    """Writes lists of bytes as shards."""
    for number, contents in enumerate(shards):
        name = shard_name(split, number, len(shards))
        with RecordWriter(directory / name) as writer:
            for content in contents:
                writer.write(content)


# What DMVR's own converter wrote.


def test_reads_dmvr_records():
    golden = np.load(shared_path('dmvr/golden_eval.npz'))
    directory = shared_path('dmvr')
    for row, (key, number) in enumerate(zip(golden['key'], golden['record_in_shard'])):
        shard = os.path.basename(key.decode() if isinstance(key, bytes) else str(key))
        data = [data for _, data in read_records(directory / shard)][number]
        example = decode_sequence_example(data)
        assert len(encoded_frames(example)) == golden['num_stored_frames'][row]
        assert label_indices(example).tolist() == [golden['label_index'][row]]
        for name, array in (
            ('clip/label/text', 'label_text'),
            ('video/filename', 'video_filename'),
        ):
            want = golden[array][row]
            assert example.context[name] == [
                want if isinstance(want, bytes) else str(want).encode()
            ]
        assert all(frame[:2] == b'\xff\xd8' for frame in encoded_frames(example))


def test_reader_on_dmvr_shards_without_an_index():
    index = build_index(shared_path('dmvr'), 'shared')
    assert index.counts == (4, 3, 3)
    assert index.sizes == (1240486, 1288552, 836491)


def test_float_lists_are_kept():
    ((_, data),) = read_records(shared_path('dmvr/audio-00000-of-00001'))
    (waveform,) = decode_sequence_example(data).feature_lists['WAVEFORM/feature/floats']
    assert waveform.dtype == np.float32 and waveform.shape == (70923,)


@pytest.mark.parametrize(
    'name, good, message',
    [
        ('bad_data_crc', 1, r'bad_data_crc: damaged data .* at byte 23607'),
        ('bad_length_crc', 1, r'bad_length_crc: damaged length .* at byte 23607'),
        ('truncated_file', 1, r'truncated_file: cut short inside the record at byte 23607'),
        ('no_frames', 1, r"no feature list 'image/encoded'"),
        ('empty_frame_list', 1, r"'image/encoded' is empty"),
        ('no_label_index', 1, r"no class number .*'clip/label/index'"),
        ('plain_example', 0, r'tf.train.Example with a single image'),
        ('empty_file', 0, None),
        ('gray_jpeg', 3, None),
        ('png_frames', 3, None),
    ],
)
def test_bad_files(name, good, message):
    path = shared_path(f'dmvr/bad/{name}')
    read = 0

    def read_all():
        nonlocal read
        for _, data in read_records(path):
            example = decode_sequence_example(data)
            encoded_frames(example)
            label_indices(example)
            read += 1

    if message is None:
        read_all()
    else:
        with pytest.raises(RecordError, match=message):
            read_all()
    assert read == good


# SequenceExamples.

_VALUES = st.one_of(
    st.lists(st.binary(max_size=20), min_size=1, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
)
_CONTEXTS = st.dictionaries(st.text(st.characters(codec='utf-8'), max_size=10), _VALUES, max_size=4)
_LISTS = st.dictionaries(
    st.text('ab/', max_size=4), st.lists(st.binary(max_size=9), max_size=4), max_size=3
)


@settings(max_examples=50, deadline=None)
@given(_CONTEXTS, _LISTS)
def test_round_trip(context, lists):
    data = encode_sequence_example(context, lists)
    example = decode_sequence_example(data)
    assert {name: list(values) for name, values in example.context.items()} == context
    assert example.feature_lists == lists
    shuffled = dict(reversed(context.items()))
    assert encode_sequence_example(shuffled, lists) == data


def test_empty_arrays_keep_their_kind():
    context = {'i': np.zeros(0, np.int64), 'f': np.zeros(0, np.float32)}
    example = decode_sequence_example(encode_sequence_example(context, {}))
    assert example.context['i'].dtype == np.int64 and example.context['f'].dtype == np.float32


@pytest.mark.parametrize('values', [[], 'text', [None], [[1, 2]], [{}]])
def test_values_that_a_record_cannot_hold(values):
    with pytest.raises(ValueError, match="feature 'x'"):
        encode_sequence_example({'x': values}, {})


def test_bytes_that_are_no_example():
    with pytest.raises(RecordError, match='shard 7: not a tf.train.SequenceExample'):
        decode_sequence_example(b'\xff\xff\xff', where='shard 7')


def test_equal_to_tensorflow():
    tf = pytest.importorskip('tensorflow')
    ours = encode_sequence_example(
        {'text': ['a', 'é'.encode()], 'number': [3, -(2**63)], 'real': [0.5, 29.97]},
        {'image/encoded': [b'one', b'', b'three'], 'none': []},
    )
    parsed = tf.train.SequenceExample.FromString(ours)
    theirs = tf.train.SequenceExample()
    feature = theirs.context.feature
    feature['text'].bytes_list.value.extend([b'a', 'é'.encode()])
    feature['number'].int64_list.value.extend([3, -(2**63)])
    feature['real'].float_list.value.extend([0.5, 29.97])
    for frame in (b'one', b'', b'three'):
        theirs.feature_lists.feature_list['image/encoded'].feature.add().bytes_list.value.append(
            frame
        )
    theirs.feature_lists.feature_list['none'].SetInParent()
    assert parsed == theirs
    back = decode_sequence_example(theirs.SerializeToString())
    mine = decode_sequence_example(ours)
    assert back.feature_lists == mine.feature_lists
    assert {k: list(v) for k, v in back.context.items()} == {
        k: list(v) for k, v in mine.context.items()
    }


def test_tensorflow_reads_our_framing(tmp_path):
    tf = pytest.importorskip('tensorflow')
    contents = [b'', b'x' * 100_000, bytes(range(256))]
    write_shards(tmp_path, 'a', [contents])
    path = tmp_path / 'a-00000-of-00001'
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == contents
    with tf.io.TFRecordWriter(str(tmp_path / 'tf')) as writer:
        for content in contents:
            writer.write(content)
    assert (tmp_path / 'tf').read_bytes() == path.read_bytes()


# Files.


def test_crc32c_known_value():
    assert masked_crc32c(b'') == 0xA282EAD8
    # CRC32C of "123456789" is 0xE3069283 (RFC 3720, appendix B.4), masked as TFRecord says.
    crc = 0xE3069283
    assert (
        masked_crc32c(b'123456789') == ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32
    )


def test_writer_leaves_nothing_half_written(tmp_path):
    with pytest.raises(RuntimeError):
        with RecordWriter(tmp_path / 'file') as writer:
            writer.write(b'abc')
            assert not (tmp_path / 'file').exists()
            raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_huge_length_is_never_allocated(tmp_path):
    # A length with a right checksum, but of more data than the file (or any machine) has.
    length = struct.pack('<Q', 2**62)
    path = tmp_path / 'a-00000-of-00001'
    path.write_bytes(length + struct.pack('<I', masked_crc32c(length)) + b'data')
    with pytest.raises(RecordError, match='at byte 0: .* wanted, 16 left'):
        list(read_records(path))
    with pytest.raises(RecordError, match=r'a-00000-of-00001: cut short .* at byte 0'):
        RecordReader(tmp_path, 'a')


# The index and the reader.


@pytest.fixture
def three_shards(tmp_path):
    shards = [[b'0', b'11'], [], [b'', b'4' * 1000, b'5']]
    write_shards(tmp_path, 'train', shards)
    write_shards(tmp_path, 'train_2', [[b'other split']])
    return tmp_path, [content for shard in shards for content in shard]


def test_reader(three_shards):
    directory, contents = three_shards
    for _ in range(2):  # without an index, then with the one it saved
        reader = RecordReader(directory, 'train')
        assert len(reader) == 5
        assert [reader[i] for i in range(5)] == contents
        assert reader.shard_of(1) == 'train-00000-of-00003'
        assert reader.shard_of(2) == 'train-00002-of-00003'
        assert 'train-00002-of-00003: record at byte 16' in reader.where(3)
        assert (directory / 'train.index').exists()
        with pytest.raises(IndexError):
            reader.read(5)
        with pytest.raises(IndexError):
            reader.read(-1)


def test_index_is_used(three_shards, monkeypatch):
    directory, _ = three_shards
    RecordReader(directory, 'train')
    monkeypatch.setattr(record_index, 'build_index', None)
    assert len(RecordReader(directory, 'train')) == 5


def test_reader_from_many_threads_and_more_shards_than_it_keeps_open(tmp_path, monkeypatch):
    monkeypatch.setattr('data_pipelines.storage.reader._MAX_OPEN_SHARDS', 3)
    contents = [str(i).encode() * 50 for i in range(64)]
    write_shards(tmp_path, 'a', [contents[i : i + 4] for i in range(0, 64, 4)])
    reader = RecordReader(tmp_path, 'a')
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).permutation(64):
            if reader.read(int(i)) != contents[i]:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(reader._files) == 3
    reader.close()
    assert reader.read(0) == contents[0]


def test_index_in_a_directory_that_cannot_be_written(three_shards, monkeypatch, caplog):
    directory, contents = three_shards

    def refuse(*unused):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(record_index.files, 'write_atomically', refuse)
    reader = RecordReader(directory, 'train')
    assert [reader[i] for i in range(5)] == contents
    assert not (directory / 'train.index').exists()
    assert 'stays in memory' in caplog.text


def test_empty_shard_is_warned_of(three_shards, caplog):
    build_index(three_shards[0], 'train')
    assert 'train-00001-of-00003: this shard is empty' in caplog.text


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda d: (d / 'train-00001-of-00003').unlink(),
            r'train-00001-of-00003: this shard is missing',
        ),
        (
            lambda d: flip_byte(d / 'train-00002-of-00003', 20),
            r'train-00002.*damaged length .* at byte 16',
        ),
        (
            lambda d: os.truncate(d / 'train-00002-of-00003', 500),
            r'train-00002-of-00003: cut short inside the record at byte 16: 1016 bytes wanted, '
            r'484 left',
        ),
        (
            lambda d: os.truncate(d / 'train-00002-of-00003', 20),
            r'train-00002-of-00003: cut short inside the header of the record at byte 16',
        ),
        (
            lambda d: (d / 'train-00000-of-00004').write_bytes(b''),
            r"shards of 'train' from different conversions: of 3, of 4",
        ),
    ],
)
def test_what_stops_building_an_index(three_shards, change, message):
    directory, _ = three_shards
    change(directory)
    with pytest.raises(RecordError, match=message):
        RecordReader(directory, 'train')
    assert not (directory / 'train.index').exists()


def test_no_shards(three_shards):
    directory, _ = three_shards
    with pytest.raises(RecordError, match=r"split 'val' \(it has train, train_2\)"):
        RecordReader(directory, 'val')
    with pytest.raises(RecordError, match='no such directory'):
        RecordReader(directory / 'nowhere', 'train')


def _rewrite_header(path, **changes):
    line, body = path.read_bytes().split(b'\n', 1)
    path.write_bytes(json.dumps({**json.loads(line), **changes}).encode() + b'\n' + body)


def _point_past_the_end(directory):
    path = directory / 'train.index'
    content = path.read_bytes()
    path.write_bytes(content[:-8] + struct.pack('<Q', 2**63))


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda d: write_shards(d, 'train', [[b'0', b'11'], [], [b'longer than it was']]),
            r'out of date: train-00002-of-00003 has 34 bytes, 1049 when it was indexed',
        ),
        (
            lambda d: (d / 'train-00001-of-00003').unlink(),
            r'train-00001-of-00003: this shard is missing',
        ),
        (lambda d: (d / 'train.index').write_bytes(b'\x00' * 100), 'not a record index'),
        (lambda d: _rewrite_header(d / 'train.index', records=float('inf')), 'not a record index'),
        (lambda d: os.truncate(d / 'train.index', 300), 'damaged|not a record index'),
        (lambda d: _rewrite_header(d / 'train.index', version=2), 'version 2, wanted 1'),
        (_point_past_the_end, 'points past the end of a shard'),
    ],
)
def test_index_that_does_not_fit(three_shards, change, message):
    directory, _ = three_shards
    RecordReader(directory, 'train')
    change(directory)
    with pytest.raises(RecordError, match=message):
        RecordReader(directory, 'train')


def test_shard_dealt_anew_in_the_same_size(three_shards):
    directory, _ = three_shards
    reader = RecordReader(directory, 'train')
    write_shards(directory, 'train', [[b'00', b'1'], [], [b'', b'4' * 1000, b'5']])
    reader = RecordReader(directory, 'train')
    with pytest.raises(RecordError, match='cut short|another length than the index says|damaged'):
        reader.read(0)


def test_damaged_record_does_not_hide_the_others(three_shards):
    directory, contents = three_shards
    RecordReader(directory, 'train')
    flip_byte(directory / 'train-00002-of-00003', 16 + 12 + 500)
    reader = RecordReader(directory, 'train')
    with pytest.raises(RecordError, match=r'train-00002-of-00003: damaged data .* at byte 16'):
        reader.read(3)
    assert reader.read(4) == contents[4]
