"""The strided convolution that turns pixels into tokens."""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from multitrain_jax.ops.platforms import choose
from multitrain_jax.ops.windows import Triple, frame_views, pooled_size


def patch_conv(
    video: jax.Array, kernel: jax.Array, stride: Triple, *, implementation: str | None = None
) -> jax.Array:
    """Convolution padded by half the kernel on every side, without bias.

    `patches` copies what each token sees, axis by axis, and multiplies it by the kernel in one
    matrix product; benchmarks/RESULTS.md has its times beside those of XLA's convolution on CPU.
    `block_conv` makes the pixels of a block of one stride channels and leaves the rest to a
    convolution of stride 1: by the TPU compiler's estimate forward and kernel gradient of two clips
    of 32 x 224 x 224 take 9 million cycles, as 'xla_conv', which has only 3 channels to work with,
    31. `frames` makes the frames of a window channels of a 2-D convolution: jax2onnx knows none
    along three axes.

    Args:
      video: [B, T, H, W, 3].
      kernel: [kt, kh, kw, 3, D], odd sizes.
      stride: (st, sh, sw).
      implementation: 'xla_conv', 'patches', 'block_conv', 'frames', or None: 'patches' in programs
        compiled for CPU, 'block_conv' for TPU, 'frames' for ONNX, 'xla_conv' in all others.

    Returns:
      [B, ceil(T / st), ceil(H / sh), ceil(W / sw), D], of the type of `video`.

    Raises:
      ValueError: for an even kernel size or an unknown implementation.
    """
    if any(k % 2 == 0 for k in kernel.shape[:3]):
        raise ValueError(f'patch_conv needs odd kernel sizes, got {kernel.shape[:3]}')
    kernel = kernel.astype(video.dtype)
    xla_conv = functools.partial(_xla_conv, stride=tuple(stride))
    patches = functools.partial(_patches, stride=tuple(stride))
    block_conv = functools.partial(_block_conv, stride=tuple(stride))
    frames = functools.partial(_frames, stride=tuple(stride))
    chosen = choose(
        implementation,
        dict(xla_conv=xla_conv, patches=patches, block_conv=block_conv, frames=frames),
        cpu='patches',
        tpu='block_conv',
        onnx='frames',
        default='xla_conv',
    )
    return chosen(video, kernel)


def _xla_conv(video: jax.Array, kernel: jax.Array, stride: Triple) -> jax.Array:
    return lax.conv_general_dilated(
        video,
        kernel,
        window_strides=stride,
        padding=[(k // 2, k // 2) for k in kernel.shape[:3]],
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    )


def _patches(video: jax.Array, kernel: jax.Array, stride: Triple) -> jax.Array:
    patches = video
    for axis in (3, 2, 1):
        patches = _windows(patches, kernel.shape[axis - 1], stride[axis - 1], axis)
    # [B, t, h, w, kt * kh * kw * 3], as the kernel: time slowest, colours fastest.
    product = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return product.reshape(*patches.shape[:-1], -1)


def _frames(video: jax.Array, kernel: jax.Array, stride: Triple) -> jax.Array:
    # [B, t, H, W, kt * 3]
    frames = jnp.concatenate(frame_views(video, kernel.shape[0], stride[0]), -1)
    kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], frames.shape[-1], -1)
    tokens = lax.conv_general_dilated(
        frames.reshape(-1, *frames.shape[2:]),
        kernel,
        window_strides=stride[1:],
        padding=[(k // 2, k // 2) for k in kernel.shape[:2]],
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return tokens.reshape(-1, frames.shape[1], *tokens.shape[1:])


def _windows(x: jax.Array, kernel: int, stride: int, axis: int) -> jax.Array:
    """What each window along one axis sees, before what the last axis holds already.

    Args:
      x: [B, t, h, w, D].
      kernel: size of a window, padded by half of it on both sides.
      stride: steps between windows.
      axis: 1, 2 or 3.

    Returns:
      The same with ceil(size / stride) windows on `axis`, and kernel * D numbers of each on the
      last one.
    """
    width, count = x.shape[-1], -(-x.shape[axis] // stride)
    blocks = math.ceil(((count - 1) * stride + kernel) / stride)
    margins = [(0, 0, 0)] * x.ndim
    margins[axis] = (kernel // 2, blocks * stride - x.shape[axis] - kernel // 2, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), margins)
    if axis == 3:
        # Neighbours on this axis lie next to each other: whole blocks of one stride are taken at
        # once.
        x = x.reshape(*x.shape[:3], blocks, stride * width)
        widths = [min(kernel - first, stride) * width for first in range(0, kernel, stride)]
        views = [x[:, :, :, block : block + count, :own] for block, own in enumerate(widths)]
    else:
        views = [
            lax.slice_in_dim(x, first, first + (count - 1) * stride + 1, stride, axis)
            for first in range(kernel)
        ]
    return jnp.concatenate(views, -1)


def _block_conv(video: jax.Array, kernel: jax.Array, stride: Triple) -> jax.Array:
    blocks, kernel, before = _in_blocks(video, kernel, stride)
    return lax.conv_general_dilated(
        blocks,
        kernel,
        window_strides=(1, 1, 1),
        padding=[(b, p - 1 - b) for p, b in zip(kernel.shape, before)],
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    )


def _in_blocks(
    video: jax.Array, kernel: jax.Array, stride: Triple
) -> tuple[jax.Array, jax.Array, Triple]:
    """Video and kernel cut into blocks of one stride, whose pixels become channels.

    Returns:
      The video [B, t, h, w, pixels]; the kernel [pt, ph, pw, pixels, D], for each of the blocks
      that it touches along t, h and w; and how many of these lie before the token's own.
    """
    batch, *size, channels = video.shape
    t, h, w = grid = pooled_size(size, stride)
    width = kernel.shape[-1]
    fill = [(0, n * s - m) for n, s, m in zip(grid, stride, size)]
    video = jnp.pad(video, ((0, 0), *fill, (0, 0)))
    st, sh, sw = stride
    blocks = video.reshape(batch, t, st, h, sh, w, sw, channels)
    blocks = blocks.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t, h, w, -1)

    # The kernel of the token at block i reaches from block i - before to block i + after.
    before = [math.ceil((k // 2) / s) for k, s in zip(kernel.shape, stride)]
    after = [(k // 2) // s for k, s in zip(kernel.shape, stride)]
    places = [b + 1 + a for b, a in zip(before, after)]
    front = [b * s - k // 2 for b, s, k in zip(before, stride, kernel.shape)]
    back = [p * s - f - k for p, s, f, k in zip(places, stride, front, kernel.shape)]
    kernel = jnp.pad(kernel, (*zip(front, back), (0, 0), (0, 0)))
    pt, ph, pw = places
    kernel = kernel.reshape(pt, st, ph, sh, pw, sw, channels, width)
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5, 6, 7).reshape(pt, ph, pw, -1, width)
    return blocks, kernel, tuple(before)
