"""Scores in files, and their mean over several models."""

import numpy as np
import pytest

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import predictions
from multitrain_jax.evaluation.metrics import Scores
from multitrain_jax.evaluation.predictions import Predictions

VIDEOS = ('a/ä.mp4', 'b.mp4', 'c.mp4')
SCORE = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], np.float32)


def some(videos=VIDEOS, classes=('x', 'y', 'z'), score=SCORE, label=(0, 1, 2), multi_label=False):
    scores = Scores(np.arange(len(videos)), score, np.array(label), tuple(videos))
    return Predictions(DatasetSpec('letters', tuple(classes), multi_label), scores)


def saved(path, **changes):
    predictions.save(path, some(**changes))
    return path


@pytest.mark.parametrize('multi_label', [False, True])
def test_round_trip(tmp_path, multi_label):
    label = np.eye(3, dtype=np.float32) if multi_label else (0, 1, 2)
    before = some(multi_label=multi_label, label=label)
    predictions.save(tmp_path / 'p.npz', before)
    after = predictions.load(tmp_path / 'p.npz')
    assert after.spec == before.spec and after.scores.name == VIDEOS
    np.testing.assert_array_equal(after.scores.score, SCORE)
    np.testing.assert_array_equal(after.scores.label, before.scores.label)


@pytest.mark.parametrize('multi_label', [False, True])
def test_ensemble_matches_videos_and_classes_by_name(tmp_path, multi_label):
    """The second file holds the same videos and classes in another order."""
    other, hot = SCORE[::-1] ** 2, np.eye(3, dtype=np.float32)
    rows, columns = [2, 0, 1], [1, 2, 0]
    label = hot if multi_label else np.arange(3)
    shuffled = (
        hot[np.ix_(rows, columns)] if multi_label else np.array([columns.index(c) for c in rows])
    )
    one = saved(tmp_path / '1.npz', label=label, multi_label=multi_label)
    two = saved(
        tmp_path / '2.npz',
        videos=[VIDEOS[r] for r in rows],
        classes=['xyz'[c] for c in columns],
        score=other[np.ix_(rows, columns)],
        label=shuffled,
        multi_label=multi_label,
    )
    mean = predictions.ensemble([one, two, one])
    np.testing.assert_allclose(mean.scores.score, (2 * SCORE + other) / 3, rtol=1e-6)
    np.testing.assert_array_equal(mean.scores.label, label)
    assert mean.scores.name == VIDEOS and mean.spec.classes == ('x', 'y', 'z')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(videos=('a/ä.mp4', 'b.mp4', 'd.mp4')),
            "2.npz: video 'c.mp4' is only in one of it and .*1.npz",
        ),
        (dict(classes=('x', 'y', 'w')), "2.npz: class 'w' is only in one"),
        (dict(label=(0, 1, 1)), "2.npz: video 'c.mp4' has another label"),
        (dict(videos=('b.mp4', 'b.mp4', 'c.mp4')), '2.npz: names a video twice'),
        (dict(multi_label=True, label=np.eye(3)), 'multi-label'),
    ],
)
def test_what_does_not_fit_is_not_averaged(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        predictions.ensemble([saved(tmp_path / '1.npz'), saved(tmp_path / '2.npz', **changes)])


def test_other_files(tmp_path):
    (tmp_path / 'text.npz').write_text('no')
    np.savez(tmp_path / 'other.npz', score=SCORE)
    np.savez(tmp_path / 'pickle.npz', video=np.array([object()], object))
    np.savez(
        tmp_path / 'short.npz',
        video=['a'],
        label=[0, 1],
        score=SCORE,
        classes=list('xyz'),
        dataset='d',
        multi_label=False,
    )
    for name, message in [
        ('none', 'no such file'),
        ('text', 'not a file of predictions'),
        ('other', 'not a file of predictions'),
        ('pickle', 'not a file of predictions'),
        ('short', r'1 videos, but scores \[3, 3\]'),
    ]:
        with pytest.raises(UserError, match=message):
            predictions.load(tmp_path / f'{name}.npz')
