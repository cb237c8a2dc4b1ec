"""A few training steps of the tiny experiment, with their gradients, shared by the tests of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from multitrain_jax import optimizer, parallel, train_step
from tests import tiny

STEPS = 3


@functools.cache
def prepared(devices: int, **changes):
    """(source, mesh, step, state): a step that keeps its gradients, the state to start from."""
    config = tiny.config(**changes)
    source = tiny.ArraySource(config)
    mesh = parallel.data_mesh(jax.devices()[:devices])
    graphdef, abstract = train_step.abstract_model(config, source.datasets)
    schedule = optimizer.learning_rate_schedule(
        config.optimizer, steps_per_epoch=2, total_steps=STEPS
    )
    params = train_step.training_params(config, abstract)
    tx = optax.chain(
        tiny.keep_gradients(), optimizer.build_optimizer(config.optimizer, schedule, params)
    )
    state = jax.jit(lambda: train_step.init_state(config, source.datasets, tx))()
    step = parallel.map_train_step(
        train_step.make_train_step(config, source.datasets, graphdef, tx), mesh
    )
    return source, mesh, step, state


@functools.cache
def trained(devices: int, **changes):
    """Gradients and metrics of each of a few steps, and the parameters after them."""
    source, mesh, step, state = prepared(devices, **changes)
    state = parallel.replicate(jax.tree.map(jnp.copy, state), mesh)  # the step takes it over
    gradients, metrics = [], []
    for number in range(STEPS):
        state, terms = step(state, parallel.to_devices(source.batch(number), mesh))
        gradients.append(jax.device_get(state.opt_state[0]))
        metrics.append(jax.device_get(terms))
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
