"""Layers with a written gradient against the plain formula in float64."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.models.layers import layer_norm, project, run_stacked
from multitrain_jax.ops import platforms


def _plain(x, scale, bias):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return normal, normal * scale + bias


@pytest.mark.parametrize('shape, parameters', [((2, 5, 8), (8,)), ((2, 3, 1, 2, 4, 8), (2, 1, 8))])
@pytest.mark.parametrize('dtype, tolerance', [(jnp.float32, 2e-5), (jnp.bfloat16, 0.03)])
def test_layer_norm_value_and_gradients(shape, parameters, dtype, tolerance):
    rng = np.random.default_rng(0)
    x, g = (np.float64(jnp.asarray(rng.normal(2, 1, shape), dtype)) for _ in range(2))
    scale, bias = rng.normal(1, 0.5, parameters), rng.normal(size=parameters)
    normal, y = _plain(x, scale, bias)
    scaled = g * scale
    inner = (
        scaled - scaled.mean(-1, keepdims=True) - normal * (scaled * normal).mean(-1, keepdims=True)
    )
    of_x = inner / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def summed(array):  # over all that a parameter is broadcast to
        broadcast = np.broadcast_to(np.zeros(parameters), array.shape)
        axes = [axis for axis, step in enumerate(broadcast.strides) if step == 0]
        return array.sum(tuple(axes)).reshape(parameters)

    @jax.jit
    def ours(x, scale, bias, g):
        y, backward = jax.vjp(lambda *args: layer_norm(*args, 1e-5), x, scale, bias)
        return y, *backward(g)

    results = ours(
        jnp.asarray(x, dtype), jnp.float32(scale), jnp.float32(bias), jnp.asarray(g, dtype)
    )
    assert [r.dtype for r in results] == [dtype, dtype, jnp.float32, jnp.float32]
    for result, expected in zip(results, (y, of_x, summed(g * normal), summed(g)), strict=True):
        np.testing.assert_allclose(
            np.float64(result), expected, atol=tolerance * np.abs(expected).max()
        )


def test_the_variance_of_layer_norm_survives_a_mean_far_from_zero():
    x = np.float32(np.random.default_rng(0).normal(1e4, 1, (4, 768)))
    ones, zeros = np.ones(768, np.float32), np.zeros(768, np.float32)
    y = jax.jit(lambda x: layer_norm(x, ones, zeros, 1e-5))(x)
    _, expected = _plain(np.float64(x), 1, 0)
    np.testing.assert_allclose(np.float64(y).std(-1), expected.std(-1), atol=2e-6)
    np.testing.assert_allclose(
        y, expected, atol=2e-3
    )  # float32 keeps the mean to 1e-3, which moves all of y


def test_project_is_the_plain_product():
    x, kernel = (
        np.random.default_rng(0).normal(size=(2, 3, 4, 5)),
        np.random.default_rng(1).normal(size=(5, 6)),
    )
    np.testing.assert_allclose(
        jax.jit(project)(jnp.float32(x), jnp.float32(kernel)), x @ kernel, atol=1e-5
    )


@pytest.mark.parametrize('recompute', [False, True])
def test_blocks_written_out_for_gpus_are_those_of_the_loop(recompute, monkeypatch):
    rng = np.random.default_rng(0)
    x, kernels = rng.normal(size=(2, 4)), rng.normal(size=(3, 4, 4))

    def loss(x, kernels):
        return run_stacked(
            lambda x, layer: jnp.tanh(x @ layer[0]) + layer[1],
            x,
            (kernels, jnp.arange(3.0)),
            recompute=recompute,
        ).sum()

    def program():
        return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, kernels)

    loop = program()
    monkeypatch.setattr(platforms, 'target_device', lambda: types.SimpleNamespace(platform='gpu'))
    written_out = program()
    assert 'stablehlo.while' in loop.as_text()
    assert ('stablehlo.while' in written_out.as_text()) == recompute
    found = written_out.compile()(x, kernels)
    for one, other in zip(jax.tree.leaves(loop.compile()(x, kernels)), jax.tree.leaves(found)):
        np.testing.assert_allclose(one, other, atol=1e-6)
