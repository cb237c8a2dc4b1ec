"""What is done in boxes of a video: at the moments that a file names, or in the whole frame."""

from collections.abc import Mapping
import os
from pathlib import Path
import typing
from typing import NamedTuple

import numpy as np

from multitrain_jax.errors import UserError

if typing.TYPE_CHECKING:
    from data_pipelines.videos.video_moments import Times
    from multitrain_jax.inference.model import Model

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


def read_boxes(path: str | os.PathLike, video: str | os.PathLike) -> dict[float, np.ndarray]:
    """The boxes of a video by seconds, out of a csv file of AVA's form:
    `video,timestamp,x1,y1,x2,y2[,...]`.

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
            f'{os.fspath(path)}: no box of {Path(video).stem!r}; its first column must name the '
            'video so'
        )
    return {seconds: np.array(list(boxes), np.float32) for seconds, boxes in sorted(found.items())}


def judge(
    model: 'Model',
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
    groups: dict[tuple[int, float | None], list[str]] = {}
    for name in names:
        sampling = info.datasets[name].stride, info.datasets[name].target_frame_rate
        groups.setdefault(sampling, []).append(name)
    for (stride, rate), alike in groups.items():
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
    model: 'Model', clips: np.ndarray, boxes: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """{dataset: f32[M, A]}, probabilities averaged over the views that show each box."""
    views = model.localise(clips, boxes)
    with np.errstate(invalid='ignore'):
        return {
            name: (own * mask[..., None]).sum(0) / mask.sum(0)[:, None]
            for name, own in views.items()
        }


def at_moment(
    model: 'Model', video: str | os.PathLike, boxes: np.ndarray, seconds: float | None
) -> Mapping[str, np.ndarray]:
    """What is done in boxes f32[M, 4] of the frame at one moment; None: in the middle of the video.

    Returns:
        {dataset: f32[M, A]}, NaN where no view shows the box.

    Raises: as `judge`.
    """
    from data_pipelines.videos import video_moments

    times = video_moments.video_times(video)
    if seconds is None:
        seconds = float(times.seconds[-1] + 1 / times.frame_rate) / 2
    (judged,) = judge(model, video, times, {seconds: boxes})
    return judged.scores
