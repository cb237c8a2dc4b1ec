"""Clips around moments of a video file, by the rules of clips around key frames of records."""

from collections.abc import Iterator, Sequence
import os
from typing import NamedTuple

import numpy as np

from data_pipelines.clip import crops, decode, frame_sampling
from data_pipelines.videos import decoder, video_file


class Moment(NamedTuple):
    """What a model is shown of a moment.

    Attributes:
        seconds: since the beginning of the video.
        clips: u8[S, T, H, W, 3], one for each crop.
        views: (window, (height, width) of the picture, mirrored) of each crop, as `boxes.in_views`
            takes them.
    """

    seconds: float
    clips: np.ndarray
    views: list[tuple[crops.Window, tuple[int, int], bool]]


class Times(NamedTuple):
    """When frames appear, f64[n] seconds; frames per second; what could not be decoded."""

    seconds: np.ndarray
    frame_rate: float
    damage: str


def video_times(path: str | os.PathLike) -> Times:
    """Decodes a video to learn its times: headers are not to be trusted.

    Raises:
        VideoError: the video cannot be read.
    """
    stream = video_file.FrameStream(path, convert=lambda frame: None)
    seconds = np.array([timestamp for timestamp, _ in stream])
    return Times(seconds, stream.frame_rate, stream.damage)


def video_moments(
    path: str | os.PathLike,
    times: Times,
    moments: Sequence[float],
    *,
    stride: int,
    target_frame_rate: float | None,
    num_frames: int,
    crop_size: int,
    short_side: int,
    spatial_views: int,
) -> Iterator[Moment]:
    """Clips around moments, in order of time. Memory does not grow with the length of the video.

    Args:
        path: the video.
        times: of it.
        moments: seconds; what is on screen then is a key frame.
        stride, target_frame_rate: as in `options.DatasetOptions`.
        num_frames, crop_size, short_side, spatial_views: as of `video_views.ViewRules`.

    Raises:
        VideoError: the video cannot be read.
    """
    span = frame_sampling.clip_span(num_frames, stride, times.frame_rate, target_frame_rate)
    wanted = []
    for seconds in sorted(moments):
        on_screen = (
            int(np.searchsorted(times.seconds, seconds + decoder.TIME_TOLERANCE, side='right')) - 1
        )
        numbers = frame_sampling.key_frame_clip(
            max(0, on_screen), span, num_frames, len(times.seconds)
        )
        wanted.append((seconds, numbers))
    needed = set(np.concatenate([numbers for _, numbers in wanted]).tolist()) if wanted else set()
    kept: dict[int, np.ndarray] = {}
    views: list[tuple[crops.Window, tuple[int, int], bool]] = []
    for number, (_, frame) in enumerate(video_file.FrameStream(path)):
        if number in needed:
            scaled = crops.scaled_size(*frame.shape[:2], short_side)
            corners = crops.crop_corners(*scaled, crop_size, spatial_views)
            windows = [crops.Window(top, left, crop_size, crop_size) for top, left in corners]
            views = [(window, scaled, False) for window in windows]
            resized = decode.resize(frame, scaled)
            crop = [resized[w.top :, w.left :][: w.height, : w.width] for w in windows]
            kept[number] = np.stack(crop)  # [S, H, W, 3]
        while wanted and number >= wanted[0][1].max():
            seconds, numbers = wanted.pop(0)
            yield Moment(seconds, np.stack([kept[n] for n in numbers.tolist()], axis=1), views)
            first = wanted[0][1].min() if wanted else number + 1
            for old in [n for n in kept if n < first]:
                del kept[old]
