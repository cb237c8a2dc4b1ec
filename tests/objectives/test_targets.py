import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.objectives.targets import make_targets


def test_class_numbers_become_one_hot_rows():
    targets = make_targets(jnp.asarray([2, 0]), jnp.asarray([1, 0]), jnp.asarray([1.0, 0.0]), 4)
    np.testing.assert_array_equal(targets.label[:, 0], [[0, 0, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(targets.dataset, [[1], [0]])
    np.testing.assert_array_equal(targets.lam, [[1], [1]])
    np.testing.assert_array_equal(targets.weight, [1, 0])


def test_multi_hot_rows_stay():
    rows = jnp.asarray([[1.0, 0.0, 1.0]])
    targets = make_targets(rows, jnp.zeros(1, jnp.int32), jnp.ones(1), 3)
    np.testing.assert_array_equal(targets.label[:, 0], rows)


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match=r'\[B, 4\]'):
        make_targets(jnp.zeros((1, 3)), jnp.zeros(1, jnp.int32), jnp.ones(1), 4)
