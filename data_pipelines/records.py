"""Records on disk: TFRecord framing, shards and their index.

A split ``NAME`` of a dataset is a set of shards ``NAME-00000-of-00016`` in one directory. A shard
is a plain TFRecord file; each record is a serialised ``tf.train.SequenceExample``
(``sequence_example.py``, whose functions and feature names can be had from here as well).

One record of a TFRecord file is, little-endian::

    length u64 | masked CRC32C of the length u32 | data [length] | masked CRC32C of the data u32

The index ``NAME.index`` makes every record of a split reachable by number. Format, version 1: a
line of JSON ::

    {"format": "multitrain record index", "version": 1, "records": R,
     "shards": [{"name": ..., "bytes": file size, "records": ...}, ...]}

then R little-endian u64 offsets (of the records' frames, in shard order) and R u64 lengths (of the
data). The stored file sizes tell when an index no longer belongs to its shards.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import json
import logging
import os
import re
import struct
import threading
import uuid

import google_crc32c
import numpy as np

from data_pipelines import files
from data_pipelines.files import write_atomically
from data_pipelines.sequence_example import (  # noqa: F401 (offered to users of records)
    CLIP_END,
    CLIP_START,
    decode_clip,
    decode_sequence_example,
    encode_sequence_example,
    encoded_frames,
    Example,
    IMAGE_ENCODED,
    IMAGE_FRAME_RATE,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    label_indices,
    LABEL_INDEX,
    LABEL_TEXT,
    RecordError,
    VIDEO_FILENAME,
)

_HEADER = struct.Struct('<QI')  # length, its masked CRC
_CRC = struct.Struct('<I')
_OVERHEAD = _HEADER.size + _CRC.size
_INDEX_FORMAT = 'multitrain record index'
_INDEX_VERSION = 1
SHARD_NAME = re.compile(r'(?P<split>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})')
_MAX_OPEN_SHARDS = 128  # per reader: leaves room under the usual limit of 1024 open files


def masked_crc32c(data: bytes | memoryview) -> int:
    """CRC32C of ``data``, rotated and offset as TFRecord files store it."""
    if isinstance(data, memoryview):  # which the extension refuses; an array of it costs no copy
        data = np.frombuffer(data, np.uint8) if len(data) else b''
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class RecordWriter:
    """Writes one TFRecord file under a temporary name and gives it its own when it is complete.

    As a context manager it removes the temporary file if the block raises, so that a file under the
    final name is always whole.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = os.fspath(path)
        # A name of its own: a writer that was given up must not get in the way of its successor.
        self._temporary = f'{self._path}.{uuid.uuid4().hex}.tmp'
        self._file = open(self._temporary, 'wb')
        self._offset = 0

    def write(self, data: bytes) -> tuple[int, int]:
        """Appends one record; returns its byte offset in the file and the length of its data."""
        offset = self._offset
        length = struct.pack('<Q', len(data))
        for part in (
            length,
            _CRC.pack(masked_crc32c(length)),
            data,
            _CRC.pack(masked_crc32c(data)),
        ):
            self._file.write(part)
        self._offset += _OVERHEAD + len(data)
        return offset, len(data)

    def close(self) -> None:
        """Flushes to disk and renames to the final name."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self._path)

    def __enter__(self) -> 'RecordWriter':
        return self

    def __exit__(self, kind, value, traceback) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)


def _length_from_header(header: bytes | memoryview, available: int, path: str, offset: int) -> int:
    """The data length in a frame header, trusted only if checksum and file size agree with it."""
    if len(header) < _HEADER.size:
        raise RecordError(f'{path}: cut short inside the header of the record at byte {offset}')
    length, crc = _HEADER.unpack(header)
    if crc != masked_crc32c(header[:8]):
        raise RecordError(
            f'{path}: damaged length (checksum differs) of the record at byte {offset}'
        )
    if length + _OVERHEAD > available:
        raise RecordError(
            f'{path}: cut short inside the record at byte {offset}: {length + _OVERHEAD} bytes '
            f'wanted, {available} left'
        )
    return length


def _check_data(data: bytes | memoryview, stored_crc: int, path: str, offset: int) -> None:
    if masked_crc32c(data) != stored_crc:
        raise RecordError(f'{path}: damaged data (checksum differs) of the record at byte {offset}')


def scan_records(path: str | os.PathLike) -> Iterator[tuple[int, int]]:
    """Yields (offset, data length) of every record of a file, reading the headers only.

    Raises:
      RecordError: at the first damaged header or where the file is cut short.
    """
    path = os.fspath(path)
    size, offset = files.size(path), 0
    with contextlib.closing(files.open_random_access(path)) as file:
        while offset < size:
            length = _length_from_header(
                file.read(_HEADER.size, offset), size - offset, path, offset
            )
            yield offset, length
            offset += _OVERHEAD + length


def read_records(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, data) of every record of a file, one after the other, checksums checked.

    Raises:
      RecordError: at the first damaged record or where the file is cut short.
    """
    path = os.fspath(path)
    with contextlib.closing(files.open_random_access(path)) as file:
        for offset, length in scan_records(path):
            stored = file.read(length + _CRC.size, offset + _HEADER.size)
            data = stored[:length]
            _check_data(data, _CRC.unpack(stored[length:])[0], path, offset)
            yield offset, data


