"""Frozen parts, layer-wise decay, factors of the learning rate,
moving averages, learned weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from multitrain_jax import optimizer
from multitrain_jax.optimizer import LearningRateFactors, OptimizerConfig
from multitrain_jax.parallel.mesh import replicate
from multitrain_jax.training import train_step
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.tiny_training import STEPS, prepared, trained

DEEP = {
    'model__backbone__stage_blocks': (2, 3),
    'model__backbone__query_strides': ((1, 1, 1), (1, 2, 2)),
}


def deep():
    """(parameters, backbone)."""
    config = tiny.config(**DEEP)
    params = tiny.abstract(config, tiny.ArraySource(config).datasets)[1]
    return params, config.model.backbone


def test_layer_wise_decay_by_hand():
    """decay^(L + 1 - l) with L = 5 blocks: 0 what makes tokens,
    1 to 5 the blocks, 6 what follows.
    """
    factors = optimizer.learning_rate_factors(OptimizerConfig(layer_decay=0.7), *deep())
    stages = factors['backbone']['stages']
    power = {
        6: [factors['backbone'][name] for name in ('patch_kernel', 'patch_bias')]
        + [factors['backbone'][name] for name in ('spatial_positions', 'temporal_positions')],
        5: jax.tree.leaves(stages[0]['first']),
        4: [leaf[0] for leaf in jax.tree.leaves(stages[0]['rest'])],
        3: jax.tree.leaves(stages[1]['first']),
        2: [leaf[0] for leaf in jax.tree.leaves(stages[1]['rest'])],
        1: [leaf[1] for leaf in jax.tree.leaves(stages[1]['rest'])],
        0: jax.tree.leaves(
            [
                factors['backbone']['norm'],
                *(factors[name] for name in ('heads', 'projections', 'expander')),
            ]
        ),
    }
    for exponent, leaves in power.items():
        assert leaves
        for leaf in leaves:
            np.testing.assert_allclose(leaf, 0.7**exponent, rtol=1e-6)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(stages[1]['rest']))


def adamw_by_hand(config, rate, gradients, params, factor, decays):
    """AdamW in float64 for one parameter over several steps; `factor` of the learning rate."""
    m = v = np.zeros_like(params, np.float64)
    params = np.asarray(params, np.float64)
    for t, g in enumerate(np.asarray(gradients, np.float64), 1):
        m, v = config.b1 * m + (1 - config.b1) * g, config.b2 * v + (1 - config.b2) * g * g
        update = (m / (1 - config.b1**t)) / (np.sqrt(v / (1 - config.b2**t)) + config.eps)
        params = params - rate * factor * (
            update + (config.weight_decay if decays else 0.0) * params
        )
    return params


def test_updates_with_factors_against_numpy():
    """Factors multiply the whole step, weight decay included, slice by slice in stacked blocks."""
    config = OptimizerConfig(
        layer_decay=0.5,
        learning_rate_factors=LearningRateFactors(projections=3.0),
        clip_norm=0.0,
        weight_decay=0.1,
    )
    rng = np.random.default_rng(0)
    shapes = {
        'backbone': {
            'patch_kernel': (3, 2),
            'stages': {
                0: {'first': {'kernel': (2, 2)}, 'rest': {'kernel': (1, 2, 2)}},
                1: {'first': {'kernel': (2, 2)}, 'rest': {'kernel': (2, 2, 2)}},
            },
        },
        'heads': {'kernel': (2, 3), 'bias': (3,)},
        'projections': {'kernel': (2, 1, 3, 3)},
    }
    is_shape = lambda node: isinstance(node, tuple)
    draw = lambda: jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=is_shape
    )
    params, gradients = draw(), [draw(), draw()]
    backbone = tiny.config(**DEEP).model.backbone
    tx = optimizer.build_optimizer(config, lambda step: 0.01, params, backbone)
    new, state = jax.tree.map(jnp.asarray, params), tx.init(params)
    update = jax.jit(tx.update)
    for g in gradients:
        updates, state = update(g, state, new)
        new = optax.apply_updates(new, updates)
    kernels = {  # blocks 4 and 5 of 5 are stacked
        ('projections', 'kernel'): 3.0,
        ('heads', 'kernel'): 1.0,
        ('heads', 'bias'): 1.0,
        ('backbone', 'stages', 0, 'first', 'kernel'): 0.5**5,
        ('backbone', 'stages', 1, 'rest', 'kernel'): np.array([0.25, 0.5]).reshape(2, 1, 1),
        ('backbone', 'patch_kernel'): 0.5**6,
    }
    for path, factor in kernels.items():
        pick = lambda tree, path=path: pick(tree[path[0]], path[1:]) if path else tree
        expected = adamw_by_hand(
            config, 0.01, [pick(g) for g in gradients], pick(params), factor, path[-1] != 'bias'
        )
        np.testing.assert_allclose(pick(new), expected, rtol=1e-5, atol=1e-6, err_msg=str(path))


FROZEN = {'optimizer__frozen': ('backbone',)}


def test_frozen_parameters_keep_every_bit():
    state = prepared(1, **FROZEN)[3]
    gradients, _, params = trained(1, **FROZEN)
    for a, b in zip(
        jax.tree.leaves(state.params['backbone']), jax.tree.leaves(params['backbone']), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert 'backbone' not in gradients[0] and set(gradients[0]) == {
        'heads',
        'projections',
        'expander',
    }
    assert all(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(state.params['heads']), jax.tree.leaves(params['heads']))
    )


def test_the_other_gradients_are_as_without_freezing():
    frozen, free = trained(1, **FROZEN)[0][0], trained(1)[0][0]
    for a, b in zip(
        jax.tree.leaves(frozen), jax.tree.leaves({name: free[name] for name in frozen}), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_frozen_parameters_cost_no_backward_pass_and_no_memory():
    def cost(**changes):
        source, driver, step, state = prepared(1, **changes)
        compiled = step.lower(state, driver.to_devices(source.batch(0))).compile()
        sizes = [leaf.size for leaf in jax.tree.leaves(state.opt_state)]
        return compiled.cost_analysis()['flops'], sum(sizes)

    (flops, memory), (full_flops, full_memory) = cost(**FROZEN), cost()
    assert flops < 0.6 * full_flops
    params = prepared(1)[3].params
    backbone = sum(leaf.size for leaf in jax.tree.leaves(params['backbone']))
    assert full_memory - memory == 3 * backbone  # two moments, and the gradient that the tests keep


LEARNED = {
    'objective__learned_dataset_weights': True,
    'objective__learned_informative_weights': True,
    'optimizer__learning_rate_factors__objective': 5.0,
    'optimizer__ema_decay': 0.6,
    'optimizer__ema_warmup': True,
}


def test_moving_average_against_numpy():
    """In float64, with the warm-up of the decay; evaluated with, but trained without."""
    source, driver, step, state = prepared(1, **LEARNED)
    expected = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params)
    state = replicate(jax.tree.map(jnp.copy, state), driver.mesh)
    for number in range(STEPS):
        state, _ = step(state, driver.to_devices(source.batch(number)))
        decay = min(0.6, (1 + number) / (10 + number))
        params = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params)
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, params)
    used = train_step.inference_params(state)
    for name in ('backbone', 'heads', 'projections', 'expander'):
        for a, b, p in zip(
            *map(jax.tree.leaves, (used[name], expected[name], state.params[name])), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
            assert not np.allclose(a, p, rtol=1e-6, atol=0)


def test_a_frozen_part_has_no_average():
    state = prepared(1, optimizer__ema_decay=0.9, **FROZEN)[3]
    assert 'backbone' not in state.ema and 'heads' in state.ema
    assert jax.tree.structure(train_step.inference_params(state)) == jax.tree.structure(
        state.params
    )


def test_learned_weights_are_trained():
    """All four move, downhill and without decay; the model that is evaluated does not hold them."""
    gradients, metrics, params = trained(1, **LEARNED)
    assert set(params['objective']) == {'dataset', 'informative'}
    state = prepared(1, **LEARNED)[3]
    assert 'objective' not in train_step.inference_params(state)
    rate = optimizer.learning_rate_schedule(
        tiny.config().optimizer, steps_per_epoch=2, total_steps=STEPS
    )
    for name, value in params['objective'].items():
        clipped = [
            g['objective'][name] * min(1, 1 / (float(optax.global_norm(g)) + 1e-6))
            for g in gradients
        ]
        expected, config, m, v = np.zeros(2), tiny.config().optimizer, 0.0, 0.0
        for t, g in enumerate(clipped, 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + config.eps)
            expected = expected - 5.0 * float(rate(t - 1)) * step
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-6)
        assert np.all(np.abs(value) > 1e-4)
    weight = [total / count for total, count in (m['weight/colours'] for m in metrics)]
    assert weight[0] == 1.0 and weight[1] != weight[2] != 1.0


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {
                'objective__projection_l1': 1e-4,
                'objective__lambda_proj': 0.0,
                'model__projections': False,
            },
            'objective.projection_l1=0.0001 needs model.projections=True',
        ),
        ({'model__projections': False}, 'objective.lambda_proj=1 needs model.projections=True'),
        ({'model__expander': False}, 'objective.lambda_inf=0.1 needs model.expander=True'),
        (
            {
                'model__projections': False,
                'model__add_projected': 1.0,
                'objective__lambda_proj': 0.0,
            },
            'add_projected=1.0 needs projections=True',
        ),
        (
            {
                'projections_from': 'x.npz',
                'model__projections': False,
                'objective__lambda_proj': 0.0,
            },
            "projections_from='x.npz' needs model.projections=True",
        ),
        ({'optimizer__layer_decay': 1.5}, r'layer_decay=1.5 must be in \(0, 1\]'),
        ({'optimizer__ema_warmup': True}, 'ema_warmup=True has no effect with ema_decay=0'),
        (
            {'optimizer__learning_rate_factors__heads': 0.0},
            'heads=0.0 must be positive; optimizer.frozen keeps parameters as they are',
        ),
        (
            {'accumulation': 'three_pass'},
            "accumulation='three_pass': must be one of 'plain', 'two_pass'",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny.config(**changes)
    assert '\n' not in str(error.value)
