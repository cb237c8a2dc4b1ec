"""The poolings and the patch convolution against plain float64 loops."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.ops.depthwise_pool import depthwise_pool
from multitrain_jax.ops.max_pool import skip_max_pool
from multitrain_jax.ops.patch_conv import patch_conv
from multitrain_jax.ops.platforms import only

# (grid, stride): even and odd sizes, strides beyond the kernel, a stride in time.
POOLINGS = [
    ((3, 6, 6), (1, 1, 1)),
    ((2, 7, 5), (1, 1, 1)),
    ((2, 6, 8), (1, 2, 2)),
    ((3, 7, 5), (1, 2, 2)),
    ((2, 16, 17), (1, 8, 8)),
    ((5, 9, 4), (2, 3, 4)),
    ((1, 1, 2), (1, 2, 2)),
]
IMPLEMENTATIONS = ['xla_conv', 'shifted', None]


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _windows(size, kernel, stride):
    """Every window: its place (t, h, w) and pairs of a tap and the grid point that it sees."""
    out = [(n + 2 * (k // 2) - k) // s + 1 for n, k, s in zip(size, kernel, stride)]
    for window in itertools.product(*map(range, out)):
        points = []
        for tap in itertools.product(*map(range, kernel)):
            point = tuple(o * s + a - k // 2 for o, s, a, k in zip(window, stride, tap, kernel))
            if all(0 <= p < n for p, n in zip(point, size)):
                points.append((tap, point))
        yield window, points


def _depthwise_loops(x, kernel, g_of, stride):
    """Value, and gradients for the output gradient `g_of(value)`."""
    windows = list(_windows(x.shape[1:4], (3, 3, 3), stride))
    out = [n + 1 for n in windows[-1][0]]
    y = np.zeros((x.shape[0], *out, x.shape[-1]))
    for o, points in windows:
        for tap, p in points:
            y[:, *o] += x[:, *p] * kernel[tap]
    g, dx, dk = g_of(y), np.zeros_like(x), np.zeros_like(kernel)
    for o, points in windows:
        for tap, p in points:
            dx[:, *p] += g[:, *o] * kernel[tap]
            dk[tap] += (g[:, *o] * x[:, *p]).sum(0)
    return y, dx, dk


@pytest.mark.parametrize(
    'clips', [1, 2]
)  # 'shifted' loops over clips, a single one is computed in a branch
@pytest.mark.parametrize('grid, stride', POOLINGS)
@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_depthwise_pool_value_and_gradients(clips, grid, stride, implementation):
    x, kernel = _random(clips, *grid, 4), _random(3, 3, 3, 4, seed=1)
    y, dx, dk = _depthwise_loops(x, kernel, lambda y: _random(*y.shape, seed=2), stride)

    @jax.jit
    def ours(x, kernel, g):
        f = lambda x, k: depthwise_pool(x, k, stride, implementation=implementation)  # noqa: E731
        y, backward = jax.vjp(f, x, kernel)
        return y, *backward(g)

    results = ours(*map(jnp.float32, (x, kernel, _random(*y.shape, seed=2))))
    for result, expected in zip(results, (y, dx, dk), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('clips', [1, 2])
@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_depthwise_pool_in_bfloat16(clips, implementation):
    x, kernel = jnp.bfloat16(_random(clips, 2, 5, 5, 4)), jnp.float32(_random(3, 3, 3, 4, seed=1))
    exact, _, _ = _depthwise_loops(np.float64(x), np.float64(kernel), np.ones_like, (1, 2, 2))

    def loss(x, kernel):
        y = depthwise_pool(x, kernel, (1, 2, 2), implementation=implementation)
        return y.sum().astype(jnp.float32), y

    (_, y), (dx, dk) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, kernel)
    assert (y.dtype, dx.dtype, dk.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(np.float64(y), exact, atol=0.05 * np.abs(exact).max())


def test_depthwise_pool_on_another_platform_than_this_machine():
    # The choice belongs to the program: a TPU program lowered here must hold the convolution.
    f = jax.jit(jax.grad(lambda x, k: depthwise_pool(x, k, (1, 2, 2)).sum(), (0, 1)))
    shapes = (
        jax.ShapeDtypeStruct((2, 2, 4, 4, 8), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 3, 8), jnp.float32),
    )
    assert 'stablehlo.convolution' in f.trace(*shapes).lower(lowering_platforms=('tpu',)).as_text()
    assert 'stablehlo.convolution' not in f.lower(*shapes).as_text()


@pytest.mark.parametrize('number', [np.nan, np.inf])
def test_a_single_clip_is_pooled_whatever_its_first_number_is(number):
    x = jnp.ones((1, 2, 4, 4, 3)).at[(0,) * 5].set(number)
    y = np.asarray(jax.jit(lambda x, k: depthwise_pool(x, k, (1, 1, 1)))(x, jnp.ones((3, 3, 3, 3))))
    np.testing.assert_array_equal(np.isfinite(y[0, :, :2, :2, 0]), False)
    np.testing.assert_array_equal(y[0, :, 3, 3], 8)


def test_only_a_cpu_takes_the_branch_of_a_single_clip():
    f = jax.jit(jax.grad(lambda x: skip_max_pool(x, (1, 2, 2)).sum()))
    clip = jax.ShapeDtypeStruct((1, 2, 4, 4, 8), jnp.float32)
    conditions = {}  # comparisons of single numbers
    for platform in ('cpu', 'cuda', 'tpu'):
        program = f.trace(clip).lower(lowering_platforms=(platform,)).as_text()
        conditions[platform] = len(
            re.findall(r'compare +NE.*\(tensor<f32>, tensor<f32>\)', program)
        )
    assert conditions == {'cpu': 2, 'cuda': 0, 'tpu': 0}


@pytest.mark.parametrize('grid, stride', [((2, 6, 8), (1, 2, 2)), ((5, 7, 5), (2, 4, 1))])
def test_the_forms_for_onnx_compute_the_same(grid, stride):
    x = jnp.float32(_random(2, *grid, 3))
    kernel, patch = jnp.float32(_random(3, 3, 3, 3)), jnp.float32(_random(3, 5, 1, 3, 4))

    def all_of_them(x):
        return (
            depthwise_pool(x, kernel, stride),
            patch_conv(x, patch, stride),
            skip_max_pool(x, stride),
        )

    with only('onnx'):
        program, results = jax.make_jaxpr(all_of_them)(x), all_of_them(x)
    # What jax2onnx does not know, or what it loses the number of clips in.
    assert not re.search(r' (pad|scan|while|cond)\[', str(program))
    strides = re.findall(r'window_strides=\((.*)\)', str(program))
    assert [text.count(',') for text in strides] == [1] * 4
    for result, expected in zip(results, jax.jit(all_of_them)(x), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5)


def test_depthwise_pool_refuses():
    x, kernel = jnp.zeros((1, 2, 2, 2, 4)), jnp.zeros((3, 3, 3, 4))
    with pytest.raises(ValueError, match='kernel'):
        depthwise_pool(x, kernel[..., :3], (1, 1, 1))
    with pytest.raises(ValueError, match='strides'):
        depthwise_pool(x, kernel, (1, 0, 1))
    with pytest.raises(ValueError, match='implementation'):
        depthwise_pool(x, kernel, (1, 1, 1), implementation='cudnn')


@pytest.mark.parametrize('clips', [1, 2])
@pytest.mark.parametrize(
    'grid, stride', [((2, 6, 8), (1, 2, 2)), ((3, 7, 5), (1, 2, 2)), ((4, 9, 6), (2, 4, 1))]
)
def test_skip_max_pool_value_and_gradient(clips, grid, stride):
    x = np.round(_random(clips, *grid, 3) * 2)  # many ties: the first maximum takes the gradient
    kernel = tuple(s + 1 if s > 1 else 1 for s in stride)
    windows = list(_windows(grid, kernel, stride))
    y = np.zeros((clips, *(n + 1 for n in windows[-1][0]), 3))
    g, dx = _random(*y.shape, seed=1), np.zeros_like(x)
    for o, points in windows:
        values = np.stack([x[:, *p] for _, p in points])  # [taps, B, D]
        y[:, *o] = values.max(0)
        winner = values.argmax(0)
        for b, d in itertools.product(range(clips), range(3)):
            dx[b, *points[winner[b, d]][1], d] += g[b, *o, d]

    @jax.jit
    def ours(x, g):
        y, backward = jax.vjp(lambda x: skip_max_pool(x, stride), x)
        return y, *backward(g)

    result, gradient = ours(jnp.float32(x), jnp.float32(g))
    np.testing.assert_array_equal(result, y)
    np.testing.assert_allclose(gradient, dx, atol=1e-5)


def test_skip_max_pool_passes_nan_on_and_refuses_odd_strides():
    x = jnp.zeros((1, 1, 4, 4, 1)).at[0, 0, 2, 2, 0].set(jnp.nan)
    y = np.asarray(skip_max_pool(x, (1, 2, 2)))[0, 0, :, :, 0]
    np.testing.assert_array_equal(np.isnan(y), [[False, False], [False, True]])
    with pytest.raises(ValueError, match='1 or even'):
        skip_max_pool(x, (1, 3, 3))


@pytest.mark.parametrize(
    'size, kernel, stride',
    [
        ((4, 8, 8), (3, 7, 7), (2, 4, 4)),
        ((3, 9, 6), (3, 7, 7), (2, 4, 4)),
        ((3, 5, 6), (1, 3, 5), (1, 2, 3)),
        ((2, 6, 4), (3, 7, 3), (1, 2, 4)),
    ],
)
@pytest.mark.parametrize('implementation', ['xla_conv', 'patches', 'block_conv', None])
def test_patch_conv_value_and_gradients(size, kernel, stride, implementation):
    video, weight = _random(2, *size, 3), _random(*kernel, 3, 5, seed=1)
    windows = list(_windows(size, kernel, stride))
    y = np.zeros((2, *(n + 1 for n in windows[-1][0]), 5))
    g = _random(*y.shape, seed=2)
    dv, dw = np.zeros_like(video), np.zeros_like(weight)
    for o, points in windows:
        for tap, p in points:
            y[:, *o] += video[:, *p] @ weight[tap]
            dv[:, *p] += g[:, *o] @ weight[tap].T
            dw[tap] += video[:, *p].T @ g[:, *o]

    @jax.jit
    def ours(video, weight, g):
        f = lambda v, w: patch_conv(v, w, stride, implementation=implementation)  # noqa: E731
        y, backward = jax.vjp(f, video, weight)
        return y, *backward(g)

    results = ours(*map(jnp.float32, (video, weight, g)))
    for result, expected in zip(results, (y, dv, dw), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_patch_conv_refuses():
    video = jnp.zeros((1, 2, 4, 4, 3))
    with pytest.raises(ValueError, match='odd'):
        patch_conv(video, jnp.zeros((2, 3, 3, 3, 4)), (1, 1, 1))
    with pytest.raises(ValueError, match='implementation'):
        patch_conv(video, jnp.zeros((1, 3, 3, 3, 4)), (1, 1, 1), implementation='fft')
