"""The LayerNorm kernels for GPUs, simulated, against the formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

layer_norm_gpu = pytest.importorskip('multitrain_jax.ops.layer_norm_gpu')
pytestmark = pytest.mark.skipif(
    jax.__version_info__ < (0, 12), reason='the kernels are for newer versions of JAX'
)


def _formula(x, scale, bias, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + epsilon) * scale + bias


@pytest.mark.parametrize(
    ('shape', 'skip'),
    [
        ((2, 24, 96), True),  # a warp has four rows, a block of threads several pieces
        ((4, 128), False),  # a row fills a warp
        pytest.param((3, 8, 96), True, marks=pytest.mark.slow),  # few rows
    ],
)
def test_result_and_gradients(shape, skip, monkeypatch):
    monkeypatch.setattr(layer_norm_gpu, '_BLOCKS', 2)
    monkeypatch.setattr(layer_norm_gpu, '_NUMBERS', 1)  # as few rows at a time as possible
    rng = np.random.default_rng(0)
    x, g, beside = (rng.normal(size=shape) for _ in range(3))
    x += 3.0
    scale, bias = (rng.normal(size=shape[-1]) for _ in range(2))

    def kernels(x, scale, bias):
        return layer_norm_gpu.layer_norm(x, scale, bias, 0.01, skip=skip, interpret=True)

    found, gradient = jax.vjp(kernels, *(jnp.asarray(a, 'float32') for a in (x, scale, bias)))
    result = found[1] if skip else found
    np.testing.assert_allclose(result, _formula(x, scale, bias, 0.01), atol=3e-6)
    if skip:
        np.testing.assert_array_equal(found[0], x.astype('float32'))
    g, beside = g.astype('float32'), beside.astype('float32')
    gradients = gradient((beside, g) if skip else g)

    def loss(x, scale, bias):
        total = (g * _formula(x, scale, bias, 0.01)).sum()
        return total + (beside * x).sum() if skip else total

    for number, array in enumerate((x, scale, bias)):
        for _ in range(3):  # in some direction
            direction, step = rng.normal(size=array.shape), 1e-5
            ends = []
            for sign in (1, -1):
                arguments = [x, scale, bias]
                arguments[number] = array + sign * step * direction
                ends.append(loss(*arguments))
            wanted = (ends[0] - ends[1]) / (2 * step)
            got = (np.asarray(gradients[number], 'float64') * direction).sum()
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


def test_shapes_that_fit():
    for shape in ((8, 50176, 96), (8, 50177, 96), (8, 3136, 384), (8, 1568, 1024)):
        assert layer_norm_gpu.fits(shape, jnp.bfloat16), shape
    for shape in ((8, 3136, 1408), (1, 50177, 96), (8, 100)):
        assert not layer_norm_gpu.fits(shape, jnp.bfloat16), shape
    assert not layer_norm_gpu.fits((8, 3136, 384), jnp.float32)
