"""Our pooling and patch convolutions against XLA's own, forward and gradient, on this machine's
default device.

    python -m benchmarks.ops [--batch=8] [--rounds=5]

The implementations take turns within every round; printed are medians over the rounds and their
ratio.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.ops.depthwise_pool import depthwise_pool
from multitrain_jax.ops.patch_conv import patch_conv

# name, operation, input shape after the batch, kernel shape, stride, (XLA's, ours)
CASES = (
    (
        'pool q, quickstart stage 1',
        depthwise_pool,
        (4, 8, 8, 32),
        (3, 3, 3, 32),
        (1, 1, 1),
        ('xla_conv', 'shifted'),
    ),
    (
        'pool k v, quickstart stage 1',
        depthwise_pool,
        (4, 8, 8, 64),
        (3, 3, 3, 64),
        (1, 2, 2),
        ('xla_conv', 'shifted'),
    ),
    (
        'pool q, S 16x4 stage 4',
        depthwise_pool,
        (8, 7, 7, 768),
        (3, 3, 3, 768),
        (1, 1, 1),
        ('xla_conv', 'shifted'),
    ),
    (
        'patch conv, quickstart',
        patch_conv,
        (8, 64, 64, 3),
        (3, 9, 9, 3, 32),
        (2, 8, 8),
        ('xla_conv', 'patches'),
    ),
    (
        'patch conv, 8 x 64 px',
        patch_conv,
        (8, 64, 64, 3),
        (3, 7, 7, 3, 32),
        (2, 4, 4),
        ('xla_conv', 'patches'),
    ),
)


def compiled(operation, stride, implementation: str, gradient: bool, x, kernel):
    """A function of no arguments that runs the operation, or the gradients that training needs,
    once.

    Those are for input and kernel; of the patch convolution, whose input is the video, for the
    kernel only.
    """
    run = functools.partial(operation, stride=stride, implementation=implementation)
    if gradient:
        needed = 1 if operation is patch_conv else (0, 1)
        run = jax.grad(lambda x, kernel, run=run: jnp.square(run(x, kernel)).sum(), argnums=needed)
    program = jax.jit(run).lower(x, kernel).compile()
    return lambda: jax.block_until_ready(program(x, kernel))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    device = jax.devices()[0]
    print(
        f'jax {jax.__version__}, {device.device_kind} ({device.platform}), batch {args.batch}, '
        'float32'
    )
    print(f'{"":<30} {"":<9} {"XLA ms":>9} {"ours ms":>9} {"XLA/ours":>9}')
    rng = np.random.default_rng(0)
    for name, operation, shape, kernel_shape, stride, implementations in CASES:
        x = jnp.asarray(rng.standard_normal((args.batch, *shape)), jnp.float32)
        kernel = jnp.asarray(rng.standard_normal(kernel_shape), jnp.float32)
        for gradient in (False, True):
            programs = [
                compiled(operation, stride, which, gradient, x, kernel) for which in implementations
            ]
            seconds: list[list[float]] = [[], []]
            for round_number in range(args.rounds + 1):
                for program, own in zip(programs, seconds):
                    start = time.perf_counter()
                    program()
                    if round_number:  # the first warms up
                        own.append(time.perf_counter() - start)
            xla, ours = (1000 * statistics.median(own) for own in seconds)
            kind = 'gradients' if gradient else 'forward'
            print(f'{name:<30} {kind:<9} {xla:>9.2f} {ours:>9.2f} {xla / ours:>9.1f}', flush=True)


if __name__ == '__main__':
    main()
