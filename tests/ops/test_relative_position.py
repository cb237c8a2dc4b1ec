"""Decomposed relative positions against a plain loop over all pairs."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.ops.relative_position import distance_index, key_selector, position_terms


@pytest.mark.parametrize(
    'q_thw, k_thw', [((2, 4, 4), (2, 4, 4)), ((2, 4, 6), (2, 2, 3)), ((2, 2, 2), (2, 4, 4))]
)
def test_bias_of_every_pair(q_thw, k_thw):
    generator = np.random.default_rng(0)
    q = generator.normal(size=(2, np.prod(q_thw), 3, 5))  # [B, L, heads, d]
    tables = [generator.normal(size=(2 * max(n, m) - 1, 5)) for n, m in zip(q_thw, k_thw)]
    terms = position_terms(jnp.float32(q), tuple(map(jnp.float32, tables)), q_thw, k_thw)
    bias = np.asarray(terms) @ key_selector(k_thw).T  # [B, L, heads, L']

    expected = np.zeros_like(bias, dtype=np.float64)
    q_points = list(itertools.product(*map(range, q_thw)))
    k_points = list(itertools.product(*map(range, k_thw)))
    for (i, a), (j, b) in itertools.product(enumerate(q_points), enumerate(k_points)):
        for axis, table in enumerate(tables):
            n, m = q_thw[axis], k_thw[axis]
            # The finer grid counts in ones, the coarser in steps of their ratio.
            distance = a[axis] * max(m // n, 1) - (b[axis] - (m - 1)) * max(n // m, 1)
            expected[:, i, :, j] += q[:, i] @ table[distance]
    np.testing.assert_allclose(bias, expected, atol=1e-4)


def test_distances_of_grids_that_do_not_divide():
    # 312 px: 20 keys for 10 queries, but 39 for 20 in the stage before.
    index = distance_index(20, 39)
    assert index.min() >= 0 and index.max() <= 2 * 39 - 2
    assert index[0, -1] == 0 and index[-1, 0] == int(19 * 39 / 20 + 38)


def test_tables_of_another_size_are_interpolated_linearly():
    table = jnp.arange(3.0)[:, None]  # for 2 x 2; a ramp stays one, held at its ends
    q = jnp.ones((1, 4, 1, 1))
    ones = (jnp.zeros((1, 1)),) * 2
    terms = position_terms(q, (table, *ones), (4, 1, 1), (4, 1, 1))[0, :, 0, :4]
    ramp = np.clip((np.arange(7) + 0.5) * 3 / 7 - 0.5, 0, 2)
    np.testing.assert_allclose(terms, ramp[distance_index(4, 4)], atol=1e-6)


def _by_torch(queries: int, keys: int) -> np.ndarray:
    """PySlowFast's formula, evaluated by PyTorch as it is there."""
    torch = pytest.importorskip('torch')
    query_step, key_step = max(keys / queries, 1.0), max(queries / keys, 1.0)
    distance = torch.arange(queries)[:, None] * query_step - torch.arange(keys)[None, :] * key_step
    distance += (keys - 1) * key_step
    return distance.long().numpy()


def _differing(queries: int, keys: int) -> int:
    wide, narrow = (distance_index(queries, keys, name) for name in ('float64', 'float32'))
    return int((wide != narrow).sum())


def test_pyslowfasts_rounding_differs_where_steps_are_no_whole_numbers():
    # Its L 40x3 at 312 px: 78 and 39 queries for 10 keys.
    assert _differing(78, 10) == 103 and _differing(39, 10) == 38
    assert _differing(56, 7) == _differing(14, 7) == 0
    sizes = range(1, 81)
    assert sum(_differing(a, b) > 0 for a in sizes for b in sizes) == 568


def test_pyslowfasts_rounding_is_pytorchs():
    for queries in range(1, 81):
        for keys in range(1, 81):
            np.testing.assert_array_equal(
                distance_index(queries, keys, 'float32'), _by_torch(queries, keys)
            )
