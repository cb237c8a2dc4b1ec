"""Looking into directories of records, and damaging them."""

import contextlib

import numpy as np
import simplejpeg

from data_pipelines import files
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.sequence_example import decode_sequence_example, encoded_frames
from data_pipelines.storage.tfrecord import CRC, HEADER, check_data, scan_records
from tests.helpers.video_writer import numbers_of


def read_examples(directory, split):
    """Every record of a split."""
    reader = RecordReader(directory, split)
    return [decode_sequence_example(reader.read(number)) for number in range(len(reader))]


def read_records(path):
    """Yields (offset, data) of every record of a file, one after the other, checksums checked."""
    path = str(path)
    with contextlib.closing(files.open_random_access(path)) as file:
        for offset, length in scan_records(path):
            stored = file.read(length + CRC.size, offset + HEADER.size)
            check_data(stored[:length], CRC.unpack(stored[length:])[0], path, offset)
            yield offset, stored[:length]


def key_of(example):
    """What a record calls its video."""
    return example.context['video/filename'][0].decode()


def decoded(example):
    """Its JPEGs, u8 [T, H, W, 3]."""
    return np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in encoded_frames(example)])


def numbers_in(example):
    """The numbers that its frames carry, see `video_writer`."""
    return numbers_of(decoded(example))


def flip_byte(path, offset):
    """Damages a byte of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def flip_record_byte(directory, record, offset):
    """Damages a byte of a record's data in the split `train`."""
    reader = RecordReader(directory, 'train')
    flip_byte(directory / reader.shard_of(record), int(reader.index.offsets[record]) + 12 + offset)
