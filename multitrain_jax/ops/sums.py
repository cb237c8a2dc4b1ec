"""Sums over rows and over columns, as XLA's CPU compiler does them best."""

from collections.abc import Sequence
import math

import jax
from jax import lax
import jax.numpy as jnp

from multitrain_jax.ops.platforms import choose


def sums(
    arrays: Sequence[jax.Array], axes: Sequence[int], *, implementation: str | None = None
) -> list[jax.Array]:
    """The sum of every array over `axes`.

    Args:
      arrays: float32, all of one shape.
      axes: to sum over, not negative.
      implementation: 'separate'; 'together': one reduction of several operands; or None: 'together'
          in programs
        compiled for CPU, 'separate' in all others. On CPU a reduction of its own is not fused with
        what it reads: its operand is written to memory first, and a sum over rows then takes ten
        times as long.

    Returns:
      An array for each.

    Raises:
      ValueError: for an unknown implementation.
    """
    implementations = {
        'separate': lambda *arrays: [a.sum(axes) for a in arrays],
        'together': lambda *arrays: _together(arrays, axes),
    }
    return choose(implementation, implementations, cpu='together', default='separate')(*arrays)


def _together(arrays: Sequence[jax.Array], axes: Sequence[int]) -> list[jax.Array]:
    zeros = [jnp.zeros((), a.dtype) for a in arrays]
    return list(
        lax.reduce(list(arrays), zeros, lambda a, b: [p + q for p, q in zip(a, b)], tuple(axes))
    )


def sum_over(
    array: jax.Array, axes: Sequence[int], *, implementation: str | None = None
) -> jax.Array:
    """The sum over `axes`, of which the first ones of the array are most of the work.

    Args:
      array: float32.
      axes: to sum over, not negative.
      implementation: 'plain'; 'product': the first axes by a product with ones; or None: 'product'
          in programs compiled
        for CPU, 'plain' in all others. On CPU a reduction goes through the columns one by one where
        it is fused with what it reads, and otherwise takes one thread. Both sums of LayerNorm's
        gradient for [25089, 96], with all else: 6 ms instead of 12 by `sums`.

    Returns:
      The array without these axes.

    Raises:
      ValueError: for an unknown implementation.
    """
    axes = tuple(axes)
    implementations = {
        'plain': lambda array: array.sum(axes),
        'product': lambda array: _by_product(array, axes),
    }
    return choose(implementation, implementations, cpu='product', default='plain')(array)


def _by_product(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    # Axes before it lead the array.
    first = next((i for i in range(array.ndim) if i not in axes), array.ndim)
    rows = array.reshape(math.prod(array.shape[:first]), -1)
    # Two equal rows: XLA makes a product with a single one a reduction again.
    totals = (jnp.ones((2, rows.shape[0]), array.dtype) @ rows)[0].reshape(array.shape[first:])
    return totals.sum([axis - first for axis in axes if axis >= first])
