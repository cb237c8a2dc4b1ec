"""Every implementation that this machine's device can run, in bfloat16, against XLA's in float32:
results and gradients.

    python -m benchmarks.gpu_equality [--small]

Attention and pooling convolution, at sizes of MViTv2-B 32x3 and ViT-B; printed is the largest
difference as a part of the largest number of each array. bfloat16 keeps 8 bits, so 0.004 is one
rounding. Exit code 1 where one differs by more than `LIMIT`, or fails on a GPU; other devices do
not have all of them, which is said.
"""

import argparse
from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.ops.attention import attention
from multitrain_jax.ops.depthwise_pool import depthwise_pool

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


def with_gradients(function: Callable, *arrays: jax.Array) -> list[np.ndarray]:
    """The result and the gradients of a weighted sum of it by all arguments, float32."""

    def run(*arrays):
        y, gradients = jax.vjp(function, *arrays)
        return [
            y,
            *gradients(
                jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)
            ),
        ]

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
