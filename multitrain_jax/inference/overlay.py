"""A video with the model's answers drawn on it: the best actions of every box, the best class of every dataset."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from multitrain_jax.errors import UserError
from multitrain_jax.inference.model import Model

if TYPE_CHECKING:
    from data_pipelines.videos.video_moments import Times

EVERY_SECONDS = 1.0  # between the moments at which boxes are judged, where no file says when
_WHOLE_FRAME = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)


class Judged(NamedTuple):
    """Boxes at a moment and what is done in them.

    Attributes:
        seconds: since the beginning of the video.
        boxes: f32[M, 4], x1, y1, x2, y2, shares of the frame.
        scores: {dataset: f32[M, A]}, NaN where no view shows the box.
    """

    seconds: float
    boxes: np.ndarray
    scores: Mapping[str, np.ndarray]


def write_overlay(
    model: Model,
    video: str | os.PathLike,
    output: str | os.PathLike,
    *,
    boxes_csv: str | os.PathLike | None = None,
    best: Mapping[str, Sequence[tuple[str, float]]],
) -> None:
    """Writes a video with the answers drawn on it.

    Args:
        model: any; one without a localising dataset only has the corner's answers.
        video: any file that PyAV decodes.
        output: the MP4 file.
        boxes_csv: see `read_boxes`; None: the whole frame.
        best: what `model.predict` told of the video; the first class of each dataset that has no boxes is drawn.

    Raises:
        ValueError: the video, or a line of the boxes, cannot be read.
        UserError: boxes for a model that cannot judge them or of another video; `output` cannot be written.
    """
    from data_pipelines.videos import video_moments

    localising = {
        name: dataset.classes
        for name, dataset in model.info.datasets.items()
        if dataset.localisation
    }
    if boxes_csv is not None and not localising:
        raise UserError(
            f'--boxes={boxes_csv}: this model was not trained on boxes (datasets {", ".join(model.info.datasets)})'
        )
    boxes = None if boxes_csv is None else read_boxes(boxes_csv, video)
    times = video_moments.video_times(video)
    judged = judge(model, video, times, boxes) if localising else []
    corner = [
        f'{name}: {pairs[0][0]} {pairs[0][1]:.0%}'
        for name, pairs in best.items()
        if name not in localising
    ]
    draw(video, output, judged, localising, corner, frame_rate=times.frame_rate)


def read_boxes(path: str | os.PathLike, video: str | os.PathLike) -> dict[float, np.ndarray]:
    """The boxes of a video by seconds, out of a csv file of AVA's form: `video,timestamp,x1,y1,x2,y2[,...]`.

    Lines belong to the video when they name it, with or without its suffix.

    Raises:
        ValueError: a line is damaged.
        UserError: no line is of this video.
    """
    from data_pipelines.annotations import ava_files, files

    found: dict[float, dict[tuple[float, ...], None]] = {}
    for where, cells in files.read_csv(path):
        if len(cells) < 6:
            raise ValueError(f'{where}: {len(cells)} columns, wanted video,timestamp,x1,y1,x2,y2')
        if cells[0] not in (Path(video).stem, Path(video).name):
            continue
        _, microseconds = ava_files.moment(cells, where)
        # A box that is listed for several actions comes once.
        found.setdefault(microseconds / 1e6, {})[ava_files.box(cells[2:6], where)] = None
    if not found:
        raise UserError(
            f'{os.fspath(path)}: no box of {Path(video).stem!r}; its first column must name the video so'
        )
    return {seconds: np.array(list(boxes), np.float32) for seconds, boxes in sorted(found.items())}


def judge(
    model: Model,
    video: str | os.PathLike,
    times: 'Times',
    boxes: Mapping[float, np.ndarray] | None = None,
) -> list[Judged]:
    """What is done in boxes of a video.

    Args:
        model: one with a localising dataset.
        video: any file that PyAV decodes.
        times: of its frames.
        boxes: f32[M, 4] by seconds; None: the whole frame, every second.

    Raises:
        ValueError: the video cannot be read.
        UserError: all boxes lie after its end.
    """
    from data_pipelines.clip import boxes as box_geometry
    from data_pipelines.videos import video_moments

    end = times.seconds[-1] + 1 / times.frame_rate
    if boxes is None:
        count = max(1, round(end / EVERY_SECONDS))
        boxes = {(k + 0.5) * end / count: _WHOLE_FRAME for k in range(count)}
    inside = {seconds: those for seconds, those in boxes.items() if seconds < end}
    if not inside:
        raise UserError(
            f'{os.fspath(video)}: {end:.1f} s long, but its boxes begin at {min(boxes):g} s'
        )
    info = model.info
    names = [name for name, dataset in info.datasets.items() if dataset.localisation]
    judged: dict[float, dict[str, np.ndarray]] = {}
    # Datasets that sample alike share the clips and the forward pass.
    for stride, rate in dict.fromkeys(
        (info.datasets[n].stride, info.datasets[n].target_frame_rate) for n in names
    ):
        alike = [
            n
            for n in names
            if (info.datasets[n].stride, info.datasets[n].target_frame_rate) == (stride, rate)
        ]
        moments = video_moments.video_moments(
            video,
            times,
            list(inside),
            stride=stride,
            target_frame_rate=rate,
            num_frames=info.model.backbone.num_frames,
            crop_size=info.model.backbone.image_size,
            short_side=info.short_side,
            spatial_views=info.spatial_views,
        )
        for moment in moments:
            scores = _scores(
                model, moment.clips, *box_geometry.in_views(inside[moment.seconds], moment.views)
            )
            judged.setdefault(moment.seconds, {}).update({name: scores[name] for name in alike})
    return [Judged(seconds, inside[seconds], judged[seconds]) for seconds in sorted(judged)]


def _scores(
    model: Model, clips: np.ndarray, boxes: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """{dataset: f32[M, A]}, probabilities averaged over the views that show each box."""
    count = boxes.shape[1]
    padded = np.zeros((len(boxes), -(-count // 8) * 8, 4), np.float32)  # few shapes to compile
    padded[:, :count] = boxes
    # One view at a time: one shape to compile, whatever the number of views.
    views = [model.localise(clip[None], those[None]) for clip, those in zip(clips, padded)]
    with np.errstate(invalid='ignore'):
        return {
            name: sum(view[name][0, :count] * seen[:, None] for view, seen in zip(views, mask))
            / mask.sum(0)[:, None]
            for name in views[0]
        }


def draw(
    video: str | os.PathLike,
    output: str | os.PathLike,
    judged: Sequence[Judged],
    actions: Mapping[str, Sequence[str]],
    corner: Sequence[str],
    *,
    frame_rate: float,
    top: int = 3,
    min_score: float = 0.3,
) -> None:
    """Writes the video as H.264 in MP4 with boxes and texts on it; its sound is left out.

    Args:
        video: what was judged.
        output: the file to write, complete or not at all.
        judged: boxes; each is shown until halfway to the next moment, at most half a second before and after its own.
        actions: names of the actions by dataset.
        corner: lines of text shown in the upper left corner throughout.
        frame_rate: frames per second of both.
        top: actions shown of each box; those below `min_score` are left out but for the best one.
        min_score: see `top`.

    Raises:
        ValueError: the video cannot be read.
        UserError: `output` cannot be written.
    """
    from data_pipelines.inspection import drawing
    from data_pipelines.videos import mp4, video_file

    moments = np.array([entry.seconds for entry in judged])

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
            for line in corner:
                y += drawing.draw_tag(picture, line, 2, y, drawing.PAPER, scale)
            yield picture

    try:
        mp4.write_video(output, pictures(), Fraction(frame_rate).limit_denominator(1001))
    except OSError as error:
        raise UserError(
            f'--overlay={os.fspath(output)}: cannot be written ({error.strerror or error})'
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
