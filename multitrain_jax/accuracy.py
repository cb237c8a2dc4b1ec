"""Figures of view-averaged scores: top-1 and top-5 accuracy, mean average precision."""

import dataclasses

import numpy as np

from multitrain_jax import metrics
from multitrain_jax.batch import DatasetSpec


@dataclasses.dataclass(frozen=True)
class DatasetResult:
    """Accuracy on one dataset's evaluation split.

    Attributes:
        videos: videos evaluated, each once.
        top1, top5: share of the videos whose class is among the 1 or 5 highest scores; None if multi-label.
        mean_average_precision: mean over the classes that occur; None unless multi-label.
    """

    videos: int
    top1: float | None = None
    top5: float | None = None
    mean_average_precision: float | None = None

    @property
    def primary(self) -> float:
        """The figure that averages over datasets are taken of."""
        return self.top1 if self.top1 is not None else self.mean_average_precision


@dataclasses.dataclass(frozen=True)
class Scores:
    """View-averaged scores of the videos of one dataset: record i64[n], score f32[n, C], label i64[n] or f32[n, C]."""

    record: np.ndarray
    score: np.ndarray
    label: np.ndarray


def summarise(scores: Scores, spec: DatasetSpec) -> DatasetResult:
    """Accuracy figures of a dataset's scores."""
    videos = len(scores.record)
    if not videos:
        return DatasetResult(videos=0, top1=float('nan'), top5=float('nan'))
    if spec.multi_label:
        positives = scores.label[:, : len(spec.classes)] > 0
        precision = [metrics.average_precision(scores.score[:, c], positives[:, c]) for c in range(len(spec.classes))]
        return DatasetResult(videos=videos, mean_average_precision=float(np.nanmean(precision)))
    label = scores.label.astype(np.int64)
    return DatasetResult(
        videos=videos,
        top1=float(metrics.top_k_hits(scores.score, label, 1).mean()),
        top5=float(metrics.top_k_hits(scores.score, label, 5).mean()),
    )


def describe(result: DatasetResult) -> str:
    """One line about one dataset's accuracy."""
    if result.mean_average_precision is not None:
        return f'mAP {result.mean_average_precision:.1%} of {result.videos} videos'
    return f'top-1 {result.top1:.1%}, top-5 {result.top5:.1%} of {result.videos} videos'
