"""A few training steps of the tiny experiment, with their gradients,
shared by the tests of training.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from multitrain_jax import experiment
from multitrain_jax.parallel.drivers import Pmap, ShardMap
from multitrain_jax.parallel.mesh import data_mesh, grid_mesh
from tests.helpers import tiny

STEPS = 3


def wired(config, datasets, driver, steps: int = STEPS):
    """An experiment whose optimizer keeps the gradients as the first part of its state."""
    length = experiment.Length(steps, per_epoch=2)
    found = experiment.prepare(config, datasets, driver, length)
    return dataclasses.replace(found, tx=optax.chain(tiny.keep_gradients(), found.tx))


@functools.cache
def experiment_on(devices: int, *, model: int = 0, **changes):
    """(source, the tiny experiment on its batches).

    Args:
        devices: number of them.
        model: devices of a replica, run by shard_map; 0: run by pmap.
        **changes: of the tiny config.
    """
    config = tiny.config(**changes)
    source = tiny.ArraySource(config)
    devices = jax.devices()[:devices]
    driver = ShardMap(grid_mesh(model, devices)) if model else Pmap(data_mesh(devices))
    return source, wired(config, source.datasets, driver)


@functools.cache
def prepared(devices: int, *, model: int = 0, **changes):
    """(source, driver, step, state) of `experiment_on`:
    its training step, the state to start from.
    """
    source, found = experiment_on(devices, model=model, **changes)
    return source, found.driver, found.train_step, jax.jit(found.random_state)()


@functools.cache
def trained_state(devices: int, *, model: int = 0, **changes):
    """Gradients and metrics of each of a few steps,
    and the state after them as it lies on the devices.
    """
    source, driver, step, state = prepared(devices, model=model, **changes)
    copy = jax.tree.map(jnp.copy, state)  # the step takes it over
    state = jax.device_put(copy, experiment_on(devices, model=model, **changes)[1].shardings)
    gradients, metrics = [], []
    for number in range(STEPS):
        state, terms = step(state, driver.to_devices(source.batch(number)))
        gradients.append(jax.device_get(state.opt_state[0]))
        metrics.append(jax.device_get(terms))
    return gradients, metrics, state


def trained(devices: int, *, model: int = 0, **changes):
    """Gradients and metrics of each of a few steps, and the parameters after them."""
    gradients, metrics, state = trained_state(devices, model=model, **changes)
    return gradients, metrics, jax.device_get(state.params)


def assert_same(one, other, *, rtol):
    """Equal within rtol of each array's largest number (and 1e-5 of the largest of all)."""
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(one))
    floor = 1e-5 * max(np.abs(leaf).max() for leaf in leaves)
    for path, a, b in zip(paths, leaves, jax.tree.leaves(other), strict=True):
        tolerance = rtol * np.abs(a).max() + floor
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def means(metrics):
    """Metrics of a step, without those that were never counted."""
    return {name: total / count for name, (total, count) in metrics.items() if count > 0}
