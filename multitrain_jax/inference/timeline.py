"""A picture of what is seen in a video when: for every dataset its classes over time."""

import os

import numpy as np

from multitrain_jax.errors import UserError
from multitrain_jax.inference.model import Model
from multitrain_jax.inference.predictions import Answer, Output, Told, divided

_COLUMNS = 1200  # of the picture, over the length of the video
_MOST_CLASSES = 10  # of a dataset
_THUMBNAILS = 8


class Timeline(Output):
    """Draws one video once it has ended."""

    def __init__(self, model: Model, path: str):
        self._model, self._path = model, path
        self._answers: list[Answer] = []

    def window(self, video: str, answer: Answer) -> None:
        self._answers.append(answer)

    def video(self, video: str, told: Told) -> None:
        if told.end.error is None:
            classes = {name: spec.classes for name, spec in self._model.info.datasets.items()}
            draw(self._path, video, self._answers, classes, told.end.seconds)


def over_time(
    starts: np.ndarray, ends: np.ndarray, scores: np.ndarray, end: float, columns: int
) -> np.ndarray:
    """Scores of windows at the columns of a picture; NaN where there is no window.

    A column that has several gets the highest scores of them, so that what is short is seen, too.

    Args:
        starts, ends: f64[N], seconds, rising.
        scores: f32[N, C].
        end: seconds at the right side of the picture; it begins at 0.
        columns: of the picture.

    Returns:
        f32[C, columns].
    """
    lefts, rights = divided(starts, ends)
    image = np.full((scores.shape[1], columns), np.nan, np.float32)
    first = np.floor(lefts / end * columns).astype(int).clip(0, columns - 1)
    last = np.ceil(rights / end * columns - 1e-6).astype(int).clip(1, columns)
    for left, right, own in zip(first, np.maximum(last, first + 1), scores):
        image[:, left:right] = np.fmax(image[:, left:right], own[:, None])
    return image


def draw(
    path: str,
    video: str,
    answers: list[Answer],
    classes: dict[str, tuple[str, ...]],
    end: float,
) -> None:
    """Writes the picture: frames of the video, then a panel for every dataset.

    Args:
        path: .png, or what else Matplotlib writes.
        video: whose frames are shown, if it is a file.
        answers: of its windows.
        classes: names by dataset; those with the highest scores are shown.
        end: seconds.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    starts, ends = (
        np.array([getattr(answer, side) for answer in answers]) for side in Answer._fields[:2]
    )
    shown = {}
    for name in classes:
        scores = np.stack([answer.scores[name] for answer in answers])
        best = np.argsort(-scores.max(0), kind='stable')[:_MOST_CLASSES]
        # Those that come first in the video stand first.
        order = sorted(best.tolist(), key=lambda c: int(scores[:, c].argmax()))
        shown[name] = order, over_time(starts, ends, scores[:, order], end, _COLUMNS)
    frames = _thumbnails(video, end)
    heights = [1.0] * bool(frames) + [0.6 + 0.24 * len(order) for order, _ in shown.values()]
    figure = Figure(figsize=(12, sum(heights) + 0.5), layout='constrained')
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    figure.suptitle(os.path.basename(video), fontsize=11)
    if frames:
        _draw_frames(panels.pop(0), frames, end)
    for panel, (name, (order, image)) in zip(panels, shown.items(), strict=True):
        drawn = panel.imshow(
            image,
            aspect='auto',
            interpolation='nearest',
            extent=(0, end, len(order) - 0.5, -0.5),
            vmin=0,
            vmax=1,
            cmap='Blues',
        )
        panel.set_facecolor('0.88')
        panel.set_yticks(range(len(order)), [classes[name][c] for c in order], fontsize=8)
        panel.set_title(name, loc='left', fontsize=9)
        panel.tick_params(axis='x', labelsize=8)
        panel.xaxis.set_major_formatter(lambda seconds, _: clock(seconds))
    figure.colorbar(drawn, ax=panels, label='score', fraction=0.02, pad=0.01)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f'--timeline={path}: cannot be written ({error})') from error


def clock(seconds: float) -> str:
    """`75` as `1:15`, `3675` as `1:01:15`, `7.5` as `0:07.5`."""
    whole, part = divmod(round(seconds, 2), 1)
    minutes, rest = divmod(int(whole), 60)
    hours, minutes = divmod(minutes, 60)
    text = f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'
    return text + (f'{part:.2f}'[1:].rstrip('0') if round(part, 2) else '')


def _thumbnails(video: str, end: float) -> list[np.ndarray]:
    """Frames u8[H, W, 3] spread over a video; none of one that cannot be read again."""
    from data_pipelines.videos.sources import VideoError, is_file
    from data_pipelines.videos.video_file import FrameStream

    if not is_file(video) or not os.path.isfile(video):
        return []
    frames = []
    for place in range(_THUMBNAILS):
        stream = FrameStream(
            video, start=(place + 0.5) / _THUMBNAILS * end, frame_rate=25, short_side=120
        )
        try:
            frames.append(next(iter(stream))[1])
        except VideoError:  # a gap
            continue
    return frames


def _draw_frames(panel, frames: list[np.ndarray], end: float) -> None:
    panel.set_xlim(0, end)
    panel.set_ylim(0, 1)
    panel.axis('off')
    for place, frame in enumerate(frames):
        inset = panel.inset_axes((place / len(frames), 0, 1 / len(frames), 1))
        inset.imshow(frame)
        inset.axis('off')
