"""What an earlier version has written is read: `old_run.tar.xz` holds a run of
tests/helpers/tiny.py's config.

Its DatasetSpecs, exports and descriptions of checkpoints were other classes, of the same files.
"""

import logging
import shutil
import tarfile

import jax
import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax import train
from multitrain_jax.checkpoints.trained_model import open_trained
from tests.helpers import tiny
from tests.helpers.calling import ROOT
from tests.helpers.tiny import quick_compile  # noqa: F401


@pytest.fixture
def old(tmp_path):
    with tarfile.open(ROOT / 'tests' / 'data' / 'old_run.tar.xz') as archive:
        archive.extractall(tmp_path, filter='data')
    return tmp_path / 'run'


def test_run_and_export_say_what_they_said(old):
    """Embeddings and logits of the version that wrote them."""
    said = np.load(old / 'said.npz')
    for place in (old, old / 'checkpoints' / '2', old / 'export'):
        model = mt.load(place)
        clips = np.random.default_rng(0).integers(0, 256, (2, *model.clip_shape), np.uint8)
        np.testing.assert_allclose(model.embed(clips), said['embedding'], atol=1e-5)
        for name, logits in model.logits(clips).items():
            np.testing.assert_allclose(logits, said[name], atol=1e-5)
        specs = model.info.datasets
        assert {name: spec.classes for name, spec in specs.items()} == tiny.CLASSES
        samplings = [(spec.sampling, spec.stride) for spec in specs.values()]
        assert samplings == [('strided', 1), ('uniform', 1)]
        assert model.info.datasets['colours'].target_frame_rate is None
    trained = open_trained(old)
    assert trained.step == 2 and trained.config.optimizer.clip_norm == 1.0
    assert set(trained.projections()) == {('shades', 'colours'), ('colours', 'shades')}


def test_the_run_goes_on(old, caplog):
    config = tiny.config(epochs=2.0, checkpoint__keep=1, model__backbone__stage_blocks=(1,))
    source = tiny.ArraySource(config, steps_per_epoch=2)
    with caplog.at_level(logging.INFO, 'multitrain_jax'):
        outcome = train.train_and_evaluate(config, old, source=source, devices=jax.devices()[:1])
    assert outcome.steps == 4 and 'resuming at step 2 of 4' in caplog.text
    (told,) = [m for m in caplog.messages if m.startswith('the run goes on with other settings: ')]
    assert told.rpartition(': ')[2] == 'config.epochs was 1.0, is 2.0 now'


def test_a_finished_run_is_finished(old):
    config = tiny.config(epochs=1.0, checkpoint__keep=1, model__backbone__stage_blocks=(1,))
    shutil.rmtree(old / 'export')
    source = tiny.ArraySource(config, steps_per_epoch=2)
    outcome = train.train_and_evaluate(config, old, source=source, devices=jax.devices()[:1])
    assert outcome.steps == 2 and not (old / 'export').exists() and outcome.best is None
