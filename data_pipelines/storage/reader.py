"""Random access to the records of a dataset.

A split `NAME` is a set of shards `NAME-00000-of-00016` in one directory, with an index
(`record_index.py`) and, mostly, one of its frames (`frame_index.py`). A shard is a plain
TFRecord file (`tfrecord.py`); each record is a serialised `tf.train.SequenceExample`
(`sequence_example.py`).
"""

import bisect
import contextlib
import functools
import itertools
import os
import threading

from data_pipelines import files
from data_pipelines.storage.frame_index import StoredFrames, load_frame_index
from data_pipelines.storage.record_index import RecordIndex, open_index
from data_pipelines.storage.sequence_example import (
    IMAGE_ENCODED,
    Example,
    RecordError,
    decode_clip,
    decode_sequence_example,
)
from data_pipelines.storage.tfrecord import CRC, HEADER, OVERHEAD, check_data, length_from_header

_MAX_OPEN_SHARDS = 128  # per reader: leaves room under the usual limit of 1024 open files


class ShardReader:
    """The records of some TFRecord files: `reader[i]` by number, from any thread."""

    def __init__(self, directory: str | os.PathLike, index: RecordIndex):
        """Opens the files of `index`, whose names are relative to `directory`, or absolute."""
        self.index = index
        self._paths = [files.join(directory, name) for name in index.shards]
        # The number of each shard's first record.
        self._first = list(itertools.accumulate(index.counts, initial=0))
        self._files: dict[int, files.RandomAccessFile] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.index.offsets)

    def shard_of(self, record: int) -> str:
        """Name of the shard that holds a record."""
        return self.index.shards[self._shard_number(record)]

    def where(self, record: int) -> str:
        """A record's place in words, for messages: file, byte offset, number."""
        path = self._paths[self._shard_number(record)]
        return f'{path}: record at byte {self.index.offsets[record]} (number {record} of the split)'

    def read(self, record: int) -> memoryview:
        """Data of record number `record`, checksums checked.

        Raises:
          RecordError: the record is damaged, or is not where the index says.
          IndexError: there is no such number.
        """
        shard = self._shard_number(record)
        path = self._paths[shard]
        offset, length = int(self.index.offsets[record]), int(self.index.lengths[record])
        # A view, so that the megabytes of a record are copied once, from the file.
        frame = memoryview(self._pread(shard, length + OVERHEAD, offset))
        if length_from_header(frame[: HEADER.size], len(frame), path, offset) != length:
            raise RecordError(
                f'{path}: the record at byte {offset} has another length than the index says; '
                'delete the index and it is built anew'
            )
        data = frame[HEADER.size : -CRC.size]
        check_data(data, CRC.unpack(frame[-CRC.size :])[0], path, offset)
        return data

    def read_part(self, record: int, start: int, count: int) -> memoryview:
        """`count` bytes of a record's data from `start`, unchecked; fewer where its file ends."""
        offset = int(self.index.offsets[record]) + HEADER.size + start
        return memoryview(self._pread(self._shard_number(record), count, offset))

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
        return bisect.bisect_right(self._first, record) - 1

    def _pread(self, shard: int, count: int, offset: int) -> bytes:
        file, path = self._files.get(shard), self._paths[shard]
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

    Uses `NAME.index`. When there is none it is built by one pass over the headers and, where the
    directory can be written, saved for the next time. `NAME.frames` is used where it is.
    """

    def __init__(self, directory: str | os.PathLike, split: str):
        """Opens a split.

        Args:
          directory: where the shards lie.
          split: their common name, the `train` of `train-00000-of-00016`.

        Raises:
          RecordError: no or missing shards, or an index that does not belong to them.
        """
        super().__init__(directory, open_index(directory, split))
        # Not of remote shards: the bytes that it saves are worth less than the requests that it
        # adds.
        self._frames = (
            None if files.is_remote(directory) else load_frame_index(directory, split, self.index)
        )

    def read_clip(self, record: int) -> Example:
        """A record as a clip: its context, and its frames, read and checked when they are asked
        for.

        Without `NAME.frames`, or if that says nothing of this record, all of the record is read and
        checked now.

        Raises:
          RecordError: the record is damaged, is not where the index says, or is no SequenceExample.
        """
        places = () if self._frames is None else self._frames.places(record)
        if not len(places):
            return decode_clip(self.read(record), self.where(record))
        frames = StoredFrames(
            places,
            int(self.index.lengths[record]),
            functools.partial(self.read_part, record),
            functools.partial(self.where, record),
        )
        context = decode_sequence_example(frames.context(), self.where(record))
        return Example(context.context, {IMAGE_ENCODED: frames})
