"""The best state of the evaluations is kept, and is one that all commands read."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from multitrain_jax import export, train
from multitrain_jax.checkpoints import runs
from multitrain_jax.checkpoints.runs import BestCheckpoint
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.evaluation import results
from multitrain_jax.evaluation.metrics import DatasetResult
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401


def accuracy(**top1):
    return {name: DatasetResult(10, value, 1.0) for name, value in top1.items()}


def kept(workdir):
    saved = runs.RunCheckpoints(workdir / 'best', keep=None)
    steps = saved.all_steps()
    saved.close()
    return steps


@pytest.mark.parametrize(('which', 'expected'), [('average', 20), ('b', 30)])
def test_what_is_best(which, expected, tmp_path):
    best = BestCheckpoint(tmp_path)
    for step, a, b in (
        (10, 0.5, 0.2),
        (20, 0.9, 0.1),
        (30, 0.3, 0.6),
        (40, 0.4, 0.6),
        (50, float('nan'), float('nan')),
    ):
        figure = results.figure(accuracy(a=a, b=b), which)
        best.offer(step, {'step': np.asarray(step)}, {}, figure)
    best.close()
    assert kept(tmp_path) == [expected]
    again = BestCheckpoint(tmp_path)  # a run that goes on knows it
    figure = results.figure(accuracy(a=0.45, b=0.5), which)
    again.offer(60, {'step': np.asarray(60)}, {}, figure)
    again.close()
    assert kept(tmp_path) == [expected]


def test_a_run_keeps_it(tmp_path, monkeypatch, capsys):
    """The best evaluation is neither the first nor the last,
    and its checkpoint no longer among the newest.
    """
    figures = iter([0.2, 0.7, 0.6, 0.3])
    monkeypatch.setattr(
        results, 'evaluate', lambda *args: accuracy(colours=next(figures), shades=0.0)
    )
    config = tiny.config(
        evaluation__every_epochs=1.0, checkpoint__keep_best='colours', checkpoint__keep=1
    )
    source = tiny.ArraySource(config, steps_per_epoch=2)
    outcome = train.train_and_evaluate(config, tmp_path, source=source, devices=jax.devices()[:1])
    run, newest = open_trained(tmp_path / 'best'), open_trained(tmp_path)
    assert (run.step, newest.step) == (4, 8)
    assert dataclasses.replace(run.config, seed=0) == config
    assert np.abs(run.params['heads']['kernel'] - newest.params['heads']['kernel']).max() > 1e-4
    # The summary names it, with the command that exports it.
    (line,) = (text for text in results.table(outcome).splitlines() if text.startswith('best '))
    command = f'python -m multitrain_jax.export {tmp_path} --best --output=DIR'
    assert line.endswith(f'step 4, 70.0%: {command}')
    monkeypatch.setattr(
        sys, 'argv', ['export', str(tmp_path), '--best', f'--output={tmp_path / "out"}']
    )
    assert export.main() == 0
    assert capsys.readouterr().out == f'exported step 4 to {tmp_path / "out"}\n'
    exported = open_trained(tmp_path / 'out').params['heads']['kernel']
    np.testing.assert_array_equal(exported, run.params['heads']['kernel'])
