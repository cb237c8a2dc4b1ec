"""Figures of scored boxes: average precision as the official evaluation of AVA has it, vectorised.

A *row* is one box with one action on one key frame. All arrays of a `Rows` have one entry per row;
key frames and actions are numbers, the same in ground truth and detections.
"""

import dataclasses

import numpy as np

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation.metrics import THIRDS, DatasetResult, Scores, summarise

NO_CANDIDATES = (
    'no box to score: the records hold no proposals of at least '
    'localisation.min_candidate_score; convert them with '
    '--proposals, lower it, or score the annotated boxes, localisation.candidates=ground_truth'
)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of ground truth or of detections.

    Attributes:
        key_frame: i64[n], number of the key frame.
        action: i64[n], number of the action.
        box: f[n, 4], x1, y1, x2, y2.
        score: f[n]; None for ground truth.
    """

    key_frame: np.ndarray
    action: np.ndarray
    box: np.ndarray
    score: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.key_frame)

    def take(self, which: np.ndarray) -> 'Rows':
        """The rows that a boolean mask or an array of places selects."""
        return Rows(
            self.key_frame[which],
            self.action[which],
            self.box[which],
            None if self.score is None else self.score[which],
        )


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Where evaluators of AVA differ.

    Attributes:
        max_rows: detections of a key frame that count, those of the highest scores; None: all.
        match_by_score: a ground-truth box goes to the detection with the highest score; False: to
            the first one of the list.
        ignore_unannotated: detections on key frames that the annotation does not list do not count;
            False: they are wrong.
    """

    max_rows: int | None = 50
    match_by_score: bool = True
    ignore_unannotated: bool = True


# ActivityNet's evaluation of AVA, the official one, and the one that PySlowFast reports.
OFFICIAL = Protocol()
PYSLOWFAST = Protocol(max_rows=None, match_by_score=False, ignore_unannotated=False)


def average_precisions(
    truth: Rows,
    detections: Rows,
    actions: np.ndarray,
    *,
    protocol: Protocol = OFFICIAL,
    iou_threshold: float = 0.5,
    listed: np.ndarray = np.zeros(0, np.int64),
) -> np.ndarray:
    """Average precision of each action: f64[len(actions)], NaN for one without ground truth.

    A detection is right when its best-overlapping ground-truth box of its action and key frame
    overlaps by at least the threshold and is not taken by another detection. Average precision is
    the area under the precision envelope (VOC 2010). Boxes without extent are dropped, in ground
    truth too.

    Args:
        truth: ground truth.
        detections: with scores.
        actions: i64[n], the actions that are evaluated; rows of others are dropped before anything
            is counted.
        protocol: what else counts.
        iou_threshold: intersection over union from which boxes match.
        listed: i64[n], key frames that the annotation lists without a box (AVA-Kinetics' lines of
            two columns): detections there are wrong, as on all annotated key frames.

    Raises:
        ValueError: a score is not finite.
    """
    actions = np.asarray(actions, np.int64)
    if len(detections) and not np.isfinite(detections.score).all():
        row = int(np.flatnonzero(~np.isfinite(detections.score))[0])
        raise ValueError(f'the score of detection {row} is not finite ({detections.score[row]})')
    # Whatever the action: the official evaluator knows these key frames.
    annotated = np.union1d(truth.key_frame, listed)
    truth = truth.take(np.isin(truth.action, actions))
    detections = detections.take(np.isin(detections.action, actions))
    if protocol.max_rows is not None:
        detections = detections.take(_highest_of_each_frame(detections, protocol.max_rows))
    if protocol.ignore_unannotated:
        detections = detections.take(np.isin(detections.key_frame, annotated))
    truth = truth.take(_has_extent(truth.box))
    detections = detections.take(_has_extent(detections.box))

    right = _is_right(truth, detections, protocol, iou_threshold)
    order = np.argsort(-detections.score, kind='stable')
    action, right = detections.action[order], right[order]
    return np.array(
        [
            _area_under_envelope(right[action == number], int((truth.action == number).sum()))
            for number in actions
        ]
    )


