"""What pooling kernels stand for, and arguments for them."""

import math

import jax.numpy as jnp
import numpy as np

from multitrain_jax.models.layers import layer_norm
from multitrain_jax.ops.depthwise_pool import depthwise_pool

EPSILON = 1e-5


def pooled_separately(qkv, kernel, scale, bias, grid, q_stride, kv_stride, heads):
    """What the kernels stand for: `depthwise_pool`, which float64 loops check, and `layer_norm`."""
    width, clips, out = qkv.shape[-1] // 3, qkv.shape[0], []
    for part, stride in enumerate((q_stride, kv_stride, kv_stride)):
        x = qkv[..., part * width : (part + 1) * width].reshape(clips, *grid, width)
        y = depthwise_pool(x, jnp.tile(kernel[part], heads), stride)
        y = y.reshape(clips, -1, heads, width // heads)
        y = layer_norm(y, scale[part], bias[part], EPSILON)
        out.append(y.reshape(clips, -1, width))
    return tuple(out)


def pooling_arguments(clips, grid, heads, width, dtype='float32'):
    rng = np.random.default_rng(0)
    qkv = rng.normal(size=(clips, math.prod(grid), 3 * heads * width))
    parameters = [rng.normal(size=(3, *shape, width)) for shape in ((3, 3, 3), (), ())]
    return [jnp.asarray(qkv, dtype), *(jnp.asarray(p, 'float32') for p in parameters)]