def framed_size(length: int) -> int:
    """Bytes that a record of ``length`` bytes of data takes in a file."""
    return length + _OVERHEAD


# Shards and their index.


def shard_name(split: str, number: int, count: int) -> str:
    """Name of shard ``number`` of ``count``: ``train-00003-of-00016``."""
    return f'{split}-{number:05d}-of-{count:05d}'


def find_shards(directory: str | os.PathLike, split: str) -> list[str]:
    """Names of all shards of a split, in order.

    Raises:
      RecordError: there is none, one is missing, or the files of two different numbers of shards
        lie together.
    """
    directory = os.fspath(directory)
    if not files.is_directory(directory):
        raise RecordError(
            f'{directory}: no such directory (records of {split!r} were looked for in it)'
        )
    found, others = {}, set()
    for name in files.names(directory):
        match = SHARD_NAME.fullmatch(name)
        if match is None:
            continue
        if match['split'] == split:
            found.setdefault(int(match['count']), set()).add(int(match['number']))
        else:
            others.add(match['split'])
    if not found:
        hint = f' (it has {", ".join(sorted(others))})' if others else ''
        raise RecordError(
            f'{directory}: no shards {split}-00000-of-NNNNN of the split {split!r}{hint}'
        )
    if len(found) > 1:
        raise RecordError(
            f'{directory}: shards of {split!r} from different conversions: '
            f'{", ".join(f"of {count}" for count in sorted(found))}; remove the older ones'
        )
    ((count, numbers),) = found.items()
    for number in range(count):
        if number not in numbers:
            raise RecordError(
                f'{files.join(directory, shard_name(split, number, count))}: this shard is '
                'missing'
            )
    return [shard_name(split, number, count) for number in range(count)]


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """Where every record of a split lies.

    Attributes:
      shards: names of the files, in order.
      sizes: their sizes in bytes.
      counts: their numbers of records.
      offsets: u64 [R], byte offset of each record's frame in its shard.
      lengths: u64 [R], bytes of data of each record.
    """

    shards: tuple[str, ...]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    offsets: np.ndarray
    lengths: np.ndarray


def build_index(directory: str | os.PathLike, split: str) -> RecordIndex:
    """Builds the index of a split by one pass over the headers of its shards.

    Raises:
      RecordError: a shard is missing, damaged or cut short.
    """
    return index_files(directory, find_shards(directory, split))


def index_files(directory: str | os.PathLike, names: Sequence[str]) -> RecordIndex:
    """Builds the index of TFRecord files by one pass over their headers.

    Raises:
      RecordError: a file is damaged or cut short.
    """
    sizes, counts, offsets, lengths = [], [], [], []
    for name in names:
        path = files.join(directory, name)
        records = list(scan_records(path))
        if not records:
            logging.warning('%s: this shard is empty', path)
        sizes.append(files.size(path))
        counts.append(len(records))
        offsets.extend(offset for offset, _ in records)
        lengths.extend(length for _, length in records)
    return RecordIndex(
        tuple(names),
        tuple(sizes),
        tuple(counts),
        np.array(offsets, '<u8'),
        np.array(lengths, '<u8'),
    )


def save_index(directory: str | os.PathLike, split: str, index: RecordIndex) -> None:
    """Writes ``NAME.index``, atomically.

    Raises:
      OSError: the directory cannot be written.
    """
    header = {
        'format': _INDEX_FORMAT,
        'version': _INDEX_VERSION,
        'records': len(index.offsets),
        'shards': [
            {'name': name, 'bytes': size, 'records': count}
            for name, size, count in zip(index.shards, index.sizes, index.counts)
        ],
    }
    content = (
        json.dumps(header).encode() + b'\n' + index.offsets.tobytes() + index.lengths.tobytes()
    )
    write_atomically(files.join(directory, f'{split}.index'), content)


