"""Every implementation that this machine's device can run, in bfloat16, against XLA's in float32:
results and gradients.

    python -m benchmarks.gpu_equality [--small]

Attention, pooling convolution and our kernels of norms and poolings, at sizes of MViTv2-B 32x3 and
ViT-B; printed is the largest difference as a part of the largest number of each array. bfloat16
keeps 8 bits, so 0.004 is one rounding. Exit code 1 where one differs by more than `LIMIT`, or fails
on a GPU; other devices do not have all of them, which is said.
"""

import argparse
from collections.abc import Callable, Sequence
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.models.layers import layer_norm
from multitrain_jax.ops.attention import attention
from multitrain_jax.ops.depthwise_pool import depthwise_pool
from multitrain_jax.ops.platforms import has_kernels

LIMIT = 0.04
ATTENTION = {  # queries, keys, heads, width of queries and keys, width of values
    'B 32x3, stage 1': (50176, 784, 1, 96, 96),
    'B 32x3, stage 3': (3136, 784, 4, 96, 96),
    'B 32x3, relative positions': (3136, 784, 4, 126, 96),
    'ViT-B': (1568, 1568, 12, 64, 64),
    'few keys': (50, 7, 2, 32, 32),
}
POOLING = {  # grid and channels, stride
    'B 32x3, stage 1, q': ((16, 56, 56, 96), (1, 1, 1)),
    'B 32x3, stage 1, k v': ((16, 56, 56, 192), (1, 8, 8)),
    'B 32x3, stage 3, q': ((16, 14, 14, 384), (1, 1, 1)),
}
NORMS = {  # tokens of a clip, width
    'B 32x3, stage 1': (50176, 96),
    'B 32x3, stage 3': (3136, 384),
    'B 32x3, stage 4': (784, 768),
    'a class token': (3137, 384),
}
QKV = {  # grid, heads of 96, strides of q and of k v
    'B 32x3, stage 1': ((16, 56, 56), 1, (1, 1, 1), (1, 8, 8)),
    'B 32x3, stage 3': ((16, 14, 14), 4, (1, 1, 1), (1, 2, 2)),
    'B 32x3, stage 4, first': ((16, 14, 14), 8, (1, 2, 2), (1, 2, 2)),
}
EPSILON = 1e-5


def with_gradients(function: Callable, *arrays: jax.Array) -> list[np.ndarray]:
    """The result and the gradients of a sum of it, randomly weighted, by all arguments, float32."""

    def run(*arrays):
        y, gradients = jax.vjp(function, *arrays)
        return [y, *gradients(jax.random.normal(jax.random.key(0), y.shape).astype(y.dtype))]

    return [np.asarray(x, np.float32) for x in jax.jit(run)(*arrays)]


def differences(function: Callable, reference: Callable, shapes: Sequence[tuple]) -> list[float]:
    """Of result and gradients: `function` of bfloat16 arrays from `reference` of float32 ones,
    each by its largest number.
    """
    rng = np.random.default_rng(0)
    half = [jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in shapes]
    found = with_gradients(function, *half)
    with jax.default_matmul_precision('highest'):
        wanted = with_gradients(reference, *(x.astype(jnp.float32) for x in half))
    return [
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, wanted, strict=True)
    ]


def cases(clips: int, small: bool):
    """(name, function, reference, shapes of the arguments)."""
    for name, (queries, keys, heads, d, e) in ATTENTION.items():
        if small:
            queries, keys = min(queries, 40), min(keys, 24)
        shapes = [(clips, queries, heads, d), (clips, keys, heads, d), (clips, keys, heads, e)]
        attend = functools.partial(attention, scale=d**-0.5)
        for implementation in ('xla', 'cudnn', 'auto'):
            own = functools.partial(attend, implementation=implementation)
            yield f'attention {implementation}, {name}', own, attend, shapes
    for name, ((t, h, w, channels), stride) in POOLING.items():
        if small:
            t, channels = 2, 16
        shapes = [(clips, t, h, w, channels), (3, 3, 3, channels)]
        for implementation in ('xla_conv', 'shifted'):
            pool = functools.partial(depthwise_pool, stride=stride)
            own = functools.partial(pool, implementation=implementation)
            yield f'pooling {implementation}, {name}', own, pool, shapes

    for name, (tokens, width) in NORMS.items():
        shapes = [(clips, min(tokens, 24) if small else tokens, width), (width,), (width,)]
        yield f'norm kernel, {name}', _norm_kernel, _norm, shapes
    for name, (grid, heads, *strides) in QKV.items():
        grid = (2, 4, 4) if small else grid
        shapes = [(8, math.prod(grid), 3 * heads * 96), (3, 3, 3, 3, 96), (3, 96), (3, 96)]
        sizes = dict(grid=grid, q_stride=strides[0], kv_stride=strides[1], heads=heads)
        kernel, reference = (functools.partial(f, **sizes) for f in (_pooling_kernel, _pooling))
        yield f'pooling kernel, {name}', kernel, reference, shapes


def _norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return x + layer_norm(x, scale, bias, EPSILON)


def _norm_kernel(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    _check_kernels()
    from multitrain_jax.ops import layer_norm_gpu

    parameters = (p.astype(jnp.float32) for p in (scale, bias))
    return sum(layer_norm_gpu.layer_norm(x, *parameters, EPSILON, skip=True))


def _pooling(qkv, kernel, scale, bias, *, grid, q_stride, kv_stride, heads) -> jax.Array:
    """All numbers of pooled, normalised queries, keys and values."""
    found = []
    for part, stride in enumerate((q_stride, kv_stride, kv_stride)):
        x = jnp.split(qkv, 3, -1)[part].reshape(qkv.shape[0], *grid, -1)
        y = depthwise_pool(x, jnp.tile(kernel[part], heads), stride)
        y = y.reshape(qkv.shape[0], -1, heads, kernel.shape[-1])
        found.append(layer_norm(y, scale[part], bias[part], EPSILON).ravel())
    return jnp.concatenate(found)


def _pooling_kernel(qkv, kernel, scale, bias, **sizes) -> jax.Array:
    _check_kernels()
    from multitrain_jax.ops import pooling_gpu

    parameters = (p.astype(jnp.float32) for p in (kernel, scale, bias))
    q, k, v, _ = pooling_gpu.pool(qkv, *parameters, epsilon=EPSILON, **sizes)
    return jnp.concatenate([y.ravel() for y in (q, k, v)])


def _check_kernels() -> None:
    if not has_kernels(jax.devices()[0]):
        raise ValueError('Pallas has no kernels of ours for this device')


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        '--small', action='store_true', help='tiny sizes, to try the command on a CPU'
    )
    args = parser.parse_args()
    print(f'jax {jax.__version__}, {jax.devices()[0].device_kind}; result, gradients')
    wrong, on_gpu = 0, jax.devices()[0].platform == 'gpu'
    for name, function, reference, shapes in cases(2, args.small):
        try:
            found = differences(function, reference, shapes)
        except (RuntimeError, ValueError) as error:
            wrong += on_gpu  # which has them all
            what = 'FAILS' if on_gpu else 'not here'
            print(f'{name:<50} {what}: {str(error).splitlines()[0][:90]}', flush=True)
            continue
        bad = not max(found) < LIMIT
        wrong += bad
        text = ' '.join(f'{one:.4f}' for one in found)
        print(f'{name:<50} {text}{"   WRONG" if bad else ""}', flush=True)
    print(f'{wrong} fail or differ by more than {LIMIT}')
    return int(wrong > 0)


if __name__ == '__main__':
    raise SystemExit(main())
