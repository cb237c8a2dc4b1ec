"""Frames of a video file, picked by presentation time, upright, 8-bit RGB (PyAV, FFmpeg).

What is decided here, once, for the converter and for prediction:

* With `frame_rate=r` frame k is what is on screen at `start + k / r`: nothing depends on frame
  numbers, so variable frame rates, missing frames and missing headers do no harm. Without, the
  video's own frames are taken.
* The display rotation is applied, mirroring too. Non-square pixels are not stretched: the stored ones are kept.
* Decoding goes on after a damaged packet; what is lost is said in `damage`, never passed over in
  silence.
* Headers (duration, number of frames) are never trusted for more than that message.

Which stream is read and what its timestamps are: see `packets`.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import itertools
import math
import os
import struct

import av
from av.video.reformatter import VideoReformatter
import cv2
import numpy as np

from data_pipelines.videos.packets import MAX_FRAME_PIXELS, PacketStream, VideoError

# Matroska and WebM round times to milliseconds: a frame up to half of one late still counts as
# being on screen.
TIME_TOLERANCE = 0.0005  # seconds
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
        ):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f'{name}={value}: must be positive')
        if start is not None and not (start >= 0 and math.isfinite(start)):
            raise ValueError(f'start={start}: must not be negative')
        if end is not None and not math.isfinite(end):
            raise ValueError(f'end={end}: must be finite')
        if end is not None and end <= (start or 0.0):
            raise VideoError(path, f'the clip ends ({end} s) before it starts ({start or 0.0} s)')
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
            raise VideoError(self._path, decoder.why_no_frames(self._last_time(0.0)))

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
            elif shown is None and timestamp - origin > decoder.max_gap:
                decoder.notes.append(f'no picture from {origin:.3f} s to {timestamp:.3f} s')
                origin = timestamp
            if stop is None:
                stop = self._last_time(origin)
                if timestamp >= stop - TIME_TOLERANCE:
                    break
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
        if frame.width * frame.height > MAX_FRAME_PIXELS:
            raise VideoError(
                self._path, f'frames of {frame.width}x{frame.height}: too large to be true'
            )
        # One thread: on frames of usual size the others cost more than they do.
        image = self._to_rgb.reformat(frame, format='rgb24', threads=1).to_ndarray()  # [H, W, 3]
        image = _upright(image, frame)
        if self._size is None:
            self._size = output_size(*image.shape[:2], self._short_side, self._upscale)
            if self._size[0] * self._size[1] > MAX_FRAME_PIXELS:  # of a thin strip, magnified
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

    Attributes, valid once the iteration has ended:
      first_time: seconds at which the first decoded frame appears; NaN if none was decoded.
      last_time, last_duration: of the last decoded frame, seconds.
      stopped_early: to be set when frames are left.
      notes: what else is to be told as damage.
    """

    def __init__(self, path: str, threads: int, start: float | None):
        self._path = path
        self._threads = threads
        self._start = start
        self._packets: PacketStream | None = None
        self.stopped_early = False
        self.notes: list[str] = []

    def __enter__(self) -> '_Decoder':
        return self

    def __exit__(self, *unused) -> None:
        if self._packets is not None:
            self._packets.close()

    @property
    def stated_rate(self) -> float:
        """Frames per second by the header."""
        return self._packets.stated_rate

    @property
    def max_gap(self) -> float:
        """Seconds without a frame that are believed."""
        return self._packets.max_gap

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        sought = self._start is not None and self._start > 1
        for timestamp, frame in self._decode(sought):
            if sought and timestamp > self._start + TIME_TOLERANCE:
                break  # the file's index is wrong, this is past the start: begin at the beginning
            sought = False
            yield timestamp, frame
        if sought:
            yield from self._decode(False)

    def _decode(self, seek: bool) -> Iterator[tuple[float, av.VideoFrame]]:
        """Frames from the beginning; `seek`: from near the start, or none where that is not found."""
        self.__exit__()
        packets = self._packets = PacketStream(self._path)
        packets.stream.codec_context.thread_count = self._threads
        packets.stream.thread_type = 'NONE' if self._threads == 1 else 'AUTO'
        self._expected = 0 if seek else packets.stream.frames
        self._decoded = self._corrupt = self._refused = 0
        self._first_key: int | None = None
        self.first_time = self.last_time = self.last_duration = math.nan
        source, delay = iter(packets), None
        if seek:
            first = next(source, None)
            if first is None or first.dts is None or not packets.has_clock:
                return  # nothing would say where one arrives
            source = itertools.chain([first], source)
            if packets.joinable:
                source = self._from_key_frame(source)
            else:
                if first.pts is None:
                    delay = self._delay(next(self._frames(source), None))
                    self._decoded = self._refused = 0
                try:
                    packets.seek(self._start + (delay or 0) * packets.time_base)
                except av.error.FFmpegError:
                    return
                source = iter(packets)
        best = _BestTimestamp()
        for frame in self._frames(source):
            delay = self._delay(frame) if delay is None else delay
            ticks = best(frame)
            duration = packets.duration(frame.duration)
            if ticks is not None:
                timestamp = packets.seconds(ticks - delay)
            elif not math.isnan(self.last_time):
                timestamp = self.last_time + self.last_duration
            elif seek:
                return
            else:
                timestamp = 0.0
            if math.isnan(self.last_time):
                self.first_time = self.last_time = timestamp
            timestamp = max(timestamp, self.last_time)
            if not frame.duration:
                duration = timestamp - self.last_time or duration
            self.last_time, self.last_duration = timestamp, duration
            if self._start is None or timestamp + duration > self._start:
                self._corrupt += frame.is_corrupt
            yield timestamp, frame

    def _delay(self, first: av.VideoFrame | None) -> int:
        """How much later, in ticks, the first frame is stated than the key frame that it is.

        Where no time of presentation is stated, a frame has the time of the packet that made it
        come out of the decoder: for B-frames a later one than its own.
        """
        if None in (first, self._first_key) or first.pts is not None or first.dts is None:
            return 0
        return first.dts - self._first_key

    def _from_key_frame(self, source: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Leaves out what comes before the last key frame that appears until the start.

        Reads all that comes before it: a seek would believe the file's clock.
        """
        kept = []
        for packet in source:
            if packet.is_keyframe and packet.pts is not None:
                if self._packets.seconds(packet.pts) <= self._start + TIME_TOLERANCE:
                    kept = []
            kept.append(packet)
            if packet.dts is not None and self._packets.seconds(packet.dts) > self._start:
                break
        yield from kept
        yield from source

    def _frames(self, source: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
        for packet in itertools.chain(source, [None]):  # None: what the decoder still holds
            if packet is not None:
                self._expected -= packet.is_discard  # an edit list hides it
                if packet.is_keyframe and self._first_key is None:
                    self._first_key = packet.dts
            try:
                frames = self._packets.stream.decode(packet)
            except av.error.FFmpegError:
                self._refused += packet is None or not packet.is_corrupt  # else it is counted
                continue
            for frame in frames:
                self._decoded += 1
                yield frame

    def damage(self) -> str:
        """What was lost, as one line; empty if nothing: what FFmpeg calls damaged.

        A header's number of frames is told beside that, but is no damage: headers also count
        frames that are skipped, or that were taken out when the file was made.
        """
        notes = list(self.notes)
        packets, jumps = self._packets.damaged + self._refused, self._packets.jumps
        if packets:
            notes.append(f'{packets} damaged packets')
        if self._corrupt:
            notes.append(f'{self._corrupt} damaged frames')
        if notes and not self.stopped_early and self._decoded < self._expected:
            notes.insert(0, f'{self._decoded} of {self._expected} frames')
        if jumps:
            more = f' and {len(jumps) - 1} times more' if jumps[1:] else ''
            notes.append(f'times jump at {jumps[0]:.3f} s{more}; they go on without a gap')
        return ', '.join(notes)

    def why_no_frames(self, stop: float) -> str:
        """Why no frame was found from the start until `stop`, seconds."""
        start = self._start or 0
        if math.isnan(self.last_time):
            return 'no frame can be decoded'
        if self.first_time >= stop - TIME_TOLERANCE:
            return (
                f'no frame between {start:g} s and {stop:g} s: the first appears at '
                f'{self.first_time:.3f} s'
            )
        if self.stopped_early:
            return (
                f'no frame appears between {start:g} s and {stop:g} s; the next one does at '
                f'{self.last_time:.3f} s'
            )
        finish = self.last_time + self.last_duration
        if damage := self.damage():
            return f'no frame at or after {start:g} s (reading ended at {finish:.3f} s: {damage})'
        return f'no frame at or after {start:g} s (the video ends at {finish:.3f} s)'


class _BestTimestamp:
    """Timestamp of each frame, by FFmpeg's rule (its `best_effort_timestamp`).

    That of presentation, but where those fail to rise more often than those of decoding, the
    latter: some programs write invented times.
    """

    def __init__(self):
        self._last_pts = self._last_dts = -math.inf
        self._faulty_pts = self._faulty_dts = 0

    def __call__(self, frame: av.VideoFrame) -> int | None:
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts):
            return pts
        return dts
