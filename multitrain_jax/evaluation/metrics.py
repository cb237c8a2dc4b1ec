"""Figures of view-averaged scores: accuracy, mean average precision, by class; confusions."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from multitrain_jax.batch import DatasetSpec

THIRDS = ('frequent', 'middle', 'rare')  # of actions, by their boxes in training
# Shares of 1 in a `DatasetResult`, and what tables call them.
FIGURES = {
    'top1': 'top-1 %',
    'top5': 'top-5 %',
    'mean_average_precision': 'mAP %',
    **{third: f'{third} %' for third in THIRDS},
}
_LEAST = 1e-12  # probability that a logarithm is taken of


@dataclasses.dataclass(frozen=True)
class DatasetResult:
    """Accuracy on one dataset's evaluation split.

    Attributes:
        videos: videos (of a localising dataset, key frames) evaluated, each once.
        top1, top5: share of the videos whose class is among the 1 or 5 highest scores; None if
            multi-label.
        mean_average_precision: mean over the classes that occur; None unless multi-label or
            localising. Of boxes, at 0.5 intersection over union, as in the official evaluation of
            AVA.
        frequent, middle, rare: the mean over a third of the actions, by their boxes in training;
            only of localising ones.
        loss: cross-entropy of the averaged scores (nats), multi-label: binary, mean over classes;
            not of localising ones.
        boxes: that were scored; only of localising datasets.
        unseen_boxes: that no view showed.
        problem: why there is no figure.
    """

    videos: int
    top1: float | None = None
    top5: float | None = None
    mean_average_precision: float | None = None
    frequent: float | None = None
    middle: float | None = None
    rare: float | None = None
    boxes: int | None = None
    unseen_boxes: int | None = None
    problem: str | None = None
    loss: float | None = None

    @property
    def primary(self) -> float | None:
        """The figure that averages over datasets are taken of; None where there is none."""
        return self.top1 if self.top1 is not None else self.mean_average_precision


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """Accuracy on the videos of one class; None where there is none, or where the kind of dataset
    has no such figure.

    Attributes:
        name: of the class.
        videos: that carry it.
        top1, top5: share of them that have it among the 1 or 5 highest scores; single-label only.
        average_precision: over all videos, of the class's score; multi-label only.
        taken_for: the class that its videos are most often mistaken for; single-label only.
    """

    name: str
    videos: int
    top1: float | None = None
    top5: float | None = None
    average_precision: float | None = None
    taken_for: str | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """View-averaged scores of the videos of one dataset.

    Attributes:
        record: i64[n], record numbers.
        score: f32[n, C].
        label: i64[n], or f32[n, C] multi-hot.
        name: what the dataset calls the n videos.
    """

    record: np.ndarray
    score: np.ndarray
    label: np.ndarray
    name: tuple[str, ...] = ()


def top_k_hits(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the label is among the k largest scores.

    Args:
        scores: f[n, C].
        labels: i[n].
        k: how many scores count. A tie counts against the clip: constant scores are no hit.

    Returns:
        bool[n].
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)  # [n, 1]
    at_least_as_high = (scores >= own).sum(axis=1) - 1  # others with the same or a higher score
    return (at_least_as_high < k) & np.isfinite(own[:, 0])


def average_precision(scores: np.ndarray, positives: np.ndarray) -> float:
    """Area under the precision-recall steps of one class: mean over the positives of the precision
    at their score.

    Equal scores stand or fall together, so that the order of the clips does not matter.

    Args:
        scores: f[n].
        positives: bool[n]; NaN is returned when there is none.
    """
    if not positives.any():
        return float('nan')
    order = np.argsort(-scores, kind='stable')
    falling, hits = scores[order], positives[order]
    last = np.searchsorted(-falling, -falling, side='right') - 1  # of the clips with the same score
    precision = np.cumsum(hits)[last] / (last + 1)
    return float(precision[hits].mean())


def summarise(scores: Scores, spec: DatasetSpec) -> DatasetResult:
    """Accuracy figures of a dataset's scores."""
    videos = len(scores.record)
    if not videos:
        return DatasetResult(videos=0, top1=float('nan'), top5=float('nan'))
    if spec.multi_label:
        return DatasetResult(
            videos=videos,
            mean_average_precision=float(np.nanmean(_average_precisions(scores, spec))),
            loss=_loss(scores, spec),
        )
    label = scores.label.astype(np.int64)
    return DatasetResult(
        videos=videos,
        top1=float(top_k_hits(scores.score, label, 1).mean()),
        top5=float(top_k_hits(scores.score, label, 5).mean()),
        loss=_loss(scores, spec),
    )


