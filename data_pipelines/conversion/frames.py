"""Storing the frames of a clip themselves: each as a JPEG, or all as H.264 packets."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from data_pipelines.conversion.h264 import H264Encoder
from data_pipelines.conversion.jpeg import encode_jpeg
from data_pipelines.conversion.options import Storage
from data_pipelines.storage.sequence_example import (
    FORMAT_H264,
    FORMAT_JPEG,
    IMAGE_ENCODED,
    IMAGE_FORMAT,
    KEY_FRAME_INTERVAL,
)
from data_pipelines.videos.demuxer import VideoError
from data_pipelines.videos.image_folder import ImageFolderStream
from data_pipelines.videos.video_file import FrameStream

_MAX_RECORD_BYTES = 3 << 29  # 1.5 GiB: a serialised record must stay below 2 GiB


class StoredClip(NamedTuple):
    """What a record says of a clip's frames.

    Attributes:
      timestamps: seconds since the video's beginning at which each stored frame is shown.
      end: seconds at which the last one leaves the screen.
      frame_rate: stored frames per second.
      size: (height, width) in pixels.
      damage: what of the video was damaged; empty if nothing.
      context: features of the record that say how the frames are stored.
      feature_lists: of the record.
    """

    timestamps: list[float]
    end: float
    frame_rate: float
    size: tuple[int, int]
    damage: str
    context: dict[str, list]
    feature_lists: dict[str, list[bytes]]


class _Encoder(Protocol):
    """Gets the frames of a clip, RGB u8[H, W, 3], one after the other.

    Attributes:
      context: features that say how they are stored.
    """

    context: dict[str, list]

    def encode(self, frame: np.ndarray) -> list[bytes]:
        """What is ready to be stored."""

    def finish(self) -> list[bytes]:
        """The rest."""


class _Jpegs:
    """Each frame as a JPEG; one that comes again is not encoded again."""

    context = {IMAGE_FORMAT: [FORMAT_JPEG]}

    def __init__(self, options: Storage):
        self._quality, self._last, self._encoded = options.quality, None, b''

    def encode(self, frame: np.ndarray) -> list[bytes]:
        if frame is not self._last:
            self._last, self._encoded = frame, encode_jpeg(frame, self._quality)
        return [self._encoded]

    def finish(self) -> list[bytes]:
        return []


class _Packets:
    """All frames as H.264; the first one says how large they are."""

    def __init__(self, options: Storage):
        self.context = {IMAGE_FORMAT: [FORMAT_H264], KEY_FRAME_INTERVAL: [options.gop]}
        self._options, self._encoder = options, None

    def encode(self, frame: np.ndarray) -> list[bytes]:
        if self._encoder is None:
            self._encoder = H264Encoder(
                *frame.shape[:2], crf=self._options.crf, gop=self._options.gop
            )
        return self._encoder.encode(frame)

    def finish(self) -> list[bytes]:
        return self._encoder.finish()


_ENCODERS: dict[str, Callable[[Storage], _Encoder]] = {'jpeg': _Jpegs, 'h264': _Packets}


def store_frames(
    stream: FrameStream | ImageFolderStream, path: str, options: Storage
) -> StoredClip:
    """Encodes the frames of a clip.

    Args:
      stream: gives them.
      path: of the video, for messages.
      options: how to store it.

    Raises:
      VideoError: the video cannot be used.
    """
    encoder = _ENCODERS[options.storage](options)
    encoded: list[bytes] = []
    timestamps, size = [], 0
    for timestamp, frame in stream:
        timestamps.append(timestamp)
        shape = frame.shape[:2]
        ready = encoder.encode(frame)
        encoded += ready
        size += sum(map(len, ready))
        if size > _MAX_RECORD_BYTES:
            raise VideoError(
                path,
                f'more than {_MAX_RECORD_BYTES / 2**30:g} GiB of frames in '
                f'{timestamp - timestamps[0]:.0f} s; '
                'lower max_seconds, short_side or the frame rate',
            )
    encoded += encoder.finish()
    if len(encoded) != len(timestamps):
        raise VideoError(path, f'{len(timestamps)} frames were encoded as {len(encoded)}')
    return StoredClip(
        timestamps,
        stream.end,
        stream.frame_rate,
        shape,
        stream.damage,
        encoder.context,
        {IMAGE_ENCODED: encoded},
    )
