"""Storing the frames of a clip themselves: each as a JPEG, or all as H.264 packets."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

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


def _jpegs(frames: Iterable[np.ndarray], options: Storage) -> Iterator[bytes]:
    """Each frame as a JPEG; one that comes again is not encoded again."""
    last, encoded = None, b''
    for frame in frames:
        if frame is not last:
            last, encoded = frame, encode_jpeg(frame, options.quality)
        yield encoded


def _packets(frames: Iterable[np.ndarray], options: Storage) -> Iterator[bytes]:
    """All frames as H.264; the first one says how large they are."""
    encoder = None
    for frame in frames:
        if encoder is None:
            encoder = H264Encoder(*frame.shape[:2], crf=options.crf, gop=options.gop)
        yield from encoder.encode(frame)
    yield from encoder.finish()


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
    timestamps, encoded, size, shape = [], [], 0, (0, 0)

    def frames() -> Iterator[np.ndarray]:
        nonlocal shape
        for timestamp, frame in stream:
            timestamps.append(timestamp)
            shape = frame.shape[:2]
            yield frame

    if options.storage == 'jpeg':
        encode, context = _jpegs, {IMAGE_FORMAT: [FORMAT_JPEG]}
    else:
        encode = _packets
        context = {IMAGE_FORMAT: [FORMAT_H264], KEY_FRAME_INTERVAL: [options.gop]}
    for data in encode(frames(), options):
        encoded.append(data)
        size += len(data)
        if size > _MAX_RECORD_BYTES:
            raise VideoError(
                path,
                f'more than {_MAX_RECORD_BYTES / 2**30:g} GiB of frames in '
                f'{timestamps[-1] - timestamps[0]:.0f} s; '
                'lower max_seconds, short_side or the frame rate',
            )
    if len(encoded) != len(timestamps):
        raise VideoError(path, f'{len(timestamps)} frames were encoded as {len(encoded)}')
    return StoredClip(
        timestamps,
        stream.end,
        stream.frame_rate,
        shape,
        stream.damage,
        context,
        {IMAGE_ENCODED: encoded},
    )