def per_class(scores: Scores, spec: DatasetSpec) -> list[ClassResult]:
    """Figures of every class, in the order of their numbers."""
    if spec.multi_label:
        videos = (scores.label[:, : len(spec.classes)] > 0).sum(axis=0)
        precisions = _average_precisions(scores, spec)
        return [
            ClassResult(name, int(count), average_precision=float(precision) if count else None)
            for name, count, precision in zip(spec.classes, videos, precisions)
        ]
    label = scores.label.astype(np.int64)
    top1, top5 = (top_k_hits(scores.score, label, k) for k in (1, 5))
    wrong = confusion_matrix(scores, spec)
    np.fill_diagonal(wrong, 0)
    found = []
    for number, name in enumerate(spec.classes):
        own = label == number
        if not own.any():
            found.append(ClassResult(name, 0))
            continue
        taken_for = spec.classes[wrong[number].argmax()] if wrong[number].any() else None
        shares = float(top1[own].mean()), float(top5[own].mean())
        found.append(ClassResult(name, int(own.sum()), *shares, taken_for=taken_for))
    return found


def most_mistaken(matrix: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """What is shown of a confusion matrix.

    Args:
        matrix: i64[C, C], see `confusion_matrix`.
        most: classes.

    Returns:
        i64[S], all classes, or the `most` with most mistakes, and f64[S, S], shares of their
        videos.
    """
    shown = np.arange(len(matrix))
    if len(shown) > most:
        mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
        shown = np.sort(np.argsort(-mistakes, kind='stable')[:most])
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return shown, shares[np.ix_(shown, shown)]


def confusion_matrix(scores: Scores, spec: DatasetSpec) -> np.ndarray:
    """i64[C, C]: videos of a class (row) whose highest score is that of a class (column);
    single-label only.

    A tie counts as a mistake, as in `top_k_hits`.
    """
    label = scores.label.astype(np.int64)
    hit = top_k_hits(scores.score, label, 1)
    others = np.nan_to_num(scores.score, nan=-np.inf, neginf=-np.inf)
    others[np.arange(len(label)), label] = -np.inf
    predicted = np.where(hit, label, others.argmax(axis=1))
    matrix = np.zeros((len(spec.classes), len(spec.classes)), np.int64)
    np.add.at(matrix, (label, predicted), 1)
    return matrix


def describe(result: DatasetResult) -> str:
    """One line about one dataset's accuracy."""
    if result.problem:
        return result.problem
    if result.boxes is not None:
        return (
            f'mAP@0.5 {result.mean_average_precision:.1%} of {result.boxes} boxes on '
            f'{result.videos} key frames'
        )
    if result.mean_average_precision is not None:
        return f'mAP {result.mean_average_precision:.1%} of {result.videos} videos'
    return f'top-1 {result.top1:.1%}, top-5 {result.top5:.1%} of {result.videos} videos'


def accuracy_table(results: Mapping[str, DatasetResult]) -> str:
    """Accuracy of all datasets and its average over them, in percent."""

    def percent(value: float | None) -> str:
        return '-' if value is None else f'{100 * value:.1f}'

    def some_has(*figures: str) -> bool:
        return any(getattr(r, figure) is not None for r in results.values() for figure in figures)

    figures = ['top1', 'top5']
    figures += ['mean_average_precision'] if some_has('mean_average_precision') else []
    figures += THIRDS if some_has(*THIRDS) else []
    header = ('dataset', 'videos', *(FIGURES[figure] for figure in figures))
    counts = [r.videos for r in results.values()]
    columns = [(*results, 'average'), [str(count) for count in (*counts, sum(counts))]]
    for figure in figures:
        values = [getattr(r, figure) for r in results.values()]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known else None
        columns.append([percent(value) for value in (*values, mean)])
    rows = list(zip(*columns))
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(row: tuple[str, ...]) -> str:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))
        return '  '.join([row[0].ljust(widths[0]), *cells])

    rule = '-' * len(line(header))
    return '\n'.join([line(header), rule, *(line(row) for row in rows[:-1]), rule, line(rows[-1])])


def _average_precisions(scores: Scores, spec: DatasetSpec) -> list[float]:
    """Of every class; NaN where no video carries it."""
    positives = scores.label[:, : len(spec.classes)] > 0
    return [
        average_precision(scores.score[:, c], positives[:, c]) for c in range(len(spec.classes))
    ]


def _loss(scores: Scores, spec: DatasetSpec) -> float:
    probability = np.clip(scores.score.astype(np.float64), _LEAST, 1)
    if not spec.multi_label:
        own = np.take_along_axis(probability, scores.label.astype(np.int64)[:, None], axis=1)
        return float(-np.log(own).mean())
    label = scores.label[:, : len(spec.classes)]
    other = np.clip(1 - scores.score.astype(np.float64), _LEAST, 1)
    return float(-(label * np.log(probability) + (1 - label) * np.log(other)).mean())
