"""Test views straight from a video file, by the rules that test views of records follow."""

from collections.abc import Sequence
import dataclasses
import os
from typing import NamedTuple

import av
import numpy as np

from data_pipelines.clip import decode
from data_pipelines.clip.crops import crop_corners, scaled_size
from data_pipelines.clip.frame_sampling import Sampling
from data_pipelines.clip.upright_rgb import upright_rgb
from data_pipelines.videos.video_file import FrameStream

_MOST_HELD = 256 << 20  # bytes of decoded frames that are held to be picked from


@dataclasses.dataclass(frozen=True)
class ViewRules:
    """Which clips are made of a video, or of a part of it.

    Attributes:
        samplings: each gives clips of its own.
        num_frames: T of a clip.
        crop_size: pixels of a clip's sides.
        short_side: pixels that the frame's short side is resized to before cropping.
        temporal_views: clips along the video; 'uniform' sampling has one.
        spatial_views: 1 (centre) or 3 crops.
    """

    samplings: tuple[Sampling, ...]
    num_frames: int
    crop_size: int
    short_side: int
    temporal_views: int = 1
    spatial_views: int = 1

    def numbers(self, num_frames: int, frame_rate: float) -> list[np.ndarray]:
        """For each sampling i64[V, T]: numbers of the frames of each temporal view."""
        return [
            sampling.views(num_frames, self.num_frames, frame_rate, self.temporal_views)
            for sampling in self.samplings
        ]


class Views(NamedTuple):
    """The clips of one sampling.

    Attributes:
        clips: u8[V, T, H, W, 3], V = temporal times spatial views.
        times: f64[V, 2], seconds at which the first and the last frame of each appear.
    """

    clips: np.ndarray
    times: np.ndarray


class ShownFrame:
    """A decoded frame, which is turned into the pixels that clips show of it when they are asked
    for.

    Attributes:
        seconds: when it appears.
        size: bytes that are held of it, at most.
    """

    __slots__ = ('seconds', 'size', '_rules', '_frame', '_crops')

    def __init__(self, seconds: float, frame: av.VideoFrame, rules: ViewRules, *, hold: bool):
        """`hold`: False turns it at once, so that the decoded frame need not be held."""
        self.seconds, self._frame, self._rules = seconds, frame, rules
        self._crops: np.ndarray | None = None
        if hold:
            self.size = sum(plane.buffer_size for plane in frame.planes)
        else:
            self.size = self.crops().nbytes

    def crops(self) -> np.ndarray:
        """u8[S, H, W, 3], one for each spatial view; from then on only these are held."""
        if self._crops is None:
            rules, image = self._rules, upright_rgb(self._frame)
            scaled = scaled_size(*image.shape[:2], rules.short_side)
            resized = decode.resize(np.ascontiguousarray(image), scaled)
            self._crops = np.stack(
                [
                    resized[top:, left:][: rules.crop_size, : rules.crop_size]
                    for top, left in crop_corners(*scaled, rules.crop_size, rules.spatial_views)
                ]
            )
            self._frame = None
        return self._crops


def views_of(frames: dict[int, ShownFrame], numbers: np.ndarray) -> Views:
    """The clips of frames of these numbers, i64[V, T]."""
    by_time = np.stack([[frames[n].crops() for n in row] for row in numbers.tolist()])
    times = np.array(
        [[frames[row[0]].seconds, frames[row[-1]].seconds] for row in numbers.tolist()]
    )
    clips = np.moveaxis(by_time, 2, 1)  # [V, S, T, H, W, 3]
    return Views(clips.reshape(-1, *clips.shape[2:]), np.repeat(times, clips.shape[1], axis=0))


class WholeVideo(NamedTuple):
    """The views of a whole video.

    Attributes:
        views: of each sampling.
        start, end: seconds at which the first frame appears, and the last one leaves the screen.
        frame_rate: frames per second.
        damage: empty, or one line saying what of the video could not be decoded.
    """

    views: tuple[Views, ...]
    start: float
    end: float
    frame_rate: float
    damage: str


def whole_video(path: str | os.PathLike, rules: ViewRules, *, threads: int = 1) -> WholeVideo:
    """All test views of a video.

    How many frames it has is known at its end: headers are not to be trusted. So a video is decoded
    twice, unless it is so short that its frames can be held meanwhile: memory must not grow with
    its length.

    Args:
        path: the video.
        rules: which views.
        threads: of the decoder; 0 leaves the number to FFmpeg.

    Raises:
        VideoError: the video cannot be read.
    """
    stream = FrameStream(path, threads=threads, convert=lambda frame: frame)
    held: dict[int, ShownFrame] | None = {}
    seconds, size = [], 0
    for time, frame in stream:
        if held is not None:
            held[len(seconds)] = ShownFrame(time, frame, rules, hold=True)
            size += held[len(seconds)].size
            held = held if size <= _MOST_HELD else None
        seconds.append(time)
    numbers = rules.numbers(len(seconds), stream.frame_rate)
    if held is None:
        held = _picked(path, rules, numbers, threads)
    views = tuple(views_of(held, own) for own in numbers)
    return WholeVideo(views, seconds[0], stream.end, stream.frame_rate, stream.damage)


def _picked(
    path: str | os.PathLike, rules: ViewRules, numbers: Sequence[np.ndarray], threads: int
) -> dict[int, ShownFrame]:
    """Frames of these numbers; the pixels that clips show of them."""
    needed = {number for own in numbers for number in own.ravel().tolist()}
    held = {}
    stream = FrameStream(path, threads=threads, convert=lambda frame: frame)
    for number, (time, frame) in enumerate(stream):
        if number in needed:
            held[number] = ShownFrame(time, frame, rules, hold=False)
            if len(held) == len(needed):
                break
    return held
