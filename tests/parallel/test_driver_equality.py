"""Both drivers, any division of the devices into replicas:
the gradients, metrics and parameters of one device.
"""

import itertools
import re

import jax
import numpy as np
import pytest

from multitrain_jax.errors import UserError
from multitrain_jax.models.vit import ViTConfig
from multitrain_jax.parallel.mesh import check_divides, grid_mesh
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.tiny_training import (
    STEPS,
    assert_same,
    experiment_on,
    means,
    prepared,
    trained,
    trained_state,
)

# Two stages of 2 and 4 heads, the second with a scan: 4 devices share the heads of the second stage
# only.
TWO_STAGES = dict(
    model__backbone__width=16,
    model__backbone__heads=2,
    model__backbone__stage_blocks=(1, 2),
    model__backbone__query_strides=((1, 1, 1), (1, 2, 2)),
    optimizer__ema_decay=0.5,
)
# Plain transformers: two blocks of 4 heads in one scan, rotary positions, an attentive pooler.
PLAIN = dict(
    model__backbone=ViTConfig(
        num_frames=4,
        image_size=16,
        width=32,
        blocks=2,
        heads=4,
        mlp_width=64,
        patch_stride=(2, 4, 4),
        positions='rotary',
        pooling='attentive',
        pooler_blocks=1,
        init_std=0.2,
    ),
    optimizer__layer_decay=0.7,
    optimizer__ema_decay=0.5,
)
ZERO = dict(parallel__shard_optimizer=True)
TWO_PASS = dict(accumulation='two_pass', accumulation_steps=2)
REMAT = dict(model__backbone__remat=True)


def assert_as_on_one_device(devices, *, model, reference=TWO_STAGES, **changes):
    one, metrics, params = trained(1, **reference)
    gradients, own_metrics, own_params = trained(devices, model=model, **reference | changes)
    for step in range(STEPS):
        assert_same(one[step], gradients[step], rtol=1e-4)
        assert_same(means(metrics[step]), means(own_metrics[step]), rtol=1e-4)
    assert_same(params, own_params, rtol=1e-4)


@pytest.mark.parametrize(
    ('model', 'changes'),
    [
        pytest.param(0, {}, id='pmap'),
        pytest.param(1, ZERO, id='8x1', marks=pytest.mark.slow),
        pytest.param(2, ZERO | TWO_PASS | REMAT, id='4x2'),
        pytest.param(4, {}, id='2x4', marks=pytest.mark.slow),
    ],
)
def test_eight_devices_give_the_numbers_of_one(model, changes):
    """Gradients too: AdamW would hide a factor in them, clipping would not."""
    assert_as_on_one_device(8, model=model, **changes)


def test_devices_that_share_a_plain_transformer_give_the_numbers_of_one():
    assert_as_on_one_device(8, model=4, reference=PLAIN, **ZERO, **TWO_PASS)
    state = trained_state(8, model=4, **PLAIN, **ZERO, **TWO_PASS)[2]
    backbone = state.params['backbone']
    for block in (backbone['blocks'], backbone['pooler']['blocks']):
        for kernel in (block['attention']['qkv'], block['mlp']['fc1'], block['mlp']['fc2']):
            own, whole = bytes_of(kernel['kernel'])
            assert own == whole / 4


@pytest.fixture
def own_programs():
    """Compiled programs go with the test: every kernel is a memory mapping,
    of which Linux lets a process have 65,530.
    """
    yield
    for function in (experiment_on, prepared, trained_state):
        function.cache_clear()
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.usefixtures('own_programs')
@pytest.mark.parametrize(
    ('model', 'accumulation', 'remat', 'zero'),
    [
        case
        for case in itertools.product(
            (0, 1, 2, 4), ('none', 'plain', 'two_pass'), (False, True), (False, True)
        )
        if case[0] or not case[3]  # pmap keeps the whole state everywhere
    ],
)
def test_every_combination_gives_the_numbers_of_one_device(model, accumulation, remat, zero):
    reference = TWO_STAGES | dict(batch_size=32)
    changes = dict(model__backbone__remat=remat, parallel__shard_optimizer=zero)
    if accumulation != 'none':
        changes |= dict(accumulation=accumulation, accumulation_steps=2)
    if accumulation == 'plain':  # it takes the informative loss of each part
        reference |= dict(objective__lambda_inf=0.0)
    assert_as_on_one_device(8, model=model, reference=reference, **changes)


