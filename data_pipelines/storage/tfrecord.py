"""TFRecord files: framing and checksums.

One record is, little-endian::

    length u64 | masked CRC32C of the length u32 | data [length] | masked CRC32C of the data u32
"""

from collections.abc import Iterator
import contextlib
import os
import struct

import google_crc32c
import numpy as np

from data_pipelines import files
from data_pipelines.storage.sequence_example import RecordError

HEADER = struct.Struct('<QI')  # length, its masked CRC
CRC = struct.Struct('<I')
OVERHEAD = HEADER.size + CRC.size


def masked_crc32c(data: bytes | memoryview) -> int:
    """CRC32C of `data`, rotated and offset as TFRecord files store it."""
    if isinstance(data, memoryview):  # which the extension refuses; an array of it costs no copy
        data = np.frombuffer(data, np.uint8) if len(data) else b''
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class RecordWriter(contextlib.ExitStack):
    """Writes one TFRecord file under a temporary name and gives it its own when it is complete.

    As a context manager it removes the temporary file if the block raises, so that a file under the
    final name is always whole.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        name = self.enter_context(files.complete_or_absent(path))
        self._file = self.enter_context(open(name, 'wb'))
        self._offset = 0

    def write(self, data: bytes) -> tuple[int, int]:
        """Appends one record; returns its byte offset in the file and the length of its data."""
        offset = self._offset
        length = struct.pack('<Q', len(data))
        for part in (length, CRC.pack(masked_crc32c(length)), data, CRC.pack(masked_crc32c(data))):
            self._file.write(part)
        self._offset += OVERHEAD + len(data)
        return offset, len(data)


def length_from_header(header: bytes | memoryview, available: int, path: str, offset: int) -> int:
    """The data length in a frame header, trusted only if checksum and file size agree with it."""
    if len(header) < HEADER.size:
        raise RecordError(f'{path}: cut short inside the header of the record at byte {offset}')
    length, crc = HEADER.unpack(header)
    if crc != masked_crc32c(header[:8]):
        raise RecordError(
            f'{path}: damaged length (checksum differs) of the record at byte {offset}'
        )
    if length + OVERHEAD > available:
        raise RecordError(
            f'{path}: cut short inside the record at byte {offset}: {length + OVERHEAD} bytes '
            f'wanted, {available} left'
        )
    return length


def check_data(data: bytes | memoryview, stored_crc: int, path: str, offset: int) -> None:
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
            length = length_from_header(file.read(HEADER.size, offset), size - offset, path, offset)
            yield offset, length
            offset += OVERHEAD + length


def framed_size(length: int) -> int:
    """Bytes that a record of `length` bytes of data takes in a file."""
    return length + OVERHEAD
