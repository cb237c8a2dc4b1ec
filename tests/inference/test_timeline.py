"""Scores over time, as a picture shows them."""

import cv2
import numpy as np
import pytest

from multitrain_jax.errors import UserError
from multitrain_jax.inference import timeline
from multitrain_jax.inference.predictions import Answer


def test_each_column_has_the_scores_of_the_window_whose_middle_is_nearest():
    rng = np.random.default_rng(0)
    starts = np.array([0.0, 1.0, 2.0, 3.0, 6.0])  # overlapping, then a gap
    ends = starts + 2.0
    scores = rng.random((5, 3)).astype(np.float32)
    image = timeline.over_time(starts, ends, scores, 8.0, 80)
    for column in range(80):
        seconds = (column + 0.5) / 10
        nearest = np.abs((starts + ends) / 2 - seconds).argmin()
        if starts[nearest] <= seconds < ends[nearest]:
            np.testing.assert_array_equal(image[:, column], scores[nearest])
        else:
            assert np.isnan(image[:, column]).all() and 5 <= seconds < 6


def test_a_short_window_at_the_end_leaves_no_gap():
    image = timeline.over_time(
        np.array([0.0, 2.0, 4.0]), np.array([2.0, 4.0, 4.5]), np.eye(3, dtype=np.float32), 4.5, 45
    )
    np.testing.assert_array_equal(image.argmax(0), np.repeat([0, 1, 2], [20, 20, 5]))
    assert (image.sum(0) == 1).all()


def test_what_is_shorter_than_a_column_is_seen():
    starts = np.arange(1000.0)
    scores = np.zeros((1000, 1), np.float32)
    scores[777] = 0.9
    image = timeline.over_time(starts, starts + 1, scores, 1000.0, 10)
    assert image.shape == (1, 10) and image[0, 7] == np.float32(0.9)
    assert image.sum() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0, '0:00'), (7.5, '0:07.5'), (75, '1:15'), (3675, '1:01:15'), (59.999, '1:00')],
)
def test_clock(seconds, text):
    assert timeline.clock(seconds) == text


def test_picture(tmp_path):
    """A class that is certain in the second half is a dark bar there, and a pale one before."""
    answers = [
        Answer(t, t + 1.0, {'moves': np.array([1.0, 0.0] if t < 5 else [0.0, 1.0], np.float32)})
        for t in range(10)
    ]
    path = tmp_path / 'line.png'
    timeline.draw(str(path), 'gone.mp4', answers, {'moves': ('left', 'right')}, 10.0)
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)
    dark = (np.abs(image - (8, 48, 107)).max(-1) < 12)[:, : int(image.shape[1] * 0.9)]
    rows = np.flatnonzero(dark.sum(1) > 200)
    upper, lower = rows[: len(rows) // 3], rows[-len(rows) // 3 :]
    first, second = (np.flatnonzero(dark[own].all(0)).mean() for own in (upper, lower))
    assert first < second
    with pytest.raises(UserError, match='--timeline=/nowhere/a.png: cannot be written'):
        timeline.draw('/nowhere/a.png', 'gone.mp4', answers, {'moves': ('left', 'right')}, 10.0)
