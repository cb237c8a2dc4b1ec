"""Attention in blocks of queries against the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.ops import attention_cpu
from multitrain_jax.ops.attention import attention


def _plain(q, k, v):
    return attention(*(a.swapaxes(1, 2) for a in (q, k, v))).swapaxes(1, 2)


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-5), ('bfloat16', 4e-2)])
@pytest.mark.parametrize('blocks', [1, 3, 4])
def test_values_and_gradients_are_those_of_the_plain_form(blocks, dtype, tolerance):
    rng = np.random.default_rng(0)
    shapes = ((2, 3, 10, 8), (2, 3, 7, 8), (2, 3, 7, 6), (2, 3, 10, 6))  # 10 queries: not 3 x 4
    q, k, v, g = (jnp.asarray(rng.normal(0, 1.5, shape), dtype) for shape in shapes)
    in_blocks = lambda q, k, v: attention_cpu.attend_in_blocks(blocks, q, k, v)  # noqa: E731
    results = []
    for function in (in_blocks, _plain):
        y, gradient = jax.vjp(function, q, k, v)
        results.append([y, *gradient(g)])
    for found, expected in zip(*results):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        expected = np.asarray(expected, np.float32)
        np.testing.assert_allclose(
            np.asarray(found, np.float32), expected, atol=tolerance * np.abs(expected).max()
        )


def test_blocks_fit_into_the_caches():
    assert attention_cpu.block_count((1, 12, 1568, 64), 1568) == 10  # 157 queries, 12 MB
    assert attention_cpu.block_count((1, 2, 64, 32), 64) == 1
    assert attention_cpu.block_count((64, 16, 2048, 64), 2048) == 64  # of 32 queries each
    assert attention_cpu.block_count((1, 1, 25088, 96), 392) == 4
