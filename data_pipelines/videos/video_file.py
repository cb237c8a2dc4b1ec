"""Frames of a video file, picked by presentation time, upright, 8-bit RGB (PyAV, FFmpeg).

What is decided here, once, for the converter and for prediction:

* Of several video streams the one of the largest resolution is read, as the ffmpeg program does
  (cover art last).
* With `frame_rate=r` frame k is what is on screen at `start + k / r`: nothing depends on frame
  numbers, so variable frame rates, missing frames and missing headers do no harm. Without, the
  video's own frames are taken.
* The display rotation is applied, mirroring too. Non-square pixels are not stretched: the stored ones are kept.
* Decoding goes on after a damaged packet; what is lost is said in `damage`, never passed over in
  silence.
* Headers (duration, number of frames) are never trusted for more than that message.
"""

from collections.abc import Iterator
import dataclasses
import math
import os
import struct

import av
from av.video.reformatter import VideoReformatter
import cv2
import numpy as np

# Matroska and WebM round times to milliseconds: a frame up to half of one late still counts as
# being on screen.
TIME_TOLERANCE = 0.0005  # seconds
_MAX_FRAME_PIXELS = 1 << 26  # 8192 x 8192: beyond that a damaged header is likelier than a video
_MAX_BYTES = 4 << 30  # of the array that read_frames returns
# A title that is no UTF-8 does not matter here: PyAV takes it from version 19 on, and before when it is told to.
_ANY_TITLE = {} if int(av.__version__.partition('.')[0]) >= 19 else {'metadata_errors': 'replace'}


