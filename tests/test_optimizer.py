import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.optimizer import (
    OptimizerConfig,
    build_optimizer,
    decay_mask,
    learning_rate_schedule,
)
from tests.helpers.golden import reference_path

SCHEDULES = ['multi_dataset', 'multi_dataset_2shards', 'k400_pretrain', 'ssv2_single']


@pytest.mark.parametrize('name', SCHEDULES)
def test_learning_rate_equal_to_the_reference(name):
    golden = json.loads(reference_path('lr_schedule.json').read_text())[name]
    solver, epochs = golden['solver'], np.asarray(golden['epoch'])
    config = OptimizerConfig(
        peak_learning_rate=solver['base_lr'],
        warmup_start_learning_rate=solver['warmup_start_lr'],
        end_learning_rate=solver['cosine_end_lr'],
        warmup_epochs=solver['warmup_epochs'],
    )
    steps_per_epoch = 1000
    schedule = learning_rate_schedule(
        config, steps_per_epoch=steps_per_epoch, total_steps=solver['max_epoch'] * steps_per_epoch
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(schedule(epochs * steps_per_epoch), golden['lr'], rtol=1e-12)
    # What training sees: whole steps, float32.
    whole = epochs * steps_per_epoch == np.round(epochs * steps_per_epoch)
    assert whole.sum() > 20
    steps = jnp.asarray(epochs[whole] * steps_per_epoch, jnp.int32)
    np.testing.assert_allclose(schedule(steps), np.asarray(golden['lr'])[whole], rtol=1e-6)


def test_warmup_may_be_given_in_steps_and_the_end_is_kept():
    rates = {'peak_learning_rate': 1.0, 'warmup_start_learning_rate': 0.0, 'end_learning_rate': 0.5}
    by_steps = OptimizerConfig(**rates, warmup_steps=6)
    by_epochs = OptimizerConfig(**rates, warmup_epochs=1.5)
    for config in (by_steps, by_epochs):
        schedule = learning_rate_schedule(config, steps_per_epoch=4, total_steps=12)
        np.testing.assert_allclose([float(schedule(s)) for s in (0, 3, 6, 9)], [0, 0.5, 1, 0.75])
        assert float(schedule(12)) == float(schedule(100)) == 0.5


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match='warmup_epochs=1.0 and warmup_steps=2'):
        OptimizerConfig(warmup_epochs=1.0, warmup_steps=2)
    with pytest.raises(ValueError, match='does not fit into 5 steps'):
        learning_rate_schedule(OptimizerConfig(warmup_steps=5), steps_per_epoch=5, total_steps=5)
    with pytest.raises(ValueError, match='end_learning_rate=1.0'):
        OptimizerConfig(end_learning_rate=1.0)


def _renamed(torch_name):
    """Our names for the golden parameters: torch calls kernels and scales of norms `weight`."""
    *path, last = torch_name.split('.')
    if last == 'weight':
        last = 'scale' if path[-1].startswith('norm') else 'kernel'
    return (*path, last)


def _nested(flat):
    tree = {}
    for name, value in flat.items():
        node = tree
        *path, last = _renamed(name)
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


@pytest.mark.parametrize('wide', [True, False], ids=['float64', 'float32'])
@pytest.mark.parametrize('file', ['adamw_step.npz', 'adamw_step_lr_changes.npz'])
def test_steps_equal_to_torch_adamw(file, wide):
    golden = np.load(reference_path(file))
    meta = json.loads(str(golden['meta_json']))
    names = list(meta['weight_decay'])
    dtype = np.float64 if wide else np.float32

    def tree(prefix):
        return _nested({name: golden[f'{prefix}/{name}'].astype(dtype) for name in names})

    rates = meta['lr_per_step']
    config = OptimizerConfig(
        b1=meta['betas'][0],
        b2=meta['betas'][1],
        eps=meta['eps'],
        weight_decay=meta['weight_decay_value'],
        clip_norm=meta['clip_l2'],
    )
    with jax.enable_x64(wide):
        params = jax.tree.map(jnp.asarray, tree('init'))
        optimizer = build_optimizer(config, lambda step: jnp.asarray(rates)[step], params)
        state = jax.jit(optimizer.init)(params)
        update = jax.jit(optimizer.update)
        for step in range(1, len(rates) + 1):
            gradients = jax.tree.map(jnp.asarray, tree(f'grad{step}'))
            updates, state = update(gradients, state, params)
            params = jax.tree.map(lambda p, u: p + u, params, updates)
            tolerance = {'rtol': 1e-12, 'atol': 1e-14} if wide else {'rtol': 0, 'atol': 3e-7}
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, **tolerance),
                params,
                tree(f'step{step}'),
            )


def test_decay_of_the_golden_parameters():
    golden = np.load(reference_path('adamw_step.npz'))
    decay = json.loads(str(golden['meta_json']))['weight_decay']
    mask = decay_mask(_nested({name: golden[f'init/{name}'] for name in decay}))
    assert mask == _nested({name: value > 0 for name, value in decay.items()})


def test_decay_goes_by_name_where_blocks_and_heads_are_stacked():
    class Block(nnx.Module):
        def __init__(self, *, rngs):
            self.norm = nnx.LayerNorm(4, rngs=rngs)
            self.linear = nnx.Linear(4, 4, rngs=rngs)
            self.position = nnx.Param(jnp.zeros((2, 4)))

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def stack(rngs):
        return Block(rngs=rngs)

    params = nnx.state(stack(nnx.Rngs(0)), nnx.Param)
    expected = {
        'norm': {'bias': False, 'scale': False},
        'linear': {'bias': False, 'kernel': True},
        'position': True,
    }
    assert params['linear']['bias'].shape == (3, 4)  # 2-D, and yet a bias
    assert nnx.to_pure_dict(decay_mask(params)) == expected
    assert decay_mask(nnx.to_pure_dict(params)) == expected


def test_decay_of_the_real_model():
    backbone = MViTConfig(
        num_frames=4, image_size=32, width=8, stage_blocks=(2,), query_strides=((1, 1, 1),)
    )
    config = MultiTrainConfig(backbone, (3, 5), head_hidden=8, expander_hidden=8)
    params = nnx.state(nnx.eval_shape(lambda: MultiTrainModel(config, rngs=nnx.Rngs(0))), nnx.Param)
    mask, shapes = nnx.to_pure_dict(decay_mask(params)), nnx.to_pure_dict(params)
    names = {True: set(), False: set()}
    for path, decays in jax.tree_util.tree_leaves_with_path(mask):
        names[decays].add(path[-1].key)
    assert names[False] == {'bias', 'scale', 'hidden_bias', 'patch_bias', 'pool_bias', 'pool_scale'}
    assert names[True] >= {'kernel', 'hidden_kernel', 'patch_kernel', 'pool_kernel'}
    assert names[True].isdisjoint(names[False])
    assert shapes['heads']['bias'].shape == (2, 5)


def test_no_clipping_when_off():
    params = {'kernel': jnp.ones((2, 2))}
    config = OptimizerConfig(clip_norm=0.0, weight_decay=0.0, b1=0.0, b2=0.0, eps=1.0)
    optimizer = build_optimizer(config, lambda step: 1.0, params)
    updates, _ = optimizer.update(
        {'kernel': jnp.full((2, 2), 100.0)}, optimizer.init(params), params
    )
    np.testing.assert_allclose(updates['kernel'], -100.0 / 101.0, rtol=1e-6)
