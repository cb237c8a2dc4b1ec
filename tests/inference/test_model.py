"""An export in use."""

import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax.errors import UserError
from tests.helpers.tiny import quick_compile  # noqa: F401


@pytest.fixture(scope='module')
def model(finished_run):
    return mt.load(finished_run[2] / 'export')


@pytest.fixture(scope='module')
def clips(finished_run):
    return np.stack([finished_run[1].clip(9, number) for number in range(3)])


def test_the_package_lists_what_it_has():
    assert {'load', 'read_clips'} <= set(dir(mt))


def test_normalised_clips_give_the_same(model, clips):
    normalised = ((clips / 255 - np.array(model.info.mean)) / np.array(model.info.std)).astype(
        np.float32
    )
    np.testing.assert_allclose(model.embed(normalised), model.embed(clips), atol=1e-5)


def test_scores_are_softmax_of_logits(model, clips):
    for name, logits in model.logits(clips).items():
        e = np.exp(logits.astype(np.float64))
        np.testing.assert_allclose(
            model.scores(clips)[name], e / e.sum(1, keepdims=True), atol=1e-6
        )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda c: c[0],
            r'clips of shape \[4, 16, 16, 3\]: must be \[B, T, H, W, 3\].*'
            r'trained on \[B, 4, 16, 16, 3\]',
        ),
        (lambda c: c[..., :2], r'clips of shape \[3, 4, 16, 16, 2\]'),
        (lambda c: c[:0], 'B at least 1'),
        (lambda c: c[:, :1], 'too small; a token is made of 2 frames of 4 x 4 pixels'),
        (lambda c: c.astype(np.float64), 'clips of type float64: must be uint8'),
    ],
)
def test_other_clips_are_refused(model, clips, change, message):
    with pytest.raises(UserError, match=message):
        model.embed(change(clips))


def test_videos_among_clips_are_refused(model, clips):
    with pytest.raises(UserError, match='a list of both videos and clips'):
        model.embed(['video.mp4', clips])
