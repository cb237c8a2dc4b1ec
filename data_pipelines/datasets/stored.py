"""The frames of a record, however they are stored: `image/format` says how, JPEG where it is missing."""

import abc
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.clip import decode
from data_pipelines.clip.packets import PacketFrames, needed
from data_pipelines.storage.frame_index import StoredFrames
from data_pipelines.storage.sequence_example import (
    FORMAT_H264,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    KEY_FRAME_INTERVAL,
    Example,
    RecordError,
    encoded_frames,
    image_format,
)

_MAX_KEY_FRAME_INTERVAL = 1 << 16  # frames


class RecordFrames(abc.ABC):
    """The stored frames of a record; `len()` tells how many."""

    @abc.abstractmethod
    def __len__(self) -> int:
        pass

    @abc.abstractmethod
    def fetch(self, numbers: Iterable[int]) -> decode.Frames:
        """What it takes to decode the frames of these numbers, read and checked.

        Raises:
            RecordError: it is damaged.
        """


class Stills(RecordFrames):
    """Each frame for itself: JPEG or PNG."""

    def __init__(self, encoded: Sequence[bytes | memoryview]):
        """`encoded`: in memory, or still in its file."""
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def fetch(self, numbers: Iterable[int]) -> decode.Frames:
        return _fetch(self._encoded, numbers)


class Packets(RecordFrames):
    """H.264 packets, see `clip.packets`."""

    def __init__(self, example: Example, where: str):
        self._encoded = encoded_frames(example, where)
        self._key_frame_interval = _number(example, KEY_FRAME_INTERVAL, where)
        if self._key_frame_interval > _MAX_KEY_FRAME_INTERVAL:
            raise RecordError(f'{where}: a key frame every {self._key_frame_interval} frames only')
        self._size = tuple(_number(example, name, where) for name in (IMAGE_HEIGHT, IMAGE_WIDTH))

    def __len__(self) -> int:
        return len(self._encoded)

    def fetch(self, numbers: Iterable[int]) -> decode.Frames:
        packets = _fetch(self._encoded, needed(numbers, self._key_frame_interval))
        return PacketFrames(packets, self._key_frame_interval, self._size)


def frames_of(example: Example, where: str = 'record') -> RecordFrames:
    """The frames of a record; none is decoded yet.

    Args:
        example: the record.
        where: what to call it in an error.

    Raises:
        RecordError: it has no frames, or they are stored in a way that is not known here.
    """
    stored = image_format(example, where)
    if stored == FORMAT_H264:
        return Packets(example, where)
    return Stills(encoded_frames(example, where))


def _fetch(encoded: Sequence[bytes | memoryview], numbers: Iterable[int]):
    return encoded.read(numbers) if isinstance(encoded, StoredFrames) else encoded


def _number(example: Example, name: str, where: str) -> int:
    """A context feature that is one positive int64."""
    values = example.context.get(name)
    if not isinstance(values, np.ndarray) or len(values) != 1 or not values[0] >= 1:
        raise RecordError(f'{where}: no context feature {name!r} of one positive number')
    return int(values[0])
