"""Which frames of a video are taken, by their times: of decoded frames or of a list."""

from collections.abc import Callable, Iterator
import math
import os
from typing import Any, Protocol

from data_pipelines.videos.decoder import TIME_TOLERANCE
from data_pipelines.videos.demuxer import VideoError


class Source(Protocol):
    """What frames are taken from: a `Decoder`, or a `Timeline`.

    Attributes:
      stated_rate: frames per second by the header.
      max_gap: seconds without a frame that are believed.
      first_time: seconds at which the first frame appears; NaN if there was none.
      last_time, last_duration: of the last frame so far, seconds.
      stopped_early: is set when frames are left.
      notes: get what else is to be told as damage.
    """

    stated_rate: float
    max_gap: float
    first_time: float
    last_time: float
    last_duration: float
    stopped_early: bool
    notes: list[str]

    def frames(self, start: float | None) -> Iterator[tuple[float, Any]]:
        """(seconds, frame) from near the start on, in order."""

    def damage(self) -> str:
        """What was lost, as one line."""


def likely_rate(measured: float, stated: float) -> float:
    """Frames per second: a header's are exact, those measured by rounded times nearly so."""
    return stated if abs(measured / stated - 1) < 0.005 else measured


class Picking:
    """Takes the frames of a part of a video, its own ones or at a rate.

    Attributes, valid once frames were taken:
      frame_rate: frames per second.
      end: seconds since the video's beginning at which the last frame leaves the screen.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        frame_rate: float | None = None,
        start: float | None = None,
        end: float | None = None,
        max_seconds: float | None = None,
    ):
        """Arguments and errors: see `video_file.read_frames`."""
        for name, value in (('frame_rate', frame_rate), ('max_seconds', max_seconds)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f'{name}={value}: must be positive')
        if start is not None and not (start >= 0 and math.isfinite(start)):
            raise ValueError(f'start={start}: must not be negative')
        if end is not None and not math.isfinite(end):
            raise ValueError(f'end={end}: must be finite')
        if end is not None and end <= (start or 0.0):
            raise VideoError(path, f'the clip ends ({end} s) before it starts ({start or 0.0} s)')
        self._path = os.fspath(path)
        self._rate, self._start, self._stop = frame_rate, start, end
        self._max_seconds = max_seconds
        self.frame_rate = self.end = math.nan

    def frames_of(
        self, source: Source, convert: Callable[[Any], Any]
    ) -> Iterator[tuple[float, Any]]:
        """Yields (seconds, what `convert` makes of the frame).

        A frame that is taken several times in a row is converted once.

        Raises:
          VideoError: there is no such frame.
        """
        pick = self._own if self._rate is None else self._at_rate
        count = 0
        for timestamp, converted in pick(source, convert):
            count += 1
            yield timestamp, converted
        if not count:
            raise VideoError(self._path, self._why_none(source))

    def _last_time(self, first: float) -> float:
        """Seconds at which reading ends."""
        limits = [math.inf]
        if self._stop is not None:
            limits.append(self._stop)
        if self._max_seconds is not None:
            limits.append((first if self._start is None else self._start) + self._max_seconds)
        return min(limits)

    def _own(self, source: Source, convert: Callable[[Any], Any]) -> Iterator[tuple[float, Any]]:
        """Every frame that appears in [start, stop)."""
        start = -math.inf if self._start is None else self._start
        stop, first, last, count = None, None, None, 0
        for timestamp, frame in source.frames(self._start):
            if timestamp < start - TIME_TOLERANCE:
                continue
            if stop is None:
                first, stop = timestamp, self._last_time(timestamp)
            if timestamp >= stop - TIME_TOLERANCE:
                source.stopped_early = True
                break
            yield timestamp, convert(frame)
            last, count = timestamp, count + 1
        if count:
            self.end = min(stop, last + source.last_duration)
            measured = (count - 1) / (last - first) if last > first else 1 / source.last_duration
            self.frame_rate = likely_rate(measured, source.stated_rate)

    def _at_rate(
        self, source: Source, convert: Callable[[Any], Any]
    ) -> Iterator[tuple[float, Any]]:
        """What is on screen at start + k / rate, for k = 0, 1, ... while that is before stop."""
        origin, stop, count = self._start, None, 0
        shown, image = None, None  # the frame on screen, and its pixels once they were wanted

        for timestamp, frame in source.frames(self._start):
            if origin is None:
                origin = timestamp
            elif shown is None and timestamp - origin > source.max_gap:
                source.notes.append(f'no picture from {origin:.3f} s to {timestamp:.3f} s')
                origin = timestamp
            if stop is None:
                stop = self._last_time(origin)
                if timestamp >= stop - TIME_TOLERANCE:
                    break
            # The frame shown so far serves every pick before the new one appears. The very first
            # frame also serves the picks before it: nothing else is ever on screen then.
            leaves = min(timestamp, stop) - TIME_TOLERANCE
            while shown is not None and (wanted := origin + count / self._rate) < leaves:
                image = convert(shown) if image is None else image
                yield wanted, image
                count += 1
            if origin + count / self._rate >= stop - TIME_TOLERANCE:
                source.stopped_early = True
                break
            shown, image = frame, None
        else:
            if shown is None:
                return
            finish = min(stop, source.last_time + source.last_duration)
            while (wanted := origin + count / self._rate) < finish - TIME_TOLERANCE:
                image = convert(shown) if image is None else image
                yield wanted, image
                count += 1
        self.frame_rate = float(self._rate)
        if count:
            self.end = min(stop, origin + count / self._rate)

    def _why_none(self, source: Source) -> str:
        """Why no frame was found."""
        start, stop = self._start or 0, self._last_time(0.0)
        if math.isnan(source.last_time):
            return 'no frame can be decoded'
        if source.first_time >= stop - TIME_TOLERANCE:
            return (
                f'no frame between {start:g} s and {stop:g} s: the first appears at '
                f'{source.first_time:.3f} s'
            )
        if source.stopped_early:
            return (
                f'no frame appears between {start:g} s and {stop:g} s; the next one does at '
                f'{source.last_time:.3f} s'
            )
        finish = source.last_time + source.last_duration
        if damage := source.damage():
            return f'no frame at or after {start:g} s (reading ended at {finish:.3f} s: {damage})'
        return f'no frame at or after {start:g} s (the video ends at {finish:.3f} s)'