def bytes_of(tree) -> tuple[int, int]:
    """(on the first device, of the whole arrays)."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves), sum(
        leaf.nbytes for leaf in leaves
    )


def test_replicas_divide_the_optimizer_state():
    """ZeRO-1: of 8 replicas each has little more than an eighth of
    the moments and of the average.
    """
    state = trained_state(8, model=1, **TWO_STAGES, **ZERO)[2]
    for part in (state.opt_state, state.ema):
        own, whole = bytes_of(part)
        assert whole / 8 <= own < whole / 8 * 1.15, (own, whole)
    assert len(set(bytes_of(state.params))) == 1  # every replica needs all of them


def test_devices_of_a_replica_share_its_kernels():
    state = trained_state(8, model=4, **TWO_STAGES)[2]
    second = state.params['backbone']['stages'][1]['first']
    for kernel in (
        second['attention']['qkv'],
        second['attention']['output'],
        second['mlp']['fc1'],
        second['mlp']['fc2'],
    ):
        own, whole = bytes_of(kernel['kernel'])
        assert own == whole / 4
    moments = [
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.opt_state[1])
    ]
    assert sum(moments) == 2 * bytes_of(state.params)[0] + 8  # and two counts of updates


def test_equal_arrays_stay_equal_on_all_replicas():
    """What is said to be whole everywhere has the same numbers everywhere, after some steps."""
    params = trained_state(8, model=2, **TWO_STAGES, **ZERO, **TWO_PASS, **REMAT)[2].params
    for leaf in jax.tree.leaves(params):
        first = {}
        for shard in leaf.addressable_shards:
            other = first.setdefault(str(shard.index), shard.data)
            np.testing.assert_array_equal(shard.data, other)


def test_the_compiled_step_divides_the_work():
    """Each device of a replica computes its part of an MLP's hidden units,
    and the attention of its heads.
    """
    source, _, step, state = prepared(8, model=4, **TWO_STAGES)
    shapes = jax.eval_shape(lambda: state)
    text = step.lower(shapes, jax.eval_shape(lambda: source.batch(0))).compile().as_text()
    exponentials = set(
        re.findall(r'= (f32\[[\d,]*\])\S* exponential\(', text)
    )  # of the softmax: [B, heads, queries, keys]
    assert {
        'f32[8,2,32,8]',
        'f32[8,1,8,8]',
    } <= exponentials  # both of stage 1's 2 heads; 1 of stage 2's 4
    assert 'f32[8,4,8,8]' not in exponentials
    products = set(re.findall(r'= (f32\[[\d,]*\])\S* dot\(', text))  # [B * tokens, hidden units]
    assert {'f32[256,8]', 'f32[64,16]'} <= products  # a quarter of 32, a quarter of 64
    assert not {'f32[64,64]', 'f32[8,8,64]'} & products
    assert 'all-to-all' in text  # the columns of qkv change places


def test_stages_whose_heads_do_not_divide_are_named():
    config = tiny.config(**TWO_STAGES)
    for devices, blocks in ((1, ''), (2, ''), (4, 'stage 1'), (8, 'stage 1, 2')):
        assert config.model.backbone.undivided(devices) == blocks


def test_a_mesh_that_does_not_divide_the_devices():
    with pytest.raises(
        UserError,
        match='config.parallel.model=3 does not divide the 8 devices of a host; use a divisor',
    ):
        grid_mesh(3)
    with pytest.raises(
        UserError,
        match='batch_size=6 does not divide over 4 replicas of 2 devices; use a multiple of 4, '
        'such as 8',
    ):
        check_divides(6, grid_mesh(2), 'batch_size')
