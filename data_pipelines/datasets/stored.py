"""The frames of a record, stored as `image/format` says, as JPEG where that is missing."""

import abc
from collections.abc import Iterable, Sequence
import os

from data_pipelines.clip import decode
from data_pipelines.storage.frame_index import StoredFrames
from data_pipelines.storage.sequence_example import (
    FORMAT_H264,
    FORMAT_LINK,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    KEY_FRAME_INTERVAL,
    Example,
    RecordError,
    encoded_frames,
    image_format,
    int_feature,
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
        self._key_frame_interval = int_feature(example, KEY_FRAME_INTERVAL, where)
        if self._key_frame_interval > _MAX_KEY_FRAME_INTERVAL:
            raise RecordError(f'{where}: a key frame every {self._key_frame_interval} frames only')
        self._size = tuple(
            int_feature(example, name, where) for name in (IMAGE_HEIGHT, IMAGE_WIDTH)
        )

    def __len__(self) -> int:
        return len(self._encoded)

    def fetch(self, numbers: Iterable[int]) -> decode.Frames:
        from data_pipelines.clip import packets  # brings PyAV, which other records do not need

        found = _fetch(self._encoded, packets.needed(numbers, self._key_frame_interval))
        return packets.PacketFrames(found, self._key_frame_interval, self._size)


class Linked(RecordFrames):
    """Frames that stay in a video file, see `datasets.videos`."""

    def __init__(self, example: Example, where: str, video_root: str | os.PathLike | None):
        from data_pipelines.datasets.videos import Link  # likewise

        self._link, self._root, self._where = Link(example, where), video_root, where

    def __len__(self) -> int:
        return len(self._link)

    def fetch(self, numbers: Iterable[int]) -> decode.Frames:
        """Raises ValueError, too: nobody said where the videos are."""
        if self._root is None:
            raise ValueError(f'{self._where}: links to a video; give video_root, where these are')
        return self._link.open(os.fspath(self._root))


def frames_of(
    example: Example, where: str = 'record', video_root: str | os.PathLike | None = None
) -> RecordFrames:
    """The frames of a record; none is decoded yet.

    Args:
        example: the record.
        where: what to call it in an error.
        video_root: the directory of the videos that records link to.

    Raises:
        RecordError: it has no frames, or they are stored in a way that is not known here.
    """
    stored = image_format(example, where)
    if stored == FORMAT_LINK:
        return Linked(example, where, video_root)
    if stored == FORMAT_H264:
        return Packets(example, where)
    return Stills(encoded_frames(example, where))


def _fetch(encoded: Sequence[bytes | memoryview], numbers: Iterable[int]):
    return encoded.read(numbers) if isinstance(encoded, StoredFrames) else encoded
