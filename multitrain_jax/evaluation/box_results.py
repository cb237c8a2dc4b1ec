"""Figures of scored boxes: mean average precision as the official evaluation of AVA has it; files of detections."""

import csv
import dataclasses
import os

import numpy as np

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation.box_metrics import (
    Rows,
    average_precisions,
    check_some_match,
    frequency_thirds,
)
from multitrain_jax.evaluation.metrics import DatasetResult

THIRDS = ('frequent', 'middle', 'rare')
NO_CANDIDATES = (
    'no box to score: the records hold no proposals of at least localisation.min_candidate_score; convert them with '
    '--proposals, lower it, or score the annotated boxes, localisation.candidates=ground_truth'
)


@dataclasses.dataclass(frozen=True)
class BoxScores:
    """Scored boxes and the truth of the key frames of one dataset.

    Attributes:
        name: what the dataset calls the n key frames: `video,timestamp`.
        frame: i64[d], which of them each detected box is on.
        box: f32[d, 4], as shares of the frame.
        score: f32[d, A], of every action.
        unseen: candidates that no view shows: they have no score and are not among the d.
        truth: all labelled boxes, one row for each of their actions.
    """

    name: tuple[str, ...]
    frame: np.ndarray
    box: np.ndarray
    score: np.ndarray
    unseen: int
    truth: Rows

    @property
    def detections(self) -> Rows:
        """A row for every box with every action."""
        boxes, actions = self.score.shape
        return Rows(
            np.repeat(self.frame, actions),
            np.tile(np.arange(actions), boxes),
            np.repeat(self.box, actions, axis=0),
            self.score.ravel(),
        )


@dataclasses.dataclass(frozen=True)
class ActionResult:
    """Figures of one action.

    Attributes:
        name: of the action.
        boxes: that show it in the test, each person once.
        training_boxes: likewise in training; None: not known.
        third: of the actions by training boxes: 'frequent', 'middle' or 'rare'; None: not known.
        average_precision: None where no box shows it.
    """

    name: str
    boxes: int
    training_boxes: int | None
    third: str | None
    average_precision: float | None


def per_action(scores: BoxScores, spec: DatasetSpec) -> list[ActionResult]:
    """Figures of every action, in the order of their numbers."""
    count = len(spec.classes)
    precision = average_precisions(scores.truth, scores.detections, np.arange(count))
    boxes = np.bincount(scores.truth.action, minlength=count)
    third: dict[int, str] = {}
    if spec.train_counts:
        for name, which in zip(THIRDS, frequency_thirds(spec.train_counts)):
            third |= dict.fromkeys(which.tolist(), name)
    return [
        ActionResult(
            name,
            int(boxes[action]),
            spec.train_counts[action] if spec.train_counts else None,
            third.get(action),
            None if np.isnan(precision[action]) else float(precision[action]),
        )
        for action, name in enumerate(spec.classes)
    ]


def summarise_boxes(scores: BoxScores, spec: DatasetSpec) -> DatasetResult:
    """The figures of a dataset. Without any overlap of detections and truth there is no mAP, but the reason why."""
    counts = {'videos': len(scores.name), 'boxes': len(scores.score), 'unseen_boxes': scores.unseen}
    if not len(scores.score) and len(scores.truth):
        return DatasetResult(**counts, problem=NO_CANDIDATES)
    try:
        check_some_match(scores.truth, scores.detections)
    except UserError as error:
        return DatasetResult(**counts, problem=str(error))
    actions = per_action(scores, spec)

    def mean(third: str | None) -> float | None:
        known = [
            a.average_precision
            for a in actions
            if a.average_precision is not None and third in (None, a.third)
        ]
        return float(np.mean(known)) if known else None

    return DatasetResult(
        **counts, mean_average_precision=mean(None), **{third: mean(third) for third in THIRDS}
    )


def write_detections(path: str | os.PathLike, scores: BoxScores, spec: DatasetSpec) -> None:
    """Writes the official csv: video, timestamp (seconds), x1, y1, x2, y2, action, score; no header.

    Actions have the numbers of the dataset's own annotations, or count from 1.
    """
    ids = spec.action_ids or range(1, len(spec.classes) + 1)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        for frame, box, score in zip(scores.frame, scores.box, scores.score):
            video, _, timestamp = scores.name[frame].rpartition(',')
            where = (video, timestamp, *(f'{side:.6g}' for side in box))
            writer.writerows(
                (*where, action, f'{value:.6g}') for action, value in zip(ids, score.tolist())
            )
