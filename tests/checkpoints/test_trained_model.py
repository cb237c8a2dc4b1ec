"""Trained models read back, whatever of their directories is named."""

import shutil

import numpy as np
import pytest

from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError


@pytest.mark.parametrize(
    ('below', 'step', 'expected'),
    [
        ('', None, 8),
        ('', 6, 6),
        ('checkpoints', None, 8),
        ('checkpoints/6', None, 6),
        ('checkpoints/6', 6, 6),
    ],
)
def test_any_of_its_directories(finished_run, below, step, expected):
    config, source, workdir = finished_run
    run = open_trained(workdir / below, step)
    assert (run.directory, run.step, run.config) == (workdir.resolve(), expected, config)
    assert [(spec.name, spec.classes) for spec in run.datasets] == [
        (spec.name, spec.classes) for spec in source.datasets
    ]
    assert run.info.model.num_classes == (3, 5) and run.info.model.projections
    assert run.params['projections']['kernel'].shape == (2, 1, 5, 5)


def test_steps_differ(finished_run):
    first, last = (open_trained(finished_run[2], step).params['heads']['kernel'] for step in (6, 8))
    assert np.abs(first - last).max() > 1e-4


def test_mistakes(finished_run, tmp_path):
    workdir = finished_run[2]
    with pytest.raises(
        UserError, match=r'--checkpoint=.*neither a run \(directory "checkpoints"\) nor an export'
    ):
        open_trained(tmp_path, argument='--checkpoint')
    with pytest.raises(UserError, match=r'no checkpoint of step 7; it has \[3, 6, 8\]'):
        open_trained(workdir, 7)
    with pytest.raises(UserError, match='names another checkpoint than --step=8'):
        open_trained(workdir / 'checkpoints' / '6', 8)


def test_damaged_checkpoints(finished_run, tmp_path, caplog):
    """Without a step the one before is read, and the log says so;
    a step that was asked for must be whole.
    """
    shutil.copytree(finished_run[2] / 'checkpoints', tmp_path / 'checkpoints')
    shutil.rmtree(tmp_path / 'checkpoints' / '8' / 'state')
    assert open_trained(tmp_path).step == 6
    assert f'checkpoint {tmp_path}/checkpoints/8 is damaged' in caplog.text
    with pytest.raises(UserError, match='checkpoints/8 is damaged'):
        open_trained(tmp_path, 8)
    assert (tmp_path / 'checkpoints' / '8').exists()  # who only reads moves nothing
