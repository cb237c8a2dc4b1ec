"""The training step: the same numbers on any number of devices, however the batch is cut."""

import functools

import jax
import numpy as np
import optax
import pytest

from multitrain_jax import optimizer, parallel, train
from tests import tiny
from tests.tiny import quick_compile  # noqa: F401

STEPS = 3


@functools.cache
def trained(devices: int, **changes):
    """Gradients and metrics of each of a few steps, and the parameters after them."""
    config = tiny.config(**changes)
    source = tiny.ArraySource(config)
    mesh = parallel.data_mesh(jax.devices()[:devices])
    graphdef, abstract = train.abstract_model(config, source.datasets)
    schedule = optimizer.learning_rate_schedule(config.optimizer, steps_per_epoch=2, total_steps=STEPS)
    tx = optax.chain(
        tiny.keep_gradients(), optimizer.build_optimizer(config.optimizer, schedule, abstract)
    )
    state = jax.jit(lambda: train.init_state(config, source.datasets, tx))()
    step = parallel.map_train_step(train.make_train_step(config, source.datasets, graphdef, tx), mesh)
    state = parallel.replicate(state, mesh)
    gradients, metrics = [], []
    for number in range(STEPS):
        state, terms = step(state, parallel.to_devices(source.batch(number), mesh))
        gradients.append(jax.device_get(state.opt_state[0]))
        metrics.append(jax.device_get(terms))
    return gradients, metrics, jax.device_get(state.params)


def assert_same(one, other, *, rtol):
    """Trees are equal, each array within rtol of its largest number (1e-5 of the largest of all)."""
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(one))
    floor = 1e-5 * max(np.abs(leaf).max() for leaf in leaves)
    for path, a, b in zip(paths, leaves, jax.tree.leaves(other), strict=True):
        tolerance = rtol * np.abs(a).max() + floor
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path)
        )


def means(metrics):
    """Metrics of a step, without those that were never counted."""
    return {name: total / count for name, (total, count) in metrics.items() if count > 0}


def test_one_and_eight_devices_agree():
    (one, metrics, params), (eight, metrics8, params8) = trained(1), trained(8)
    for step in range(STEPS):
        assert_same(one[step], eight[step], rtol=1e-4)
        assert_same(means(metrics[step]), means(metrics8[step]), rtol=1e-4)
    assert_same(params, params8, rtol=1e-4)


def test_all_objectives_reach_the_gradient():
    """The agreement above would mean little if a part of the model had no gradient."""
    first = trained(1)[0][0]
    for group in ('backbone', 'heads', 'projections', 'expander'):
        assert optax.global_norm(first[group]) > 1e-3, group


@pytest.mark.parametrize(('devices', 'pieces'), [(1, 2), (2, 4)])
def test_accumulation_gives_the_same_gradient(devices, pieces):
    """Augmentation and mixup included; only the informative loss sees smaller batches."""
    whole = trained(1, objective__lambda_inf=0.0)
    cut = trained(devices, objective__lambda_inf=0.0, accumulation_steps=pieces)
    for step in range(STEPS):
        assert_same(whole[0][step], cut[0][step], rtol=1e-4)
        assert_same(means(whole[1][step]), means(cut[1][step]), rtol=1e-4)
    assert_same(whole[2], cut[2], rtol=1e-4)
