"""The max-pool on the skip path of a strided MViTv2 block."""

import functools

import jax
import jax.numpy as jnp

from multitrain_jax.ops.windows import Triple, clip_by_clip, sum_over_windows, window_views


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def skip_max_pool(x: jax.Array, stride: Triple) -> jax.Array:
    """Maximum over overlapping windows of stride + 1 points (1 where the stride is 1).

    Written with shifted views: on CPU, forward and gradient of [32, 4, 16, 16, 32] at stride 1,2,2
    take 0.9 ms, with XLA's windowed maximum 35 ms. Of equal maxima the first one receives the
    gradient, as in PyTorch. NaN wins over any number.

    Args:
      x: [B, t, h, w, D].
      stride: steps along t, h and w, each 1 or even.

    Returns:
      [B, ceil(t / stride), ceil(h / stride), ceil(w / stride), D].

    Raises:
      ValueError: for odd strides above 1, whose centred windows do not fit the pooled queries.
    """
    return _maximum_and_tap(x, stride)[0]


def _window(stride: Triple) -> Triple:
    if any(s > 1 and s % 2 for s in stride):
        raise ValueError(f'skip_max_pool needs strides that are 1 or even, got {stride}')
    return tuple(s + 1 if s > 1 else 1 for s in stride)


def _maximum_and_tap(x: jax.Array, stride: Triple) -> tuple[jax.Array, jax.Array]:
    """The maxima, and the number of the tap each came from: int16 [B, t', h', w', D]."""

    def one_clip(x):
        views = window_views(x, _window(stride), stride, padding_value=-jnp.inf)
        maximum, number = None, None
        for n, view in enumerate(views.values()):
            if maximum is None:
                maximum, number = view, jnp.zeros(view.shape, jnp.int16)
                continue
            better = (view > maximum) | jnp.isnan(view)
            maximum = jnp.where(better, view, maximum)
            number = jnp.where(better, jnp.int16(n), number)
        return maximum, number

    return clip_by_clip(one_clip, x)


def _backward(stride: Triple, residuals: tuple, g: jax.Array) -> tuple[jax.Array]:
    number, size = residuals
    kernel = _window(stride)

    def term(tap: Triple, number: jax.Array, g: jax.Array) -> jax.Array:
        n = (tap[0] * kernel[1] + tap[1]) * kernel[2] + tap[2]
        return jnp.where(number == n, g, 0)

    def one_clip(number, g):
        return sum_over_windows((number, g), term, kernel, stride, size)

    return (clip_by_clip(one_clip, number, g),)


def _forward(x: jax.Array, stride: Triple) -> tuple[jax.Array, tuple]:
    maximum, number = _maximum_and_tap(x, stride)
    return maximum, (number, x.shape[1:4])


skip_max_pool.defvjp(_forward, _backward)
