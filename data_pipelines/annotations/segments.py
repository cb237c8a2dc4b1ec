"""Untrimmed videos with several labels at a time -> clips: Charades, MultiTHUMOS."""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import NamedTuple

from data_pipelines.annotations import Clip
from data_pipelines.annotations.format import Option

CLIPS = ('videos', 'segments', 'windows')
WINDOW_SECONDS = 10.0
_COVERED = 0.5  # of a clip, which a segment must cover to give it its label


class Segment(NamedTuple):
    """An action: its class, and its start and end in seconds."""

    label: int
    start: float
    end: float


class Video(NamedTuple):
    """A video with all its segments; `seconds`: its length, None where no list says it."""

    path: str
    key: str
    segments: Sequence[Segment]
    seconds: float | None = None


def clips_of(videos: Iterable[Video], clips: str, window: float = WINDOW_SECONDS) -> list[Clip]:
    """Clips of videos with segments.

    Args:
      videos: each once; those without segments give no clip.
      clips: 'videos': whole videos, with the labels of all their segments; 'segments': every
        segment, with its own label and those of segments that cover half of it; 'windows': pieces
        of `window` seconds one after the other, with the labels of segments that lie half in them
        or cover half of them; pieces without labels are left out.
      window: seconds.

    Raises:
      ValueError: there is no such kind of clips, or the windows have no length.
    """
    if clips not in CLIPS:
        raise ValueError(f'clips={clips!r}: wanted one of {", ".join(CLIPS)}')
    if not 0 < window < math.inf:
        raise ValueError(f'window={window}: must be positive seconds')
    return [clip for video in videos for clip in _KINDS[clips](video, window)]


def _whole(video: Video, _: float) -> Iterable[Clip]:
    labels = tuple(sorted({segment.label for segment in video.segments}))
    if labels:
        yield Clip(video.path, video.key, labels)


def _segments(video: Video, _: float) -> Iterable[Clip]:
    for number, segment in enumerate(video.segments):
        length = segment.end - segment.start
        labels = {
            other.label
            for other in video.segments
            if _shared(other, segment.start, segment.end) >= _COVERED * length
        }
        labels = tuple(sorted(labels | {segment.label}))
        yield Clip(video.path, f'{video.key}_{number}', labels, segment.start, segment.end)


def _windows(video: Video, window: float) -> Iterable[Clip]:
    finish = video.seconds or max((segment.end for segment in video.segments), default=0.0)
    for number in range(math.ceil(finish / window - 1e-6)):
        start, end = number * window, min((number + 1) * window, finish)
        labels = {
            segment.label
            for segment in video.segments
            if (shared := _shared(segment, start, end)) > 0
            and shared >= _COVERED * min(end - start, segment.end - segment.start)
        }
        if labels:
            yield Clip(video.path, f'{video.key}_{number}', tuple(sorted(labels)), start, end)


_KINDS = {'videos': _whole, 'segments': _segments, 'windows': _windows}


def _shared(segment: Segment, start: float, end: float) -> float:
    return max(0.0, min(segment.end, end) - max(segment.start, start))


def clip_options(default: str) -> tuple[Option, Option]:
    """Options for the arguments of `clips_of`."""
    return (
        Option(
            '--clips',
            'whole videos with all their labels; every segment, with the labels of segments that '
            f'cover half of it; or windows of --window seconds (default: {default})',
            choices=CLIPS,
            default=default,
        ),
        Option(
            '--window',
            'seconds of a window (default: %(default)s)',
            type=float,
            default=WINDOW_SECONDS,
            metavar='S',
        ),
    )


def note_without_labels(videos: Mapping[str, Sequence[Video]]) -> tuple[str, ...]:
    """A note of the videos that no segment says anything about."""
    count = sum(not video.segments for found in videos.values() for video in found)
    return (f'{count} videos have no label and are left out',) if count else ()
