"""A batch that is cut into pieces gives the gradient of the whole,
the informative loss included.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.objectives.objective import ObjectiveConfig, Term, batch_objective
from multitrain_jax.parallel.mesh import replicate
from multitrain_jax.training import accumulation
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.tiny_training import means, prepared

# A scan over blocks, rematerialised, with mixup, erasing and colour jitter on.
SETTINGS = {
    'batch_size': 64,
    'model__backbone__stage_blocks': (3,),
    'model__backbone__remat': True,
    'objective__learned_informative_weights': True,
}


@functools.cache
def first_step(devices: int, pieces: int, accumulation: str, **more):
    """(gradients, metrics) of the first step."""
    source, driver, step, state = prepared(
        devices, accumulation_steps=pieces, accumulation=accumulation, **SETTINGS, **more
    )
    state = replicate(jax.tree.map(jnp.copy, state), driver.mesh)
    state, terms = step(state, driver.to_devices(source.batch(0)))
    return jax.device_get(state.opt_state[0]), means(jax.device_get(terms))


def difference(one, other):
    """The largest error of any gradient, relative to the largest number of its array."""
    return max(
        np.abs(a - b).max() / np.abs(a).max()
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        if np.abs(a).max() > 1e-6
    )


@pytest.mark.parametrize(
    ('devices', 'pieces'), [pytest.param(1, 8, marks=pytest.mark.slow), (8, 4)]
)
def test_two_passes_give_the_gradient_of_the_whole_batch(devices, pieces):
    whole, metrics = first_step(1, 1, 'plain')
    cut, cut_metrics = first_step(devices, pieces, 'two_pass')
    assert difference(whole, cut) < 1e-5
    assert cut_metrics.keys() == metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(cut_metrics[name], value, rtol=1e-5, err_msg=name)


def test_the_informative_loss_reaches_every_part():
    gradients, _ = first_step(1, 8, 'two_pass')
    (learned,) = jax.tree.leaves(gradients['objective'])
    assert np.all(np.abs(learned) > 1e-6)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients['expander']))


def test_both_forms_with_dropout_against_one_graph():
    """Against the gradient of all pieces in one graph, each with its own key."""
    config = ObjectiveConfig(lambda_inf=0.5)
    rng = np.random.default_rng(0)
    params = {'w': jnp.asarray(rng.normal(size=(6, 5)) / 3, jnp.float32)}
    pieces = jnp.arange(4), jnp.asarray(rng.normal(size=(4, 3, 6)), jnp.float32)

    def clip_loss(params, piece):
        number, x = piece
        keep = jax.random.bernoulli(jax.random.fold_in(jax.random.key(1), number), 0.5, (3, 5))
        expanded = jnp.where(keep, jnp.tanh(x @ params['w']), 0.0)
        loss = jnp.mean(jnp.square(expanded.sum(1) - 1.0))
        return loss, (expanded, {'clips': Term(loss, jnp.ones(()))})

    def batch_loss(params, expanded):
        return batch_objective(expanded, config)

    def everything(params):
        each = [clip_loss(params, jax.tree.map(lambda x, i=i: x[i], pieces)) for i in range(4)]
        expanded = jnp.concatenate([expanded for _, (expanded, _) in each])
        return sum(loss for loss, _ in each) / 4 + batch_loss(params, expanded)[0]

    value, expected = jax.value_and_grad(everything)(params)
    gradients, terms = jax.jit(
        functools.partial(accumulation.two_pass_gradients, clip_loss, batch_loss)
    )(params, pieces)
    np.testing.assert_allclose(gradients['w'], expected['w'], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(terms['loss'].sum / terms['loss'].count, value, rtol=1e-6)
    assert terms['clips'].count == 4 and terms['informative/std'].count == 1
    # It matters: in one pass every piece has its own, larger, covariances.
    plain, plain_terms = jax.jit(
        functools.partial(accumulation.plain_gradients, clip_loss, batch_loss)
    )(params, pieces)
    assert np.abs(plain['w'] - expected['w']).max() > 0.05 * np.abs(expected['w']).max()
    covariance, count = plain_terms['informative/covariance']
    assert covariance / count > 1.1 * terms['informative/covariance'].sum


def test_activations_of_one_piece_at_a_time():
    """What accumulation is for: memory goes down with the size of a piece,
    in two passes as well.
    """

    def temporary_bytes(pieces, accumulation):
        source, driver, step, state = prepared(
            1, accumulation_steps=pieces, accumulation=accumulation, **SETTINGS
        )
        share = driver.to_devices(source.batch(0))
        return step.lower(state, share).compile().memory_analysis().temp_size_in_bytes

    whole, cut = temporary_bytes(1, 'plain'), temporary_bytes(8, 'two_pass')
    assert cut < whole / 2, (cut, whole)
