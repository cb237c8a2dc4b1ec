"""What the default device reaches at best, measured: the roofs of a roofline."""

import jax
import jax.numpy as jnp

from benchmarks import synthetic_step


def matmul_rate(dtype: str) -> float:
    """FLOP/s of a large matrix product."""
    side = 2048 if jax.default_backend() == 'cpu' else 8192
    a = jnp.ones((side, side), dtype)
    product = jax.jit(jnp.matmul)
    (taken,) = synthetic_step.take_turns([lambda: jax.block_until_ready(product(a, a))], 5)
    return 2 * side**3 / taken[0]


def memory_bandwidth() -> float:
    """Bytes/s, read and written, of adding a constant in place to an array of 256 MiB on CPU,
    else of 2 GiB.
    """
    size = 2 ** (28 if jax.default_backend() == 'cpu' else 31)
    held = [jnp.zeros(size // 4, jnp.float32)]
    add = jax.jit(
        lambda x: x + 1, donate_argnums=0
    )  # a fresh array would have its pages cleared first

    def run() -> None:
        held[0] = jax.block_until_ready(add(held[0]))

    (taken,) = synthetic_step.take_turns([run], 5)
    return 2 * size / taken[0]
