"""Checksums notice every change of an element, and do not depend on where an array lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.checkpoints import checksums
from multitrain_jax.parallel.mesh import data_mesh, over_data

TREE = {
    'kernel': np.random.default_rng(0).standard_normal((8, 3, 5)).astype(np.float32),
    'count': np.int32(7),
    'many': np.arange(2**20 + 3, dtype=np.uint32),  # more than are summed at a time
    'half': np.asarray(jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)),
    'long': np.arange(5, dtype=np.int64) << 30,
    'flags': np.array([True, False, True]),
    'empty': np.zeros((0, 4), np.float32),
}


def test_the_formula():
    words = TREE['kernel'].view(np.uint32).ravel().tolist()
    expected = sum((2 * i + 1) * word for i, word in enumerate(words)) % 2**32
    assert checksums.array_checksums({'a': {0: TREE['kernel']}}) == {'a.0': expected}


def test_devices_and_host_agree():
    """Also where an array is divided over devices."""
    leaves = {name: leaf for name, leaf in TREE.items() if leaf.dtype not in (bool, np.int64)}
    sharding = over_data(data_mesh())
    arrays = [
        jax.device_put(leaf, sharding) if name == 'kernel' else jnp.asarray(leaf)
        for name, leaf in leaves.items()
    ]
    assert len(arrays[0].sharding.device_set) == 8
    on_device = checksums._sums_on_device(arrays)
    assert dict(zip(leaves, on_device.tolist())) == checksums.array_checksums(leaves)


@pytest.mark.parametrize('name', ['kernel', 'many', 'half', 'long', 'flags', 'count'])
def test_a_single_flipped_bit_is_noticed(name):
    stored = checksums.array_checksums(TREE)
    assert checksums.first_difference(stored, TREE) is None
    rng = np.random.default_rng(1)
    for _ in range(50):
        data = bytearray(TREE[name].tobytes())
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        changed = np.frombuffer(bytes(data), TREE[name].dtype).reshape(TREE[name].shape)
        assert checksums.first_difference(stored, TREE | {name: changed}) == name


def test_the_order_of_elements_counts():
    array = np.arange(1, 7, dtype=np.int32)
    assert checksums.array_checksums({'a': array}) != checksums.array_checksums({'a': array[::-1]})
