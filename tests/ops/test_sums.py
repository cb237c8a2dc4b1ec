"""Sums in one reduction, and by a product, against NumPy's."""

import jax
import numpy as np
import pytest

from multitrain_jax.ops.sums import sum_over, sums


@pytest.mark.parametrize('implementation', ['separate', 'together', None])
@pytest.mark.parametrize('axes', [(0, 2), (1,), (0, 1, 2)])
def test_value_and_gradient(implementation, axes):
    a, b, g = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)

    @jax.jit
    def ours(a, b):
        totals, backward = jax.vjp(
            lambda a, b: sums([a, a * b], axes, implementation=implementation), a, b
        )
        return totals, backward([g[0].sum() * totals[0], totals[1]])

    totals, (of_a, of_b) = ours(a, b)
    np.testing.assert_allclose(totals[0], a.sum(axes), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(totals[1], (a * b).sum(axes), rtol=1e-5, atol=1e-6)
    first, second = g[0].sum() * a.sum(axes, keepdims=True), (a * b).sum(axes, keepdims=True)
    np.testing.assert_allclose(of_a, first + second * b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_b, second * a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('implementation', ['plain', 'product', None])
@pytest.mark.parametrize('axes', [(0,), (0, 1), (0, 2), (0, 1, 3), (1,), (0, 1, 2, 3)])
def test_sum_over(implementation, axes):
    a = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    g = np.float32(1.5)
    ours, backward = jax.vjp(lambda a: sum_over(a, axes, implementation=implementation), a)
    np.testing.assert_allclose(ours, a.astype(np.float64).sum(axes), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(backward(np.full(ours.shape, g))[0], np.full(a.shape, g), rtol=1e-6)


def test_product_only_in_programs_for_cpu():
    f = jax.jit(lambda a: sum_over(a, (0,)))
    shape = jax.ShapeDtypeStruct((3, 4), np.float32)
    assert 'stablehlo.dot_general' in f.lower(shape).as_text()
    assert (
        'stablehlo.dot_general' not in f.trace(shape).lower(lowering_platforms=('tpu',)).as_text()
    )


def test_one_reduction_only_in_programs_for_cpu():
    f = jax.jit(lambda a: sums([a, 2 * a], (0,)))
    shape = jax.ShapeDtypeStruct((3, 4), np.float32)
    assert f.lower(shape).as_text().count('stablehlo.reduce') == 1
    assert (
        f.trace(shape).lower(lowering_platforms=('tpu',)).as_text().count('stablehlo.reduce') == 2
    )


def test_refuses():
    with pytest.raises(ValueError, match='implementation'):
        sums([np.ones((2, 2), np.float32)], (0,), implementation='fused')
    with pytest.raises(ValueError, match='implementation'):
        sum_over(np.ones((2, 2), np.float32), (0,), implementation='fused')