class VideoError(ValueError):
    """A video that cannot be used. The text is one line: file, what is wrong.

    Attributes:
      reason: what is wrong, without the file.
    """

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f'{os.fspath(path)}: {reason}')
        self.reason = reason


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
    one frame at a time. With `upscale=False` smaller videos than `short_side` stay as they are. A frame that is picked twice in a row (the video is slower than
    `frame_rate`) is the same array object twice.

    Attributes, valid once the iteration has ended:
      frame_rate: frames per second.
      end: seconds since the video's beginning at which the last frame leaves the screen.
      damage: as in `DecodedVideo`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        frame_rate: float | None = None,
        start: float | None = None,
        end: float | None = None,
        short_side: int | None = None,
        upscale: bool = True,
        max_seconds: float | None = None,
        threads: int = 1,
    ):
        for name, value in (
            ('frame_rate', frame_rate),
            ('short_side', short_side),
            ('max_seconds', max_seconds),
            ('end', end),
        ):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f'{name}={value}: must be positive')
        if start is not None and not (start >= 0 and math.isfinite(start)):
            raise ValueError(f'start={start}: must not be negative')
        if start is not None and end is not None and end <= start:
            raise VideoError(path, f'the clip ends ({end} s) before it starts ({start} s)')
        self._path = os.fspath(path)
        self._rate = frame_rate
        self._start = start
        self._stop = end
        self._short_side = short_side
        self._upscale = upscale
        self._max_seconds = max_seconds
        self._threads = threads
        self._to_rgb = VideoReformatter()
        self._size: tuple[int, int] | None = None  # output height, width: the first frame decides
        self.frame_rate = math.nan
        self.end = math.nan
        self.damage = ''

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        pick = self._pick_own if self._rate is None else self._pick_at_rate
        count = 0
        try:
            decoder = _Decoder(self._path, self._threads, self._start)
            with decoder:
                for timestamp, frame in pick(decoder):
                    count += 1
                    yield timestamp, frame
                self.damage = decoder.damage()
        except (av.error.FFmpegError, EOFError) as error:
            reason = getattr(error, 'strerror', None) or type(error).__name__
            raise VideoError(self._path, f'empty or unreadable ({reason})') from error
        if not count:
            raise VideoError(self._path, decoder.why_no_frames(self._start))

    def _last_time(self, first: float) -> float:
        """Seconds at which reading ends."""
        limits = [math.inf]
        if self._stop is not None:
            limits.append(self._stop)
        if self._max_seconds is not None:
            limits.append((first if self._start is None else self._start) + self._max_seconds)
        return min(limits)

    def _pick_own(self, decoder: '_Decoder') -> Iterator[tuple[float, np.ndarray]]:
        """Every frame that appears in [start, stop)."""
        start = -math.inf if self._start is None else self._start
        stop, first, last, count = None, None, None, 0
        for timestamp, frame in decoder:
            if timestamp < start - TIME_TOLERANCE:
                continue
            if stop is None:
                first, stop = timestamp, self._last_time(timestamp)
            if timestamp >= stop - TIME_TOLERANCE:
                decoder.stopped_early = True
                break
            yield timestamp, self._convert(frame)
            last, count = timestamp, count + 1
        if count:
            self.end = min(stop, last + decoder.last_duration)
            measured = (count - 1) / (last - first) if last > first else 1 / decoder.last_duration
            # Rounded times make the measured rate a little wrong; the header's is exact where it is
            # right.
            stated = decoder.stated_rate
            self.frame_rate = stated if abs(measured / stated - 1) < 0.005 else measured

    def _pick_at_rate(self, decoder: '_Decoder') -> Iterator[tuple[float, np.ndarray]]:
        """What is on screen at start + k / rate, for k = 0, 1, ... while that is before stop."""
        origin, stop, count = self._start, None, 0
        shown, image = None, None  # the frame on screen, and its pixels once they were wanted

        for timestamp, frame in decoder:
            if origin is None:
                origin = timestamp
            if stop is None:
                stop = self._last_time(origin)
            # The frame shown so far serves every pick before the new one appears. The very first
            # frame also serves the picks before it: nothing else is ever on screen then.
            leaves = min(timestamp, stop) - TIME_TOLERANCE
            while shown is not None and (wanted := origin + count / self._rate) < leaves:
                image = self._convert(shown) if image is None else image
                yield wanted, image
                count += 1
            if origin + count / self._rate >= stop - TIME_TOLERANCE:
                decoder.stopped_early = True
                break
            shown, image = frame, None
        else:
            if shown is None:
                return
            finish = min(stop, decoder.last_time + decoder.last_duration)
            while (wanted := origin + count / self._rate) < finish - TIME_TOLERANCE:
                image = self._convert(shown) if image is None else image
                yield wanted, image
                count += 1
        self.frame_rate = float(self._rate)
        if count:
            self.end = min(stop, origin + count / self._rate)

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        """A decoded frame as upright RGB of the output size, u8 [H, W, 3]."""
        if frame.width * frame.height > _MAX_FRAME_PIXELS:
            raise VideoError(
                self._path, f'frames of {frame.width}x{frame.height}: too large to be true'
            )
        # One thread: on frames of usual size the others cost more than they do.
        image = self._to_rgb.reformat(frame, format='rgb24', threads=1).to_ndarray()  # [H, W, 3]
        image = _upright(image, frame)
        if self._size is None:
            self._size = output_size(*image.shape[:2], self._short_side, self._upscale)
            if self._size[0] * self._size[1] > _MAX_FRAME_PIXELS:  # of a thin strip, magnified
                raise VideoError(
                    self._path,
                    f'frames of {frame.width}x{frame.height} would become '
                    f'{self._size[1]}x{self._size[0]}: too large',
                )
        if image.shape[:2] != self._size:
            shrinks = self._size[0] * self._size[1] < image.shape[0] * image.shape[1]
            image = cv2.resize(
                np.ascontiguousarray(image),
                self._size[::-1],
                interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
            )
        return np.ascontiguousarray(image)


