"""Where the frames of every record lie, and a checksum of each: a clip is read without the rest of
its record.

`NAME.frames`, beside `NAME.index`. Format, version 1: a line of JSON ::

    {"format": "multitrain frame index", "version": 1, "records": R, "places": P,
     "shards": [as in NAME.index]}

then, little-endian, P places of three u32 (offset in the record's data, bytes, masked CRC32C of
these bytes), then R u32, the number of places of each record. A record's first place is its context
(bytes that are a SequenceExample of nothing but that), the others are its encoded frames, in order.
A record whose frames were not found has no places: it is read whole.
"""

from collections.abc import Callable, Iterable, Sequence
import json
import os

import numpy as np

from data_pipelines import files
from data_pipelines.storage import lazy_frames
from data_pipelines.storage.record_index import RecordIndex, header_of, parse_header
from data_pipelines.storage.sequence_example import IMAGE_ENCODED, RecordError
from data_pipelines.storage.tfrecord import masked_crc32c

_KIND = 'frame index'
_PLACE = np.dtype(('<u4', 3))
_COUNT = np.dtype('<u4')
_MAX_GAP = 1 << 18  # bytes between frames that are read along: a request costs more than they do


def frame_index_path(directory: str | os.PathLike, split: str) -> str:
    return files.join(directory, f'{split}.frames')


def find_places(data: memoryview) -> np.ndarray:
    """u32[1 + frames, 3], the places of a record; none if its layout is unusual.

    `data` is taken as sound.
    """
    try:
        context, frames = lazy_frames.split_example(data, IMAGE_ENCODED.encode())
        found = [context, *(frames.place(number) for number in range(len(frames)))]
    except (lazy_frames.UnusualLayout, ValueError):
        return np.zeros(0, _PLACE)
    return np.array(
        [(start, end - start, masked_crc32c(data[start:end])) for start, end in found], '<u4'
    )


def save_frame_index(
    path: str | os.PathLike, index: RecordIndex, places: Sequence[np.ndarray]
) -> None:
    """Writes a frame index, atomically.

    Args:
        path: the file.
        index: of the records.
        places: u32[n, 3] of each record, see `find_places`.

    Raises:
        OSError: it cannot be written.
    """
    counts = np.array([len(own) for own in places], _COUNT)
    header = header_of(_KIND, index, places=int(counts.sum(dtype=np.int64)))
    files.write_atomically(
        path, json.dumps(header).encode() + b'\n', *map(memoryview, places), counts.tobytes()
    )


class FrameIndex:
    """An open frame index. Places are read when asked for: they may be a gigabyte."""

    def __init__(self, path: str | os.PathLike, index: RecordIndex):
        """Opens the file `path`, which is to belong to the records of `index`.

        Raises:
            RecordError: it is damaged, of another version, or of other records.
            FileNotFoundError: there is none.
        """
        remedy = (
            f'delete it, or write it anew: python -m data_pipelines.index {os.path.dirname(path)}'
        )
        with open(path, 'rb') as file:
            line = file.readline()
            size = file.seek(0, os.SEEK_END)

        def parse(header: dict) -> tuple[list[dict], int, int]:
            return header['shards'], int(header['records']), int(header['places'])

        shards, records, places = parse_header(_KIND, line, parse, path, remedy)
        if shards != header_of(_KIND, index)['shards'] or records != len(index.offsets):
            raise RecordError(
                f'{path}: out of date: it is the frame index of other shards; {remedy}'
            )
        if size != len(line) + places * _PLACE.itemsize + records * _COUNT.itemsize:
            raise RecordError(f'{path}: damaged: not of the size that it states; {remedy}')
        self._begin, self._file = len(line), files.open_random_access(path)
        counts = np.frombuffer(
            self._file.read(records * _COUNT.itemsize, len(line) + places * _PLACE.itemsize), _COUNT
        )
        self._first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        if self._first[-1] != places:
            raise RecordError(f'{path}: damaged: not of as many places as it states; {remedy}')

    def places(self, record: int) -> np.ndarray:
        """u32[n, 3], see `find_places`."""
        first, end = self._first[record : record + 2].tolist()
        data = self._file.read(
            (end - first) * _PLACE.itemsize, self._begin + first * _PLACE.itemsize
        )
        return np.frombuffer(data, _PLACE)

    def __del__(self):
        if hasattr(self, '_file'):
            self._file.close()


def load_frame_index(
    directory: str | os.PathLike, split: str, index: RecordIndex
) -> FrameIndex | None:
    """Opens `NAME.frames`; None when there is none. Raises RecordError as `FrameIndex` does."""
    try:
        return FrameIndex(frame_index_path(directory, split), index)
    except FileNotFoundError:
        return None


class StoredFrames(Sequence):
    """The encoded frames of a record, which stay in its file until they are asked for."""

    def __init__(
        self,
        places: np.ndarray,
        length: int,
        read: Callable[[int, int], memoryview],
        where: Callable[[], str],
    ):
        """
        Args:
            places: u32[1 + frames, 3] of the record.
            length: bytes of the record's data.
            read: gives (offset in the record's data, count) -> bytes, fewer at the end of the file.
            where: gives the record's place in words.
        """
        self._places, self._length, self._read, self._where = places, length, read, where

    def __len__(self) -> int:
        return len(self._places) - 1

    def __getitem__(self, number: int) -> memoryview:
        """Bytes of one frame; raises as `read`."""
        if not 0 <= number < len(self):
            raise IndexError(f'frame {number} of {len(self)}')
        return self.read([number])[number]

    def context(self) -> memoryview:
        """Bytes that are a SequenceExample of nothing but the context; raises as `read`."""
        offset, count, crc = self._places[0].tolist()
        return self._checked(self._part(offset, count), crc, 'context')

    def read(self, numbers: Iterable[int]) -> dict[int, memoryview]:
        """Bytes of some frames, by number, in as few requests as pay.

        Raises:
            RecordError: a checksum differs, or the frame index points past the end of the record.
        """
        wanted = sorted(set(numbers))
        found, places = {}, self._places[1:][wanted].tolist()
        first = 0
        while first < len(places):
            begin, count, _ = places[first]
            last, end = first, begin + count
            while last + 1 < len(places) and places[last + 1][0] - end <= _MAX_GAP:
                last += 1
                end = max(end, sum(places[last][:2]))
            data = self._part(begin, end - begin)
            for number, (offset, count, crc) in zip(
                wanted[first : last + 1], places[first : last + 1]
            ):
                part = data[offset - begin : offset - begin + count]
                found[number] = self._checked(part, crc, f'frame {number}')
            first = last + 1
        return found

    def _part(self, offset: int, count: int) -> memoryview:
        if offset + count > self._length:  # Before memory is asked for.
            raise RecordError(
                f'{self._where()}: the frame index is damaged, it points past the end of the record'
            )
        return self._read(offset, count)

    def _checked(self, data: memoryview, crc: int, name: str) -> memoryview:
        if masked_crc32c(data) != crc:
            raise RecordError(
                f'{self._where()}: damaged {name} (its checksum in the frame index differs)'
            )
        return data
