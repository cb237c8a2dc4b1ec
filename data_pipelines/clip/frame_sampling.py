"""Which stored frames make a clip: arithmetic only, no files.

Frame numbers count stored frames from 0. The strided rules are MultiTrain's (its `decoder.py`
with offset sampling, the paper's setting), the uniform rules those of its Something-Something
reader. Both repeat frames of a video that is too short, so a clip always has the asked number of
frames.
"""

import math
from typing import Literal, NamedTuple

import numpy as np

_SAME_STEP = 0.002  # of one frame: television's 1000/1001 is as good as none


def clip_span(
    num_frames: int, stride: float, stored_rate: float | None, target_rate: float | None
) -> float:
    """Length of a strided clip, in stored frames (may be fractional).

    `stride` counts frames of a video of `target_rate` frames a second, so the clip lasts
    `num_frames * stride / target_rate` seconds whatever rate was stored. `target_rate=None`:
    `stride` counts stored frames as they are. A step of one stored frame to within 0.2 %, such as
    at 29.97 of 30 frames a second, is one: the whole part of a smaller one, which the reference
    takes, is that of the first frame twice.

    Raises:
        ValueError: `target_rate` is given but the stored rate is unknown or not positive.
    """
    if target_rate is None:
        return float(num_frames * stride)
    if stored_rate is None or not stored_rate > 0:
        raise ValueError(
            f'the stored frame rate is {stored_rate}, but target_frame_rate={target_rate} '
            'needs it: convert with a frame rate, or count stored frames: target_frame_rate=None'
        )
    # The reference's order of operations: another one rounds differently.
    span = num_frames * stride / target_rate * stored_rate
    return float(num_frames) if abs(span / num_frames - 1) <= _SAME_STEP else span


def strided_frames(start: float, span: float, num_frames: int, num_stored: int) -> np.ndarray:
    """Numbers of `num_frames` frames from `start` to `start + span - 1`, both included.

    The step is `(span - 1) / (num_frames - 1)`, a little more than the nominal stride (95/31 for
    32 x 3). Numbers past either end of the video are moved to its first or last frame.

    Returns:
        i64[T]
    """
    _check_counts(num_frames, num_stored)
    # float32 as in the reference: in rare cases float64 falls on the other side of a whole number.
    numbers = np.linspace(start, start + span - 1, num_frames, dtype=np.float32)  # [T]
    return np.clip(numbers, 0, num_stored - 1).astype(np.int64)


def random_strided_frames(
    rng: np.random.Generator, num_stored: int, num_frames: int, span: float
) -> np.ndarray:
    """Training clip: `strided_frames` from a random whole start, all starts equally likely.

    (The reference truncates a real start drawn below the last one, so it never takes the last
    possible clip.)

    Returns:
        i64[T]
    """
    last_start = max(int(num_stored - span), 0)
    return strided_frames(int(rng.integers(last_start + 1)), span, num_frames, num_stored)


def strided_views(num_stored: int, num_frames: int, span: float, num_views: int) -> np.ndarray:
    """Test clips spread evenly over the video; a single one is taken from its centre.

    Returns:
        i64[V, T]
    """
    _check_counts(num_frames, num_stored)
    if num_views < 1:
        raise ValueError(f'temporal views must be at least 1, got {num_views}')
    slack = max(num_stored - span, 0)
    if num_views == 1:
        starts = [math.floor(slack / 2)]
    else:
        starts = [view * math.floor(slack / (num_views - 1)) for view in range(num_views)]
    return np.stack([strided_frames(start, span, num_frames, num_stored) for start in starts])


class Sampling(NamedTuple):
    """How frames of a video make its test clips; see `data_pipelines.options.DatasetOptions`."""

    rule: Literal['strided', 'uniform']
    stride: int = 1
    target_frame_rate: float | None = None

    def views(
        self, num_stored: int, num_frames: int, frame_rate: float, temporal_views: int
    ) -> np.ndarray:
        """Frame numbers of the test clips of a video: i64[V, T]; V is 1 of the uniform rule."""
        if self.rule == 'uniform':
            return uniform_frames(num_stored, num_frames)[np.newaxis]
        span = clip_span(num_frames, self.stride, frame_rate, self.target_frame_rate)
        return strided_views(num_stored, num_frames, span, temporal_views)


def key_frame_clip(key_frame: int, span: float, num_frames: int, num_stored: int) -> np.ndarray:
    """Clip around a key frame, at a fixed step of `span / num_frames` frames.

    The rule of PySlowFast's AVA reader: the clip starts half its length before the key frame, which
    so is frame `num_frames // 2` of an even number. Numbers past either end of the video are moved
    to its first or last frame.

    Args:
        key_frame: its number among the stored frames.
        span: length of the clip in stored frames, see `clip_span`.
        num_frames: T.
        num_stored: frames of the video.

    Returns:
        i64[T]
    """
    _check_counts(num_frames, num_stored)
    steps = np.floor(np.arange(num_frames) * (span / num_frames)).astype(np.int64)  # [T]
    return np.clip(key_frame - math.floor(span / 2) + steps, 0, num_stored - 1)


def _segments(num_stored: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last (inclusive) frame of each of `num_frames` equal segments of the video."""
    _check_counts(num_frames, num_stored)
    segment = float(num_stored - 1) / num_frames
    edges = np.round(segment * np.arange(num_frames + 1)).astype(np.int64)  # halves to even
    return edges[:-1], edges[1:]


def random_uniform_frames(rng: np.random.Generator, num_stored: int, num_frames: int) -> np.ndarray:
    """Training clip of direction-sensitive data: a random frame of each equal segment of the video.

    Returns:
        i64[T]
    """
    first, last = _segments(num_stored, num_frames)
    return rng.integers(first, last, endpoint=True)  # [T]


def uniform_frames(num_stored: int, num_frames: int) -> np.ndarray:
    """Test clip of direction-sensitive data: the middle frame of each equal segment of the video.

    Returns:
        i64[T]
    """
    first, last = _segments(num_stored, num_frames)
    return (first + last) // 2  # [T]


def _check_counts(num_frames: int, num_stored: int) -> None:
    if num_stored < 1:
        raise ValueError('no frames stored')
    if num_frames < 1:
        raise ValueError(f'frames per clip must be at least 1, got {num_frames}')
