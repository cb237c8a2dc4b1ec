"""A video with answers drawn on it: the actions of every box, the class of every dataset."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
import math
import os
import sys
from typing import NamedTuple

import numpy as np

from multitrain_jax.errors import UserError
from multitrain_jax.inference.boxes import EVERY_SECONDS, Judged, judge, read_boxes
from multitrain_jax.inference.model import Model
from multitrain_jax.inference.predictions import Answer, Output, Told, divided


class Caption(NamedTuple):
    """What is said of a part of a video, or of all of it.

    Attributes:
        best: {dataset: [(class name, score), ...]} by falling score.
        start, end: seconds.
    """

    best: Mapping[str, Sequence[tuple[str, float]]]
    start: float = 0.0
    end: float = math.inf


class Overlay(Output):
    """Writes one video with what is said of it, once it has ended."""

    def __init__(self, model: Model, path: str, boxes_csv: str | None, *, whole: bool):
        """`whole`: of each dataset the class of the whole video, instead of that of the window."""
        self._model, self._path, self._boxes, self._whole = model, path, boxes_csv, whole
        self._captions: list[Caption] = []

    def window(self, video: str, answer: Answer) -> None:
        best = self._model.best(answer.scores, 1)
        self._captions.append(Caption(best, answer.start, answer.end))

    def video(self, video: str, told: Told) -> None:
        if told.end.error is not None:
            return
        captions = [Caption(self._model.best(told.mean, 1))] if self._whole else self._captions
        write_overlay(
            self._model,
            video,
            self._path,
            boxes_csv=self._boxes,
            captions=captions,
            frame_rate=told.end.frame_rate,
            seconds=told.end.seconds,
        )
        print(f'{self._path}: written', file=sys.stderr)


def write_overlay(
    model: Model,
    video: str | os.PathLike,
    output: str | os.PathLike,
    *,
    boxes_csv: str | os.PathLike | None = None,
    captions: Sequence[Caption],
    frame_rate: float | None = None,
    seconds: float | None = None,
) -> None:
    """Writes a video with the answers drawn on it.

    Args:
        model: any; one without a localising dataset only has the corner's answers.
        video: any file that PyAV decodes.
        output: the MP4 file.
        boxes_csv: see `read_boxes`; None: the whole frame.
        captions: of each the first class of each dataset that has no boxes is drawn.
        frame_rate: frames per second; None: the video is decoded to learn it.
        seconds: its length, see `write_drawn`.

    Raises:
        ValueError: the video, or a line of the boxes, cannot be read.
        UserError: boxes for a model that cannot judge them or of another video; `output` cannot be
            written.
    """
    from data_pipelines.videos import video_moments

    localising = {
        name: dataset.classes
        for name, dataset in model.info.datasets.items()
        if dataset.localisation
    }
    if boxes_csv is not None and not localising:
        raise UserError(
            f'--boxes={boxes_csv}: this model was not trained on boxes (datasets '
            f'{", ".join(model.info.datasets)})'
        )
    boxes = None if boxes_csv is None else read_boxes(boxes_csv, video)
    judged: list[Judged] = []
    if localising or frame_rate is None:
        times = video_moments.video_times(video)
        frame_rate = times.frame_rate
        judged = judge(model, video, times, boxes) if localising else []
    own = [
        caption._replace(best={k: v for k, v in caption.best.items() if k not in localising})
        for caption in captions
    ]
    draw(video, output, judged, localising, own, frame_rate=frame_rate, seconds=seconds)


def draw(
    video: str | os.PathLike,
    output: str | os.PathLike,
    judged: Sequence[Judged],
    actions: Mapping[str, Sequence[str]],
    captions: Sequence[Caption],
    *,
    frame_rate: float,
    seconds: float | None = None,
    top: int = 3,
    min_score: float = 0.3,
) -> None:
    """Writes the video as H.264 in MP4 with boxes and texts on it; its sound is left out.

    Args:
        video: what was judged.
        output: the file to write, complete or not at all.
        judged: boxes; each is shown until halfway to the next moment, at most half a second before
            and after its own.
        actions: names of the actions by dataset.
        captions: shown in the upper left corner, by rising time; where two overlap, each in its
            half.
        frame_rate: frames per second of both.
        seconds: length of the video, see `write_drawn`.
        top: actions shown of each box; those below `min_score` are left out but for the best one.
        min_score: see `top`.

    Raises:
        ValueError: the video cannot be read.
        UserError: `output` cannot be written.
    """
    from data_pipelines.inspection import drawing
    from data_pipelines.videos import video_file

    moments = np.array([entry.seconds for entry in judged])
    starts, ends = (np.array([getattr(c, side) for c in captions]) for side in ('start', 'end'))
    lefts, rights = divided(starts, ends)

    def pictures() -> Iterator[np.ndarray]:
        for timestamp, frame in video_file.FrameStream(video, frame_rate=frame_rate):
            picture = np.ascontiguousarray(
                frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
            ).copy()
            scale = max(0.38, min(picture.shape[:2]) / 900)
            if len(moments):
                nearest = int(np.abs(moments - timestamp).argmin())
                if abs(moments[nearest] - timestamp) <= EVERY_SECONDS / 2:
                    _draw_boxes(picture, judged[nearest], actions, top, min_score, scale)
            y = 2
            for number in np.flatnonzero((lefts <= timestamp) & (timestamp < rights))[:1]:
                for name, pairs in captions[number].best.items():
                    line = f'{name}: {pairs[0][0]} {pairs[0][1]:.0%}'
                    y += drawing.draw_tag(picture, line, 2, y, drawing.PAPER, scale)
            yield picture

    write_drawn('overlay', output, pictures(), frame_rate, seconds)


def write_drawn(
    option: str,
    output: str | os.PathLike,
    pictures: Iterator[np.ndarray],
    frame_rate: float,
    seconds: float | None,
) -> None:
    """Writes the video that `--option=output` asks for, and says how far it is if that takes long.

    Args:
        option: of the command.
        output: the MP4 file.
        pictures: u8 [H, W, 3].
        frame_rate: of them.
        seconds: that they last, to tell the time left; None: not known.

    Raises:
        UserError: it cannot be written.
    """
    from tqdm import tqdm

    from data_pipelines.videos import mp4

    frames = None if seconds is None else round(seconds * frame_rate)
    shown = tqdm(pictures, os.fspath(output), frames, unit='frame', delay=5, leave=False)
    try:
        mp4.write_video(output, shown, Fraction(frame_rate).limit_denominator(1001))
    except OSError as error:
        raise UserError(
            f'--{option}={os.fspath(output)}: cannot be written ({error.strerror or error})'
        ) from error


def _draw_boxes(
    picture: np.ndarray,
    judged: Judged,
    actions: Mapping[str, Sequence[str]],
    top: int,
    min_score: float,
    scale: float,
) -> None:
    from data_pipelines.inspection import drawing

    for number, box in enumerate(judged.boxes):
        colour = drawing.COLOURS[number % len(drawing.COLOURS)]
        x, y = drawing.draw_box(picture, box, colour)
        for name, scores in judged.scores.items():
            best = np.argsort(-scores[number], kind='stable')[:top]
            for rank, action in enumerate(best.tolist()):
                score = scores[number, action]
                if np.isfinite(score) and (rank == 0 or score >= min_score):
                    y += drawing.draw_tag(
                        picture, f'{actions[name][action]} {score:.0%}', x, y, colour, scale
                    )