def _upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turns and mirrors pixels [H, W, 3] as the file asks, by the multiple of 90 degrees nearest.

    The display matrix shows pixel (x, y) at (a x + c y, b x + d y) (ISO/IEC 14496-12, tkhd; front
    cameras write mirrored ones).
    """
    data = frame.side_data.get('DISPLAYMATRIX')
    if data is None:
        return image
    a, b, _, c, d, *_ = struct.unpack('=9i', bytes(data)[:36])
    if abs(b) + abs(c) > abs(a) + abs(d):  # x becomes y
        image, down, right = image.swapaxes(0, 1), b, c
    else:
        down, right = d, a
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]


def output_size(
    height: int, width: int, short_side: int | None, upscale: bool = True
) -> tuple[int, int]:
    """Height and width after the shorter side has become `short_side` (None: as they are)."""
    shorter = min(height, width)
    if short_side is None or (shorter < short_side and not upscale):
        return height, width
    return max(1, round(height * short_side / shorter)), max(1, round(width * short_side / shorter))


class _Decoder:
    """Decodes one stream, going on after damage.

    Yields (seconds since the video's beginning, frame); the times never fall.
    """

    def __init__(self, path: str, threads: int, start: float | None):
        if not os.path.exists(path):
            raise VideoError(path, 'no such file')
        if os.path.isdir(path):
            raise VideoError(path, 'a directory, not a video')
        if not os.path.getsize(path):
            raise VideoError(path, 'empty or unreadable (0 bytes)')
        self._path = path
        self._threads = threads
        self._seek_to = start
        self._container = None
        self.last_time = math.nan
        self.last_duration = math.nan
        self.stated_rate = math.nan
        self.stopped_early = False

    def __enter__(self) -> '_Decoder':
        return self

    def __exit__(self, *unused) -> None:
        if self._container is not None:
            self._container.close()

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        sought = self._seek_to is not None and self._seek_to > 1
        for timestamp, frame in self._decode(sought):
            if sought and timestamp > self._seek_to + TIME_TOLERANCE:
                break  # the file's index is wrong, this is past the start: begin at the beginning
            sought = False
            yield timestamp, frame
        if sought:
            yield from self._decode(False)

    def _decode(self, seek: bool) -> Iterator[tuple[float, av.VideoFrame]]:
        self.__exit__()
        self._container = av.open(
            f'file:{self._path}', **_ANY_TITLE
        )  # the prefix: a name may hold a colon
        stream = _largest_stream(self._container, self._path)
        self._expected = 0 if seek else stream.frames
        self._decoded = self._corrupt = self._bad_packets = 0
        stream.codec_context.thread_count = self._threads
        stream.thread_type = 'NONE' if self._threads == 1 else 'AUTO'
        beginning = (self._container.start_time or 0) / av.time_base
        rate = self.stated_rate = float(stream.average_rate or stream.guessed_rate or 25)
        time_base = float(stream.time_base)
        if seek:
            try:
                self._container.seek(int((self._seek_to + beginning) / time_base), stream=stream)
            except av.error.FFmpegError:
                return  # not seekable
        last = None
        for frame in self._frames(stream):
            gap = None
            if frame.pts is None:
                timestamp = 0.0 if last is None else last + 1 / rate
            else:
                timestamp = frame.pts * time_base - beginning
            if last is not None:
                timestamp = max(timestamp, last)
                gap = timestamp - last
            duration = frame.duration * time_base if frame.duration else 0
            self.last_time, self.last_duration = timestamp, duration or gap or 1 / rate
            last = timestamp
            yield timestamp, frame

    def _frames(self, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError:
                self._bad_packets += 1
                packet = None  # the file ends here; what the decoder still holds is worth having
            if packet is not None and packet.is_discard:
                self._expected -= 1  # an edit list hides it
            try:
                frames = stream.decode(packet)
            except av.error.FFmpegError:
                self._bad_packets += 1
                frames = []
            for frame in frames:
                self._decoded += 1
                self._corrupt += frame.is_corrupt
                yield frame
            if packet is None:
                return

    def damage(self) -> str:
        """What was lost, as one line; empty if nothing."""
        notes = []
        if not self.stopped_early and self._decoded < self._expected:
            notes.append(f'{self._decoded} of {self._expected} frames')
        if self._bad_packets:
            notes.append(f'{self._bad_packets} damaged packets')
        if self._corrupt:
            notes.append(f'{self._corrupt} damaged frames')
        return ', '.join(notes)

    def why_no_frames(self, start: float | None) -> str:
        if not self._decoded or math.isnan(self.last_time):
            return 'no frame can be decoded'
        finish = self.last_time + self.last_duration
        return f'no frame at or after {start or 0:g} s (the video ends at {finish:.3f} s)'


def _largest_stream(container: av.container.InputContainer, path: str) -> av.VideoStream:
    streams = container.streams.video
    if not streams:
        raise VideoError(path, 'no video stream')
    cover = av.stream.Disposition.attached_pic

    def preference(stream):
        # Without a decoder a stream has no size.
        pixels = 0 if stream.codec_context is None else (stream.width or 0) * (stream.height or 0)
        return not stream.disposition & cover, pixels, -stream.index

    stream = max(streams, key=preference)
    if stream.codec_context is None:
        raise VideoError(path, 'no decoder for this kind of video')
    if (stream.width or 0) * (stream.height or 0) > _MAX_FRAME_PIXELS:
        raise VideoError(path, f'frames of {stream.width}x{stream.height}: too large to be true')
    return stream
