"""A video with the places drawn on it that speak for each dataset's class, and a strip of it."""

from collections.abc import Iterator
import os
import sys
from typing import NamedTuple

import cv2
import numpy as np

from multitrain_jax.errors import UserError
from multitrain_jax.inference.model import Model
from multitrain_jax.inference.overlay import write_drawn
from multitrain_jax.inference.predictions import Answer, Output, Told, divided
from multitrain_jax.inference.stream import End, Heat
from multitrain_jax.inference.timeline import clock

_SHORT_SIDE = 300  # pixels of a panel
_OPACITY = 0.7  # of the hottest place
_STRIP = 8  # frames
_STRIP_HEIGHT = 160  # pixels of each


class Geometry(NamedTuple):
    """Which part of a frame the views show.

    Attributes:
        short_side: pixels that the frame's short side is resized to before cropping.
        crop_size: pixels of a clip's sides.
        spatial_views: crops of each clip.
        num_frames: T of a clip.
    """

    short_side: int
    crop_size: int
    spatial_views: int
    num_frames: int


class Explanation(Output):
    """Writes FILE.mp4 and FILE.png of one video, once it has ended."""

    def __init__(self, model: Model, path: str, spatial_views: int):
        info = model.info
        self._model, self._path = model, path
        backbone = info.model.backbone
        self._geometry = Geometry(
            info.short_side, backbone.image_size, spatial_views, backbone.num_frames
        )
        self._answers: list[Answer] = []

    def window(self, video: str, answer: Answer) -> None:
        self._answers.append(answer)

    def video(self, video: str, told: Told) -> None:
        if told.end.error is not None:
            return
        labels = [
            {
                name: f'{name}: {label} {score:.0%}'
                for name, ((label, score),) in self._model.best(answer.scores, 1).items()
            }
            for answer in self._answers
        ]
        strip = strip_path(self._path)
        write(self._path, strip, video, self._answers, labels, self._geometry, told.end)
        print(f'{self._path}, {strip}: written', file=sys.stderr)


def strip_path(path: str) -> str:
    """Where the strip to the video `path` lies."""
    return f'{os.path.splitext(path)[0]}.png'


def write(
    path: str,
    strip: str,
    video: str | os.PathLike,
    answers: list[Answer],
    labels: list[dict[str, str]],
    geometry: Geometry,
    end: End,
) -> None:
    """Writes both.

    Args:
        path: the MP4 file: a panel for each dataset, side by side.
        strip: the PNG file: a row for each dataset, frames spread over the video.
        video: what was seen; it is decoded once more.
        answers: of its windows, with heat.
        labels: what stands on each panel while a window lasts.
        geometry: of the clips.
        end: of the video.

    Raises:
        ValueError: the video cannot be read.
        UserError: a file cannot be written.
    """
    from data_pipelines.videos.video_file import FrameStream

    starts, ends = (np.array([getattr(own, side) for own in answers]) for side in ('start', 'end'))
    _, rights = divided(starts, ends)
    rate = end.frame_rate
    stream = FrameStream(video, frame_rate=rate, short_side=_SHORT_SIDE)
    kept: list[np.ndarray] = []

    def pictures() -> Iterator[np.ndarray]:
        for seconds, frame in stream:
            number = min(int(np.searchsorted(rights, seconds, 'right')), len(answers) - 1)
            height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2  # as H.264 wants
            panels = {
                labels[number][name]: blend(
                    frame, in_frame(heat, seconds, *frame.shape[:2], geometry)
                )[:height, :width]
                for name, heat in answers[number].heat.items()
            }
            if len(kept) < _STRIP and seconds >= (len(kept) + 0.5) / _STRIP * end.seconds:
                kept.append(_column(panels, clock(round(seconds, 1))))
            yield np.concatenate([_labelled(*own, 0.42) for own in panels.items()], axis=1)
        if not kept:  # a video of one frame
            kept.append(_column(panels, clock(round(seconds, 1))))

    write_drawn('explain', path, pictures(), rate, end.seconds)
    if not cv2.imwrite(strip, np.concatenate(kept, axis=1)[..., ::-1]):
        raise UserError(f'--explain={path}: {strip} cannot be written')


def in_frame(heat: Heat, seconds: float, height: int, width: int, geometry: Geometry) -> np.ndarray:
    """The heat at one moment in a whole frame, f32[height, width], 1 where a window is hottest.

    Between the moments that tokens stand for it is interpolated, and between their places. What no
    view shows is cold.
    """
    from data_pipelines.clip.crops import crop_corners, scaled_size

    views, crops = len(heat.grid), geometry.spatial_views
    begin, end = heat.times[::crops].T
    away = np.maximum(begin - seconds, seconds - end).clip(0)
    first = int(away.argmin()) * crops  # of the nearest clip's views
    scaled = scaled_size(height, width, geometry.short_side)
    total, count = np.zeros(scaled, np.float32), np.zeros(scaled, np.float32)
    size = geometry.crop_size
    for view, (top, left) in zip(range(first, views), crop_corners(*scaled, size, crops)):
        grid, (begins, ends) = heat.grid[view], heat.times[view]
        # Token k stands for frames k * T / t up to the next one's; the clip's frames lie evenly.
        middles = (np.arange(len(grid)) + 0.5) * geometry.num_frames / len(grid) - 0.5
        place = 0.0
        if ends > begins:
            place = (seconds - begins) / (ends - begins) * (geometry.num_frames - 1)
        place = float(np.interp(place, middles, np.arange(len(grid))))
        low = min(int(place), len(grid) - 1)
        high = min(low + 1, len(grid) - 1)
        image = grid[low] + (place - low) * (grid[high] - grid[low])
        part = cv2.resize(np.float32(image), (size, size), interpolation=cv2.INTER_LINEAR)
        total[top : top + size, left : left + size] += part
        count[top : top + size, left : left + size] += 1
    mean = total / np.maximum(count, 1) / max(float(heat.grid.max()), 1e-30)
    return cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)


def blend(frame: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A frame u8[H, W, 3] under heat f32[H, W] of 0 to 1: the hotter, the less of it is seen."""
    colours = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_TURBO)
    share = _OPACITY * np.sqrt(heat)
    return cv2.blendLinear(frame, cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), 1 - share, share)


def _column(panels: dict[str, np.ndarray], text: str) -> np.ndarray:
    """Panels of one moment below each other, small, with the time."""
    from data_pipelines.inspection import drawing

    small = []
    for label, panel in panels.items():
        size = (round(panel.shape[1] * _STRIP_HEIGHT / len(panel)), _STRIP_HEIGHT)
        small.append(_labelled(label, cv2.resize(panel, size, interpolation=cv2.INTER_AREA), 0.36))
    column = np.concatenate(small)
    drawing.draw_tag(column, text, *column.shape[1::-1], drawing.PAPER, 0.36)
    return column


def _labelled(text: str, panel: np.ndarray, scale: float) -> np.ndarray:
    from data_pipelines.inspection import drawing

    panel = np.ascontiguousarray(panel)
    drawing.draw_tag(panel, text, 2, 2, drawing.PAPER, scale)
    return panel
