"""Windows that slide over a video: each is sampled as if it were a video of its own.

The video is decoded once, from its beginning to its end, and only the frames of the windows under
way are held: memory does not grow with its length, which may be without end.
"""

from collections import deque
from collections.abc import Iterator
import os
import re
from typing import NamedTuple

from data_pipelines.videos.decoder import TIME_TOLERANCE
from data_pipelines.videos.picking import likely_rate
from data_pipelines.videos.sources import VideoError
from data_pipelines.videos.video_file import FrameStream
from data_pipelines.videos.video_views import ShownFrame, ViewRules, Views, views_of

_MOST_DECODED = 256 << 20  # bytes of decoded frames; of more only the clips' pixels are held
_MOST_HELD = 2 << 30  # bytes
_LENGTH = re.compile(r'(?P<number>\d+(\.\d*)?|\.\d+)(?P<unit>s|f)?')


class Length(NamedTuple):
    """A length of video: seconds, or a number of its own frames; the other one is None."""

    seconds: float | None = None
    frames: int | None = None

    @classmethod
    def parse(cls, text: str) -> 'Length':
        """`2.5` or `2.5s`: seconds; `64f`: frames.

        Raises:
          ValueError: it is neither, or not positive.
        """
        match = _LENGTH.fullmatch(text.strip())
        if match is None or not float(match['number']) > 0:
            raise ValueError(f'{text!r} is no length; write 2.5 or 2.5s (seconds), or 64f (frames)')
        if match['unit'] != 'f':
            return cls(seconds=float(match['number']))
        if not match['number'].isdecimal():
            raise ValueError(f'{text!r}: frames are counted, such as 64f')
        return cls(frames=int(match['number']))

    def __str__(self) -> str:
        return f'{self.frames}f' if self.seconds is None else f'{self.seconds:g}s'


def check_units(length: Length, stride: Length) -> None:
    """
    Raises:
      ValueError: one counts frames, the other seconds.
    """
    if (length.frames is None) != (stride.frames is None):
        raise ValueError(f'window {length} and stride {stride}: both in seconds, or in frames')


class Window(NamedTuple):
    """A part of a video.

    Attributes:
      start, end: seconds since the beginning of the video. The last window ends with the video.
      views: of each sampling.
    """

    start: float
    end: float
    views: tuple[Views, ...]


class Windows:
    """`for window in Windows(path, ...)`.

    At the end of the video a shorter window follows where frames would be left over. A window in
    which no frame appears, as in a gap, is left out.

    Attributes, valid once the first window is there:
      stated_seconds: how long the video is by its header; None where it does not say.
    and once the iteration has ended:
      end: seconds at which the last frame leaves the screen.
      frame_rate: frames per second.
      damage: empty, or one line saying what of the video could not be decoded.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        rules: ViewRules,
        length: Length,
        stride: Length | None = None,
        *,
        threads: int = 1,
        silence: float | None = None,
    ):
        """
        Args:
          path: the video, see `sources.open_source`.
          rules: which clips are made of each window.
          length: of a window.
          stride: from one window to the next, counted as `length` is; None: as long as a window.
          threads: of the decoder; 0 leaves the number to FFmpeg.
          silence: as for `sources.open_source`.

        Raises:
          ValueError: one of length and stride counts frames, the other seconds.
          VideoError: (while iterating) the video cannot be read.
        """
        stride = stride or length
        check_units(length, stride)
        self._path, self._rules = path, rules
        self._length, self._stride = length, stride
        self._stream = FrameStream(
            path, threads=threads, silence=silence, convert=lambda frame: frame
        )
        self.end, self.damage = float('nan'), ''

    @property
    def frame_rate(self) -> float:
        return self._stream.frame_rate

    @property
    def stated_seconds(self) -> float | None:
        return self._stream.stated_seconds

    def __iter__(self) -> Iterator[Window]:
        held: deque[ShownFrame] = deque()
        number, count, covered = 0, 0, 0  # of the next window; frames seen, and in some window
        origin, size = 0.0, 0
        for seconds, frame in self._stream:
            origin = seconds if not count else origin
            while self._is_over(number, seconds - origin, count):
                if (window := self._made(held, number, origin, count, seconds)) is not None:
                    yield window
                    covered = count
                number += 1
                first = count - len(held)
                while held and self._is_before(number, held[0].seconds - origin, first):
                    size -= held.popleft().size
                    first += 1
            if not self._is_before(number, seconds - origin, count):
                held.append(ShownFrame(seconds, frame, self._rules, hold=size < _MOST_DECODED))
                size += held[-1].size
            count += 1
            if size > _MOST_HELD:
                raise VideoError(
                    self._path,
                    f'a window of {self._length} has frames of more than {_MOST_HELD >> 30} GiB; '
                    'give a shorter one',
                )
        self.end, self.damage = self._stream.end, self._stream.damage
        if count > covered:
            window = self._made(held, number, origin, count, self.end)
            if window is not None:
                yield window._replace(end=self.end)

    def _is_over(self, number: int, elapsed: float, count: int) -> bool:
        """Whether a window ends before frame `count`, which appears after `elapsed` seconds."""
        if self._length.frames is not None:
            return count >= number * self._stride.frames + self._length.frames
        end = number * self._stride.seconds + self._length.seconds
        return elapsed >= end - TIME_TOLERANCE

    def _is_before(self, number: int, elapsed: float, frame: int) -> bool:
        """Whether a frame comes before a window begins."""
        if self._length.frames is not None:
            return frame < number * self._stride.frames
        return elapsed < number * self._stride.seconds - TIME_TOLERANCE

    def _made(
        self, held: deque[ShownFrame], number: int, origin: float, count: int, after: float
    ) -> Window | None:
        """The window of the frames held, if it has any. `after`: when the frame after appears."""
        first = count - len(held)
        frames = [
            frame
            for place, frame in enumerate(held)
            if not self._is_before(number, frame.seconds - origin, first + place)
        ]
        if not frames:
            return None
        if self._length.frames is not None:
            start, end = frames[0].seconds, after
        else:
            start = origin + number * self._stride.seconds
            end = start + self._length.seconds
        elapsed, stated = frames[-1].seconds - frames[0].seconds, self._stream.stated_rate
        rate = likely_rate((len(frames) - 1) / elapsed, stated) if elapsed > 0 else stated
        own = dict(enumerate(frames))
        views = (views_of(own, numbers) for numbers in self._rules.numbers(len(frames), rate))
        return Window(start, end, tuple(views))
