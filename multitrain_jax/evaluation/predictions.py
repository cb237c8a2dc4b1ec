"""View-averaged scores of a dataset's videos as a file; scores of several models averaged."""

from collections.abc import Sequence
import dataclasses
import os

import numpy as np

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation.metrics import Scores
from multitrain_jax.npz import read_npz


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The scores, and what they are of.

    Attributes:
        spec: name and classes of the dataset.
        scores: of its videos.
    """

    spec: DatasetSpec
    scores: Scores


def save(path: str | os.PathLike, predictions: Predictions) -> None:
    """Writes an npz file.

    Its arrays: `video` str[n], `label` i64[n] (multi-label: f32[n, C]), `score` f32[n, C], `record`
    i64[n], `classes` str[C], `dataset` str[], `multi_label` bool[].
    """
    spec, scores = predictions.spec, predictions.scores
    np.savez_compressed(
        path,
        video=np.array(scores.name, str),
        label=scores.label,
        score=scores.score,
        record=scores.record,
        classes=np.array(spec.classes, str),
        dataset=np.array(spec.name),
        multi_label=np.array(spec.multi_label),
    )


def load(path: str | os.PathLike) -> Predictions:
    """Reads what `save` wrote.

    Raises:
        UserError: it is no such file.
    """
    names = ('video', 'label', 'score', 'classes', 'dataset', 'multi_label')
    try:
        content = read_npz(path)
        content = {name: content[name] for name in names} | {
            'record': content.get('record', np.arange(len(content['video'])))  # of earlier files
        }
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file') from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f'{path}: not a file of predictions; "python -m multitrain_jax.evaluate" writes them '
            '(*_predictions.npz)'
        ) from error
    axes = {'video': 1, 'classes': 1, 'dataset': 0, 'multi_label': 0}
    if any(content[name].ndim != number for name, number in axes.items()):
        raise UserError(f'{path}: not a file of predictions (its arrays have other shapes)')
    spec = DatasetSpec(
        str(content['dataset']), tuple(content['classes'].tolist()), bool(content['multi_label'])
    )
    video, shape = content['video'], (len(content['video']), len(spec.classes))
    if content['score'].shape != shape or len(content['label']) != len(video):
        raise UserError(f'{path}: {len(video)} videos, but scores {list(content["score"].shape)}')
    scores = Scores(content['record'], content['score'], content['label'], tuple(video.tolist()))
    return Predictions(spec, scores)


def ensemble(paths: Sequence[str | os.PathLike]) -> Predictions:
    """The mean of the scores in several files, video by video.

    Classes and videos are matched by name: their order may differ between the files, not which ones
    they are.

    Raises:
        UserError: a file that cannot be read, of other classes or of other videos.
    """
    first = load(paths[0])
    spec, videos = first.spec, first.scores.name
    total = first.scores.score.astype(np.float64)
    for path in paths[1:]:
        other = load(path)
        if other.spec.multi_label != spec.multi_label:
            raise UserError(f'{path}: one of it and {paths[0]} is multi-label')
        rows = _places(videos, other.scores.name, 'video', path, paths[0])
        columns = _places(spec.classes, other.spec.classes, 'class', path, paths[0])
        same = _renumbered(other.scores.label[rows], columns)
        if not np.array_equal(same, first.scores.label):
            equal = [np.array_equal(a, b) for a, b in zip(same, first.scores.label)]
            wrong = equal.index(False)
            raise UserError(f'{path}: video {videos[wrong]!r} has another label than in {paths[0]}')
        total += other.scores.score[np.ix_(rows, columns)]
    score = (total / len(paths)).astype(np.float32)
    return Predictions(spec, dataclasses.replace(first.scores, score=score))


def _places(wanted: Sequence[str], there: Sequence[str], what: str, path, first) -> np.ndarray:
    """i64: where each of `wanted` is."""
    numbers = {name: number for number, name in enumerate(there)}
    if len(numbers) != len(there):
        raise UserError(f'{path}: names a {what} twice')
    odd = sorted(set(wanted).symmetric_difference(there))
    if odd:
        raise UserError(f'{path}: {what} {odd[0]!r} is only in one of it and {first}')
    return np.array([numbers[name] for name in wanted], np.int64)


def _renumbered(label: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Labels after their classes were put into the order `columns`."""
    if label.ndim == 2:
        return label[:, columns]
    place = np.empty(len(columns), np.int64)
    place[columns] = np.arange(len(columns))
    return place[label]
