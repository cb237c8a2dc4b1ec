"""Frames of a video file, picked by presentation time, upright, 8-bit RGB (PyAV, FFmpeg).

What is decided here, once, for the converter and for prediction:

* With `frame_rate=r` frame k is what is on screen at `start + k / r`: nothing depends on frame
  numbers, so variable frame rates, missing frames and missing headers do no harm. Without, the
  video's own frames are taken.
* The display rotation is applied, mirroring too. Non-square pixels are not stretched: the stored
  ones are kept.
* Decoding goes on after a damaged packet; what is lost is said in `damage`, never passed over in
  silence.
* Headers (duration, number of frames) are never trusted for more than that message.

Which stream is read and what its timestamps are: see `demuxer`.
"""

from collections.abc import Callable, Iterator
import dataclasses
import os
from typing import Any

import av
import cv2
import numpy as np

from data_pipelines.clip.upright_rgb import upright_rgb
from data_pipelines.videos.decoder import Decoder
from data_pipelines.videos.demuxer import MAX_FRAME_PIXELS, VideoError, unreadable
from data_pipelines.videos.picking import Picking

_MAX_BYTES = 4 << 30  # of the array that read_frames returns


@dataclasses.dataclass(frozen=True)
class DecodedVideo:
    """Frames of one video.

    Attributes:
      frames: u8 [T, H, W, 3], RGB; at least one.
      frame_rate: frames per second.
      timestamps: f64 [T], seconds since the video's beginning.
      damage: empty, or one line saying what could not be decoded: `46 of 112 frames`.
    """

    frames: np.ndarray
    frame_rate: float
    timestamps: np.ndarray
    damage: str


def read_frames(
    path: str | os.PathLike,
    *,
    frame_rate: float | None = None,
    start: float | None = None,
    end: float | None = None,
    short_side: int | None = None,
    max_seconds: float | None = None,
    threads: int = 1,
) -> DecodedVideo:
    """Reads a video, or a part of it, into memory.

    Args:
      path: the file.
      frame_rate: frames per second to pick; None takes the video's own frames.
      start: seconds since the video's beginning; None starts at its first frame.
      end: seconds since the video's beginning, exclusive; None reads to the last frame.
      short_side: pixels of the shorter side, reached by area averaging (shrinking) or bilinearly
        (growing); None keeps the stored size.
      max_seconds: reads at most so much of the video, counted from its start.
      threads: decoder threads; 0 leaves the number to FFmpeg.

    Raises:
      VideoError: the file is missing, empty, unreadable, has no video, no frame in [start, end), or
        too many for memory.
    """
    stream = FrameStream(
        path,
        frame_rate=frame_rate,
        start=start,
        end=end,
        short_side=short_side,
        max_seconds=max_seconds,
        threads=threads,
    )
    frames, timestamps, size = [], [], 0
    for timestamp, frame in stream:
        size += frame.nbytes
        if size > _MAX_BYTES:
            raise VideoError(
                path,
                f'more than {_MAX_BYTES >> 30} GiB of frames of {frame.shape[1]}x{frame.shape[0]}; '
                'lower max_seconds, short_side or frame_rate',
            )
        frames.append(frame)
        timestamps.append(timestamp)
    return DecodedVideo(
        np.stack(frames), stream.frame_rate, np.array(timestamps, np.float64), stream.damage
    )


class FrameStream:
    """The frames of a video one after the other: `for timestamp, frame in FrameStream(path)`.

    Takes the arguments of `read_frames` and raises what it raises (while iterating), but holds
    one frame at a time. With `upscale=False` smaller videos than `short_side` stay as they are. A
    frame that is picked twice in a row (the video is slower than `frame_rate`) is the same array
    object twice. With `convert` other things than pixels are made of the decoded frames.

    Attributes, valid once the first frame is there:
      stated_rate: frames per second by the header.
      stated_seconds: how long the video is by the header; None where it does not say.
    and once the iteration has ended:
      frame_rate: frames per second.
      end: seconds since the video's beginning at which the last frame leaves the screen.
      damage: as in `DecodedVideo`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        short_side: int | None = None,
        upscale: bool = True,
        threads: int = 1,
        silence: float | None = None,
        convert: Callable[[av.VideoFrame], Any] | None = None,
        **part: float | None,
    ):
        if short_side is not None and not short_side > 0:
            raise ValueError(f'short_side={short_side}: must be positive')
        self._path, self._threads, self._silence = os.fspath(path), threads, silence
        self._converted = convert or self._pixels
        self._short_side, self._upscale = short_side, upscale
        self._picking = Picking(path, **part)
        self._size: tuple[int, int] | None = None  # output height, width: the first frame decides
        self.damage = ''

    @property
    def frame_rate(self) -> float:
        return self._picking.frame_rate

    @property
    def end(self) -> float:
        return self._picking.end

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        given = 0
        try:
            # Of a damaged video FFmpeg loses more with several threads: then one begins anew.
            for threads in dict.fromkeys((self._threads, 1)):
                with Decoder(self._path, threads, self._silence) as decoder:
                    self.stated_rate = decoder.stated_rate
                    self.stated_seconds = decoder.packets.stated_seconds
                    frames = self._picking.frames_of(decoder, self._convert)
                    for number, frame in enumerate(frames):
                        if threads != 1 and decoder.is_damaged:
                            break
                        if number >= given:
                            given += 1
                            yield frame
                    self.damage = decoder.damage()
                    if not decoder.is_damaged:
                        return
        except (av.error.FFmpegError, EOFError) as error:
            raise unreadable(self._path, error) from error

    def _convert(self, frame: av.VideoFrame) -> Any:
        if frame.width * frame.height > MAX_FRAME_PIXELS:
            raise VideoError(
                self._path, f'frames of {frame.width}x{frame.height}: too large to be true'
            )
        return self._converted(frame)

    def _pixels(self, frame: av.VideoFrame) -> np.ndarray:
        """A decoded frame as upright RGB of the output size, u8 [H, W, 3]."""
        image = upright_rgb(frame)
        if self._size is None:
            self._size = output_size(*image.shape[:2], self._short_side, self._upscale)
            if self._size[0] * self._size[1] > MAX_FRAME_PIXELS:  # of a thin strip, magnified
                raise VideoError(
                    self._path,
                    f'frames of {frame.width}x{frame.height} would become '
                    f'{self._size[1]}x{self._size[0]}: too large',
                )
        return np.ascontiguousarray(resized(image, self._size))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image [H, W, 3] of `size`, (height, width): averaged where it shrinks, else bilinear."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=method)


def output_size(
    height: int, width: int, short_side: int | None, upscale: bool = True
) -> tuple[int, int]:
    """Height and width after the shorter side has become `short_side` (None: as they are)."""
    shorter = min(height, width)
    if short_side is None or (shorter < short_side and not upscale):
        return height, width
    return max(1, round(height * short_side / shorter)), max(1, round(width * short_side / shorter))
