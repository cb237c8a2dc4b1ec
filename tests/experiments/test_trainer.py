"""Short trainings in one process come to what `train_and_evaluate` comes to on the same batches."""

import jax
import numpy as np
import pytest

from experiments.trainer import Trainer, log_variance
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.objectives.objective import ObjectiveConfig, batch_objective
from multitrain_jax.train import train_and_evaluate
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401


@pytest.fixture(scope='module')
def trainer():
    return Trainer()


@pytest.mark.parametrize('lambda_inf', [0.003, 0.1, 1.0])
def test_lambda_inf_as_a_learned_weight(lambda_inf):
    expanded = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    loss, grads = jax.value_and_grad(
        lambda x: batch_objective(x, ObjectiveConfig(lambda_inf=lambda_inf))[0]
    )(expanded)
    other = ObjectiveConfig(lambda_inf=0.02, learned_informative_weights=True)
    variance = np.float32(log_variance(lambda_inf))
    learned = {'informative': np.stack([variance, variance])}
    again = jax.grad(lambda x: batch_objective(x, other, log_variances=learned)[0])(expanded)
    assert loss > 0
    np.testing.assert_allclose(again, grads, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    'changes',
    [
        {},
        pytest.param(
            {'objective__lambda_inf': 0.01, 'optimizer__peak_learning_rate': 3e-3, 'seed': 5},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {'objective__lambda_inf': 0.0, 'model__expander': False}, marks=pytest.mark.slow
        ),
    ],
)
def test_as_train_and_evaluate(changes, trainer, tmp_path):
    config = tiny.config(**changes)
    source = tiny.ArraySource(config, steps_per_epoch=2)
    mine = trainer.train(config, source)
    real = train_and_evaluate(config, tmp_path, source=source)
    assert {name: one.top1 for name, one in mine.accuracy.items()} == {
        name: one.top1 for name, one in real.accuracy.items()
    }
    theirs = open_trained(tmp_path).params
    assert jax.tree.structure(mine.trained.params) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(mine.trained.params), jax.tree.leaves(theirs)):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_learning_rate_seed_and_lambda_do_not_compile_anew(trainer):
    for changes in ({}, {'seed': 7}, {'optimizer__peak_learning_rate': 2e-3}):
        for lambda_inf in (0.1, 0.02):
            config = tiny.config(objective__lambda_inf=lambda_inf, **changes)
            trainer.train(config, tiny.ArraySource(config))
    (program,) = [
        one for one in trainer._programs.values() if one.wired.config.objective.lambda_inf
    ]
    assert program.step._cache_size() <= 2  # the first state lies on no mesh yet


def test_a_ramp_begins_gently(trainer):
    config = tiny.config(objective__lambda_inf=1.0)
    source = tiny.ArraySource(config)
    steady, ramped = (
        trainer.train(config, source, ramp=ramp).trained.params for ramp in (0, 10**6)
    )
    off = tiny.config(objective__lambda_inf=1e-9)
    none = trainer.train(off, source).trained.params

    def distance(a, b):
        pairs = zip(jax.tree.leaves(a['backbone']), jax.tree.leaves(b['backbone']))
        return sum(float(np.abs(x - y).sum()) for x, y in pairs)

    assert distance(ramped, none) < 0.1 * distance(steady, none)