def _has_extent(box: np.ndarray) -> np.ndarray:
    return (box[:, 0] < box[:, 2]) & (box[:, 1] < box[:, 3])


def _highest_of_each_frame(detections: Rows, most: int) -> np.ndarray:
    """Places, rising, of the rows that are among the `most` highest scores of their key frame."""
    order = np.lexsort((-detections.score, detections.key_frame))
    frame = detections.key_frame[order]
    rank = np.arange(len(frame)) - np.searchsorted(frame, frame)
    return np.sort(order[rank < most])


def _is_right(
    truth: Rows, detections: Rows, protocol: Protocol, iou_threshold: float
) -> np.ndarray:
    """bool[detections]. Each wants one box only, its best: what counts is who comes first."""
    right = np.zeros(len(detections), bool)
    box, overlap = _best_boxes(truth, detections)
    candidates = np.flatnonzero(overlap >= iou_threshold)
    if protocol.match_by_score:
        candidates = candidates[np.argsort(-detections.score[candidates], kind='stable')]
    _, winners = np.unique(box[candidates], return_index=True)  # the first to want each box
    right[candidates[winners]] = True
    return right


def any_overlap(truth: Rows, detections: Rows, iou_threshold: float = 0.5) -> bool:
    """Whether any detection overlaps a box on its key frame by the threshold, of any action."""
    same = [
        dataclasses.replace(rows, action=np.zeros_like(rows.action)) for rows in (truth, detections)
    ]
    _, overlap = _best_boxes(*(rows.take(_has_extent(rows.box)) for rows in same))
    return bool((overlap >= iou_threshold).any())


