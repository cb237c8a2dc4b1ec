"""A few training steps of the tiny experiment, with their gradients, shared by the tests of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from multitrain_jax import optimizer
from multitrain_jax.config import with_datasets
from multitrain_jax.parallel import layout
from multitrain_jax.parallel.drivers import Pmap, ShardMap
from multitrain_jax.parallel.mesh import data_mesh, grid_mesh
from multitrain_jax.training import train_step
from tests.helpers import tiny

STEPS = 3


@functools.cache
def prepared(devices: int, *, model: int = 0, **changes):
    """(source, driver, step, state): a step that keeps its gradients, the state to start from.

    Args:
        devices: number of them.
        model: devices of a replica, run by shard_map; 0: run by pmap.
        **changes: of the tiny config.
    """
    config = tiny.config(**changes)
    source = tiny.ArraySource(config)
    devices = jax.devices()[:devices]
    driver = ShardMap(grid_mesh(model, devices)) if model else Pmap(data_mesh(devices))
    graphdef, abstract = train_step.abstract_model(config, source.datasets)
    schedule = optimizer.learning_rate_schedule(
        config.optimizer, steps_per_epoch=2, total_steps=STEPS
    )
    params = train_step.training_params(config, abstract)
    tx = optax.chain(
        tiny.keep_gradients(),
        optimizer.build_optimizer(config.optimizer, schedule, params, config.model.backbone),
    )
    state = jax.jit(lambda: train_step.init_state(config, source.datasets, tx))()
    step = driver.train_step(
        train_step.make_train_step(config, source.datasets, graphdef, tx),
        shardings(config, source, state, driver.mesh),
    )
    return source, driver, step, state


def shardings(config, source, state, mesh):
    """Of the state, as `train_and_evaluate` lays it out."""
    model = with_datasets(config, source.datasets)
    return layout.state_shardings(
        state, mesh, model, shard_optimizer=config.parallel.shard_optimizer
    )


@functools.cache
def trained_state(devices: int, *, model: int = 0, **changes):
    """Gradients and metrics of each of a few steps, and the state after them as it lies on the devices."""
    source, driver, step, state = prepared(devices, model=model, **changes)
    copy = jax.tree.map(jnp.copy, state)  # the step takes it over
    state = jax.device_put(copy, shardings(tiny.config(**changes), source, state, driver.mesh))
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
