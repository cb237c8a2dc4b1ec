"""The pooling convolution of MViTv2: 3x3x3, depthwise, padded by one, strided.

Three implementations that agree in value and in gradient:

* `xla_conv`: XLA's grouped convolution, for TPU and GPU.
* `shifted`: 27 shifted multiply-adds, which XLA fuses into one vectorised loop, with gradients
  of the same kind. XLA's CPU backend has no fast path for grouped convolutions. Measured on 2 cores
  for [32, 4, 16, 16, 32] float32, stride 1: forward 359 ms against 1.5 ms, input gradient 356
  against 4, kernel gradient 77 against 10.
* `frames`: three 2-D convolutions, one for each frame that a window reaches, for ONNX: jax2onnx
  knows no convolution along three axes.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from multitrain_jax.ops.platforms import choose
from multitrain_jax.ops.sums import sums
from multitrain_jax.ops.windows import (
    Triple,
    clip_by_clip,
    frame_views,
    sum_over_clips,
    sum_over_windows,
    window_views,
)

KERNEL = (3, 3, 3)


def depthwise_pool(
    x: jax.Array, kernel: jax.Array, stride: Triple, *, implementation: str | None = None
) -> jax.Array:
    """Convolves every channel with its own 3x3x3 kernel (MViTv2, arXiv 2112.01526, section 3).

    Args:
      x: [B, t, h, w, D], float32 or bfloat16.
      kernel: [3, 3, 3, D], of the type of `x` or wider.
      stride: steps along t, h and w.
      implementation: 'xla_conv', 'shifted', 'frames', or None: 'shifted' in programs compiled for
        CPU, 'frames' in those for ONNX, 'xla_conv' in all others.

    Returns:
      [B, ceil(t / stride), ceil(h / stride), ceil(w / stride), D], of the type of `x`;
      'shifted' sums in float32.

    Raises:
      ValueError: for shapes that do not fit, or an unknown implementation.
    """
    if x.ndim != 5 or kernel.shape != (*KERNEL, x.shape[-1]):
        raise ValueError(
            'depthwise_pool needs x [B, t, h, w, D] and kernel [3, 3, 3, D], '
            f'got {x.shape} and {kernel.shape}'
        )
    if len(stride) != 3 or min(stride) < 1:
        raise ValueError(f'depthwise_pool needs three positive strides, got {stride}')
    xla_conv = functools.partial(_xla_conv, stride=tuple(stride))
    shifted = functools.partial(_shifted, tuple(stride))
    frames = functools.partial(_frames, stride=tuple(stride))
    implementations = {'xla_conv': xla_conv, 'shifted': shifted, 'frames': frames}
    chosen = choose(
        implementation, implementations, cpu='shifted', onnx='frames', default='xla_conv'
    )
    return chosen(x, kernel)


def _xla_conv(x: jax.Array, kernel: jax.Array, stride: Triple) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel[..., None, :].astype(x.dtype),  # [3, 3, 3, 1, D]
        window_strides=stride,
        padding=[(1, 1)] * 3,
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
        feature_group_count=x.shape[-1],
    )


def _frames(x: jax.Array, kernel: jax.Array, stride: Triple) -> jax.Array:
    views = frame_views(x, KERNEL[0], stride[0])
    pooled = [
        lax.conv_general_dilated(
            view.reshape(-1, *view.shape[2:]),
            taps[:, :, None].astype(x.dtype),  # [3, 3, 1, D]
            window_strides=stride[1:],
            padding=[(1, 1)] * 2,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=x.shape[-1],
        )
        for view, taps in zip(views, kernel)
    ]
    return sum(pooled).reshape(-1, views[0].shape[1], *pooled[0].shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _shifted(stride: Triple, x: jax.Array, kernel: jax.Array) -> jax.Array:
    taps = kernel.reshape(*KERNEL, 1, 1, 1, 1, -1).astype(jnp.float32)

    def pooled(x):
        views = window_views(x, KERNEL, stride)
        total = sum(view.astype(jnp.float32) * taps[tap] for tap, view in views.items())
        return total.astype(x.dtype)

    return clip_by_clip(pooled, x)


def _shifted_backward(stride, residuals, g):
    x, kernel = residuals
    taps = kernel.reshape(*KERNEL, 1, 1, 1, 1, -1).astype(jnp.float32)

    def input_gradient(g):
        def term(tap, view):
            return view.astype(jnp.float32) * taps[tap]

        return sum_over_windows((g,), term, KERNEL, stride, x.shape[1:4]).astype(x.dtype)

    kernel_gradient = sum_over_clips(functools.partial(_kernel_gradient, stride=stride), x, g)
    return clip_by_clip(input_gradient, g), kernel_gradient.astype(kernel.dtype)


_shifted.defvjp(
    lambda stride, x, kernel: (_shifted(stride, x, kernel), (x, kernel)), _shifted_backward
)


def _kernel_gradient(x: jax.Array, g: jax.Array, stride: Triple) -> jax.Array:
    """float32 [3, 3, 3, D]: for each tap, the sum over tokens of what it saw times `g`.

    Nine taps share one pass over the data (a reduction of nine operands), several times faster to
    run and to compile than 27 reductions. It goes over time only: the sums of neighbouring places
    and channels then form vectors. Measured on CPU for [1, 8, 56, 56, 96]: 17 ms, and 42 with a
    reduction over all axes at once.
    """
    g = g.astype(jnp.float32)
    views = list(window_views(x, KERNEL, stride).values())
    totals = []
    for first in range(0, 27, 9):
        products = [view.astype(jnp.float32) * g for view in views[first : first + 9]]
        over_time = sums(products, (0, 1), implementation='together')  # 9 of [h, w, D]
        totals += [total.sum((0, 1)) for total in over_time]
    return jnp.stack(totals).reshape(*KERNEL, -1)