def _best_boxes(truth: Rows, detections: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection, the box of its action and key frame that it overlaps most: some number of
    it, and the overlap.

    Overlap 0 where there is no such box.
    """
    from data_pipelines.clip.boxes import iou

    # Rows of one (key frame, action) stand together in the sorted ground truth.
    span = max(truth.action.max(initial=0), detections.action.max(initial=0)) + 1
    group = truth.key_frame * span + truth.action
    in_order = np.argsort(group, kind='stable')
    group, boxes = group[in_order], truth.box[in_order]
    wanted = detections.key_frame * span + detections.action
    first, end = np.searchsorted(group, wanted, 'left'), np.searchsorted(group, wanted, 'right')
    best_box, best = np.zeros(len(detections), np.int64), np.zeros(len(detections))
    candidates = np.flatnonzero(end > first)
    if not len(candidates):
        return best_box, best
    counts = (end - first)[candidates]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    detection = np.repeat(candidates, counts)  # of each pair of a detection and a box of its group
    box = np.arange(counts.sum()) - np.repeat(starts - first[candidates], counts)
    overlap = iou(detections.box[detection], boxes[box])
    best[candidates] = np.maximum.reduceat(overlap, starts)
    # Of equally good boxes, the first.
    is_best = overlap == np.repeat(best[candidates], counts)
    best_box[candidates] = np.minimum.reduceat(np.where(is_best, box, len(boxes)), starts)
    return best_box, best


def _area_under_envelope(right: np.ndarray, positives: int) -> float:
    """Area under the highest precision at each recall or beyond; `right` is by falling score."""
    if not positives:
        return float('nan')
    if not right.any():
        return 0.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / positives)  # recall grows by 1 / positives at each hit


def frequency_thirds(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the frequent, middle and rare thirds of classes by number of training examples.

    Classes without examples count as rare; where three does not divide, the first thirds are the
    larger ones.
    """
    order = np.argsort(-np.asarray(counts), kind='stable')
    return tuple(np.sort(part) for part in np.array_split(order, 3))


def check_some_match(truth: Rows, detections: Rows) -> None:
    """Tells the usual mistakes from a bad model.

    Raises:
        UserError: not one detection overlaps a box of its key frame by half, whatever the actions;
            and why.
    """
    if not len(truth) or not len(detections):
        raise UserError(
            f'{len(truth)} boxes of ground truth and {len(detections)} detections of evaluated '
            'actions are left: nothing to compare; look at the label map and at the exclusions'
        )
    if not np.isin(detections.key_frame, truth.key_frame).any():
        raise UserError(
            'no detection is on a key frame of the ground truth: compare the names of the videos '
            'and the timestamps (seconds) of both files'
        )
    largest = float(np.abs(detections.box).max())
    if not any_overlap(truth, detections):
        hint = 'are boxes x1,y1,x2,y2, as shares of the same frame?'
        if largest > 2:
            pixels = f'coordinates reach {largest:g}, so they seem to be pixels'
            hint = f'{pixels}; divide them by width and height'
        raise UserError(f'no detection overlaps any box of the ground truth by half: {hint}')


@dataclasses.dataclass(frozen=True)
class BoxScores:
    """Scored boxes and the truth of the key frames of one dataset.

    Attributes:
        name: what the dataset calls the n key frames: `video,timestamp`.
            All of them are annotated, those without a labelled box, too; of key frames that are not
            (AVA's seconds that the csv does not list) no box is tested.
        frame: i64[d], which of them each detected box is on.
        box: f32[d, 4], as shares of the frame.
        score: f32[d, A], of every action.
        unseen: candidates that no view shows: they have no score and are not among the d.
        truth: all labelled boxes, one row for each of their actions.
        record: i64[n], their numbers.
    """

    name: tuple[str, ...]
    frame: np.ndarray
    box: np.ndarray
    score: np.ndarray
    unseen: int
    truth: Rows
    record: np.ndarray

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


def surest(scores: BoxScores, most: int) -> tuple[Rows, np.ndarray]:
    """The boxes' best actions of which a model is surest, on different key frames.

    Args:
        scores: of the test.
        most: wrong ones, and right ones.

    Returns:
        The rows, wrong ones first; bool[n], whether some box that is annotated with the action
        overlaps by half.
    """
    told = Rows(
        scores.frame, scores.score.argmax(axis=1), scores.box, scores.score.max(axis=1, initial=0)
    )
    right = _best_boxes(scores.truth, told)[1] >= 0.5
    order = np.argsort(-told.score, kind='stable')
    chosen = []
    for wanted in (False, True):
        own = order[right[order] == wanted]
        _, first = np.unique(told.key_frame[own], return_index=True)
        chosen.append(own[np.sort(first)[:most]])
    rows = np.concatenate(chosen)
    return told.take(rows), right[rows]


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
    precision = average_precisions(
        scores.truth, scores.detections, np.arange(count), listed=np.arange(len(scores.name))
    )
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
    """The figures of a dataset.

    Without any overlap of detections and truth there is no mAP, but the reason why.
    """
    counts = {'videos': len(scores.name), 'boxes': len(scores.score), 'unseen_boxes': scores.unseen}
    if not len(scores.score) and len(scores.truth):
        return DatasetResult(**counts, problem=NO_CANDIDATES)
    try:
        check_some_match(scores.truth, scores.detections)
    except UserError as error:
        return DatasetResult(**counts, problem=str(error))
    actions = per_action(scores, spec)

    def mean(third: str | None) -> float | None:
        own = [a.average_precision for a in actions if third in (None, a.third)]
        known = [precision for precision in own if precision is not None]
        return float(np.mean(known)) if known else None

    thirds = {third: mean(third) for third in THIRDS}
    return DatasetResult(**counts, mean_average_precision=mean(None), **thirds)


def summary(scores: Scores | BoxScores, spec: DatasetSpec) -> DatasetResult:
    """The figures of a dataset of either kind."""
    return summarise_boxes(scores, spec) if spec.localisation else summarise(scores, spec)
