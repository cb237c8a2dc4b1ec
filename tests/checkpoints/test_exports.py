"""Parameters of exports on disk."""

import jax
import numpy as np
import pytest

from multitrain_jax.checkpoints import exports
from multitrain_jax.errors import UserError


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_trees(tmp_path):
    tree = {'a': {0: np.arange(3.0), 1: np.ones((2, 2), np.float32)}}
    exports.save_tree(tmp_path / 't', tree)
    same(exports.load_tree(tmp_path / 't', tree), tree)
    with pytest.raises(UserError, match=r'parameter a.1 has shape \[2, 2\], must be \[2, 3\]'):
        exports.load_tree(tmp_path / 't', {'a': {0: np.zeros(3), 1: np.zeros((2, 3), np.float32)}})
    with pytest.raises(UserError, match='parameter b is missing'):
        exports.load_tree(tmp_path / 't', tree | {'b': np.zeros(1)})
    with pytest.raises(UserError, match='parameter a.1 is not part of this model'):
        exports.load_tree(tmp_path / 't', {'a': {0: np.zeros(3)}})
    with pytest.raises(UserError, match='not a readable checkpoint'):
        exports.load_tree(tmp_path / 'none', tree)