def load_index(directory: str | os.PathLike, split: str) -> RecordIndex | None:
    """Reads ``NAME.index``; None when there is none.

    Raises:
      RecordError: the index is damaged, of another version, or does not belong to the shards beside
        it.
    """
    path = files.join(directory, f'{split}.index')
    remedy = 'delete it and it is built anew'
    try:
        header_line, _, body = files.read_bytes(path).partition(b'\n')
    except FileNotFoundError:
        return None
    try:
        header = json.loads(header_line)
        known = header['format'] == _INDEX_FORMAT
        version, count = header['version'], int(header['records'])
        shards = [
            (str(shard['name']), int(shard['bytes']), int(shard['records']))
            for shard in header['shards']
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f'{path}: not a record index, or a damaged one; {remedy}') from error
    if not known or version != _INDEX_VERSION:
        raise RecordError(
            f'{path}: a record index of version {version}, wanted {_INDEX_VERSION}; {remedy}'
        )
    if len(body) != 16 * count or sum(records for _, _, records in shards) != count:
        raise RecordError(
            f'{path}: damaged: {len(body)} bytes where {count} records need {16 * count}; {remedy}'
        )
    present = find_shards(directory, split)
    for name in sorted({shard[0] for shard in shards}.symmetric_difference(present)):
        raise RecordError(
            f'{path}: is not the index of these shards: {name} is in only one of them; {remedy}'
        )
    for name, size, _ in shards:
        actual = files.size(files.join(directory, name))
        if actual != size:
            raise RecordError(
                f'{path}: out of date: {name} has {actual} bytes, {size} when it was indexed; '
                f'{remedy}'
            )
    offsets, lengths = np.frombuffer(body, '<u8').reshape(2, count)
    names, sizes, counts = zip(*shards)
    # An entry that points outside its file would ask for memory that the file does not justify.
    limits = np.repeat(np.array(sizes, '<u8'), counts)
    if (
        np.any(offsets > limits)
        or np.any(lengths > limits)
        or np.any(offsets + lengths + _OVERHEAD > limits)
    ):
        raise RecordError(f'{path}: damaged: it points past the end of a shard; {remedy}')
    return RecordIndex(names, sizes, counts, offsets, lengths)


def _open_index(directory: str | os.PathLike, split: str) -> RecordIndex:
    """The index beside the shards; made, and left there if possible, where there is none."""
    index = load_index(directory, split)
    if index is None:
        index = build_index(directory, split)
        try:
            save_index(directory, split, index)
        except OSError as error:
            logging.warning(
                '%s: the index of %r stays in memory, it cannot be written: %s',
                directory,
                split,
                error,
            )
    return index


class ShardReader:
    """Random access to the records of some TFRecord files: ``reader[i]`` by number, from any thread."""

    def __init__(self, directory: str | os.PathLike, index: RecordIndex):
        """Opens the files of ``index``, whose names are relative to ``directory``, or absolute."""
        self._directory = os.fspath(directory)
        self.index = index
        self._first = np.concatenate(
            [[0], np.cumsum(index.counts)]
        )  # number of each shard's first record
        self._files: dict[int, files.RandomAccessFile] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.index.offsets)

    def shard_of(self, record: int) -> str:
        """Name of the shard that holds a record."""
        return self.index.shards[self._shard_number(record)]

    def where(self, record: int) -> str:
        """A record's place in words, for messages: file, byte offset, number."""
        path = files.join(self._directory, self.shard_of(record))
        return f'{path}: record at byte {self.index.offsets[record]} (number {record} of the split)'

    def read(self, record: int) -> memoryview:
        """Data of record number ``record``, checksums checked.

        Raises:
          RecordError: the record is damaged, or is not where the index says.
          IndexError: there is no such number.
        """
        shard = self._shard_number(record)
        path = files.join(self._directory, self.index.shards[shard])
        offset, length = int(self.index.offsets[record]), int(self.index.lengths[record])
        # A view, so that the megabytes of a record are copied once, from the file.
        frame = memoryview(self._pread(shard, path, length + _OVERHEAD, offset))
        if _length_from_header(frame[: _HEADER.size], len(frame), path, offset) != length:
            raise RecordError(
                f'{path}: the record at byte {offset} has another length than the index says; '
                'delete the index and it is built anew'
            )
        data = frame[_HEADER.size : -_CRC.size]
        _check_data(data, _CRC.unpack(frame[-_CRC.size :])[0], path, offset)
        return data

    def __getitem__(self, record: int) -> memoryview:
        return self.read(record)

    def close(self) -> None:
        """Closes the shards; a later read opens them again."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def _shard_number(self, record: int) -> int:
        if not 0 <= record < len(self):
            raise IndexError(f'record {record} of {len(self)}')
        return int(np.searchsorted(self._first, record, side='right')) - 1

    def _pread(self, shard: int, path: str, count: int, offset: int) -> bytes:
        file = self._files.get(shard)
        if file is None:
            with self._lock:
                file = self._files.get(shard)
                if file is None and len(self._files) < _MAX_OPEN_SHARDS:
                    file = self._files[shard] = files.open_random_access(path)
        if file is not None:
            return file.read(count, offset)
        # Too many shards to keep them all open.
        with contextlib.closing(files.open_random_access(path)) as temporary:
            return temporary.read(count, offset)

    def __del__(self):
        if hasattr(self, '_files'):
            self.close()


class RecordReader(ShardReader):
    """Random access to the records of one split.

    Uses ``NAME.index``. When there is none it is built by one pass over the headers and, where the
    directory can be written, saved for the next time.
    """

    def __init__(self, directory: str | os.PathLike, split: str):
        """Opens a split.

        Args:
          directory: where the shards lie.
          split: their common name, the ``train`` of ``train-00000-of-00016``.

        Raises:
          RecordError: no or missing shards, or an index that does not belong to them.
        """
        super().__init__(directory, _open_index(directory, split))
