"""Options of the objective from the first step to the export, in one run."""

import dataclasses

from flax import nnx
import jax
import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax import train
from multitrain_jax.checkpoints import runs
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.weights.projection_files import start_projections
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401

MATRICES = {
    'colours->shades': np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
    'shades->colours': np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32),
}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """(config, source, workdir, outcome): a single-label and a multi-label dataset, frozen
    projections of a file in the prediction, learned weights, a moving average, two-pass
    accumulation.
    """
    workdir = tmp_path_factory.mktemp('options')
    np.savez(workdir / 'start.npz', **MATRICES)
    config = tiny.config(
        epochs=2.0,
        accumulation_steps=2,
        accumulation='two_pass',
        projections_from=str(workdir / 'start.npz'),
        model__add_projected=0.5,
        objective__lambda_proj=0.0,
        objective__learned_dataset_weights=True,
        optimizer__frozen=('projections',),
        optimizer__ema_decay=0.5,
    )
    source = tiny.ArraySource(config, multi_label={'shades': True})
    outcome = train.train_and_evaluate(config, workdir, source=source, devices=jax.devices()[:1])
    return config, source, workdir, outcome


def test_each_dataset_has_the_figures_of_its_kind(run):
    accuracy = run[3].accuracy
    assert (
        accuracy['colours'].top1 is not None and accuracy['colours'].mean_average_precision is None
    )
    assert accuracy['shades'].top1 is None and 0 < accuracy['shades'].mean_average_precision <= 1


def test_the_export_predicts_with_the_moving_average_and_the_projections(run):
    config, source, workdir, _ = run
    saved = runs.RunCheckpoints(workdir, keep=3)
    graphdef, shapes = tiny.abstract(config, source.datasets)
    averaged = saved.restore_params(4, shapes)
    saved.close()
    clips = np.stack([source.clip(9, number) for number in range(3)])
    video = (clips / 255 - np.float32(0.45)) / np.float32(0.225)
    heads_only = dataclasses.replace(
        config, model=dataclasses.replace(config.model, add_projected=0.0)
    )
    graphdef, _ = tiny.abstract(heads_only, source.datasets)
    plain = np.asarray(nnx.merge(graphdef, averaged)(video.astype(np.float32)).logits, np.float64)
    expected = {
        'colours': plain[0, :, :3] + 0.5 * plain[1] @ MATRICES['shades->colours'],
        'shades': plain[1] + 0.5 * plain[0, :, :3] @ MATRICES['colours->shades'],
    }
    model = mt.load(workdir / 'export')
    for name, logits in model.logits(clips).items():
        np.testing.assert_allclose(logits, expected[name], rtol=1e-4, atol=1e-4)
    scores = model.scores(clips)
    np.testing.assert_allclose(scores['colours'].sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(scores['shades'], 1 / (1 + np.exp(-expected['shades'])), rtol=1e-3)


def test_frozen_projections_of_a_file_stay_as_they_were(run):
    params = open_trained(run[2] / 'export').params
    kernel = params['projections']['kernel']
    np.testing.assert_array_equal(kernel[0, 0, :5, :3], MATRICES['shades->colours'])
    np.testing.assert_array_equal(kernel[1, 0, :3, :5], MATRICES['colours->shades'])


def test_a_checkpoint_is_exported_as_at_the_end(run, tmp_path):
    config, source, workdir, _ = run
    open_trained(workdir).export(tmp_path / 'again')
    one, other = (open_trained(path).params for path in (workdir / 'export', tmp_path / 'again'))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_another_run_starts_from_the_projections_of_the_export(run):
    config, source, workdir, _ = run
    start = {'kernel': np.zeros((2, 1, 5, 5), np.float32)}
    kernel = start_projections(str(workdir / 'export'), start, source.datasets)['kernel']
    np.testing.assert_array_equal(kernel[1, 0, :3], MATRICES['colours->shades'])
    renamed = [
        dataclasses.replace(spec, classes=tuple(reversed(spec.classes))) for spec in source.datasets
    ]
    with pytest.raises(UserError, match='dataset colours has other classes there'):
        start_projections(str(workdir / 'export'), start, renamed)


def test_another_kind_of_state_is_refused(run):
    config, source, workdir, _ = run
    other = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, frozen=('backbone',))
    )
    with pytest.raises(UserError, match=r"state.frozen\[0\] was 'projections', is 'backbone' now"):
        train.train_and_evaluate(other, workdir, source=source, devices=jax.devices()[:1])
