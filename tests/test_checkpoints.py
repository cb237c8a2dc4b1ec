"""What is saved is what was there when save was called, and only whole checkpoints are found."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax import checkpoints
from multitrain_jax.errors import UserError


def state(number):
    return {
        'params': {'layers': {0: jnp.full((3, 4), float(number)), 1: jnp.arange(4.0) + number}},
        'opt_state': (jnp.full((2,), number, jnp.int32), {}),
        'key': jax.random.key(number),
        'step': jnp.asarray(number),
    }


def same(one, other):
    plain = lambda leaf: (
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    )
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_array_equal(plain(a), plain(b))


@pytest.fixture
def saved(tmp_path):
    opened = checkpoints.RunCheckpoints(tmp_path, keep=2)
    yield opened
    opened.close()


def test_round_trip_and_keep(saved):
    for step in (1, 2, 3):
        assert saved.save(step, state(step), {'model': {'width': step}})
    saved.wait()
    assert saved.all_steps() == [2, 3] and saved.latest_step() == 3
    same(saved.restore(3, jax.eval_shape(lambda: state(0))), state(3))
    same(saved.restore_params(2, state(0)['params']), state(2)['params'])
    assert saved.read_meta(2) == {'model': {'width': 2}}


def test_the_moving_average_is_what_is_used(saved):
    """Of the parameters that have one; the frozen ones are as they are."""
    kept = {'layers': {1: jnp.full(4, 7.0)}, 'objective': {'dataset': jnp.zeros(2)}}
    saved.save(1, state(1) | {'ema': kept}, {})
    saved.wait()
    same(
        saved.restore_params(1, state(0)['params']),
        {'layers': {0: state(1)['params']['layers'][0], 1: jnp.full(4, 7.0)}},
    )


def test_saving_a_step_again_is_no_error(saved):
    assert saved.save(1, state(1), {})
    assert not saved.save(1, state(5), {})
    same(saved.restore(1, state(0)), state(1))


def test_buffers_may_be_donated_at_once(saved):
    """The next step may overwrite the state's buffers while the save still runs.

    Orbax takes host copies before it returns; on the CPU it takes views, and JAX then does not
    reuse the buffers.
    """
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    big = {'params': jax.device_put(jnp.arange(8e6).reshape(8, -1))}
    expected = np.array(big['params'])
    assert saved.save(1, big, {})
    for _ in range(3):
        big = {'params': overwrite(big['params'])}
    jax.block_until_ready(big)
    saved.wait()
    np.testing.assert_array_equal(saved.restore(1, big)['params'], expected)


def test_half_written_checkpoints_are_not_found(tmp_path):
    first = checkpoints.RunCheckpoints(tmp_path, keep=5)
    first.save(1, state(1), {})
    first.close()
    shutil.copytree(
        tmp_path / 'checkpoints' / '1', tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
    )
    again = checkpoints.RunCheckpoints(tmp_path, keep=5)
    assert again.all_steps() == [1]
    same(again.restore(again.latest_step(), state(0)), state(1))
    again.close()


def test_nothing_saved(saved):
    assert saved.latest_step() is None and saved.all_steps() == []


META = {
    'model': {'width': 8, 'blocks': [1, 2]},
    'datasets': {'a': {'classes': ['x', 'y']}},
    'data_order': {'seed': 0},
    'state': {'ema': False, 'frozen': []},
    'config': {'log_every_steps': 1},
}


@pytest.mark.parametrize(
    ('part', 'value', 'message'),
    [
        ('model', {'width': 9, 'blocks': (1, 2)}, 'model.width was 8, is 9 now'),
        ('model', {'width': 8, 'blocks': (1, 3)}, r'model.blocks\[1\] was 2, is 3 now'),
        (
            'datasets',
            {'a': {'classes': ['y', 'x']}},
            r"datasets.a.classes\[0\] was 'x', is 'y' now",
        ),
        (
            'datasets',
            {'a': {'classes': ['x']}},
            r"datasets.a.classes was \['x', 'y'\], is \['x'\] now",
        ),
        ('data_order', {'seed': 1}, 'data_order.seed was 0, is 1 now'),
        ('state', {'ema': True, 'frozen': ()}, 'state.ema was False, is True now'),
    ],
)
def test_only_the_same_run_continues(part, value, message):
    with pytest.raises(UserError, match=message):
        checkpoints.check_same_run(META, META | {part: value}, 'here')


def test_how_it_is_logged_may_change():
    now = META | {'config': {'log_every_steps': 5}, 'model': {'width': 8, 'blocks': (1, 2)}}
    checkpoints.check_same_run(META, now, 'here')


def test_trees(tmp_path):
    tree = {'a': {0: np.arange(3.0), 1: np.ones((2, 2), np.float32)}}
    checkpoints.save_tree(tmp_path / 't', tree)
    same(checkpoints.load_tree(tmp_path / 't', tree), tree)
    with pytest.raises(UserError, match=r'parameter a.1 has shape \[2, 2\], must be \[2, 3\]'):
        checkpoints.load_tree(
            tmp_path / 't', {'a': {0: np.zeros(3), 1: np.zeros((2, 3), np.float32)}}
        )
    with pytest.raises(UserError, match='parameter b is missing'):
        checkpoints.load_tree(tmp_path / 't', tree | {'b': np.zeros(1)})
    with pytest.raises(UserError, match='parameter a.1 is not part of this model'):
        checkpoints.load_tree(tmp_path / 't', {'a': {0: np.zeros(3)}})
    with pytest.raises(UserError, match='not a readable checkpoint'):
        checkpoints.load_tree(tmp_path / 'none', tree)
