"""Sums of several arrays over the same axes."""

from collections.abc import Sequence

import jax
from jax import lax
import jax.numpy as jnp

from multitrain_jax.ops.platforms import choose


def sums(arrays: Sequence[jax.Array], axes: Sequence[int], *, implementation: str | None = None) -> list[jax.Array]:
    """The sum of every array over ``axes``.

    Args:
      arrays: float32, all of one shape.
      axes: to sum over, not negative.
      implementation: 'separate'; 'together': one reduction of several operands; or None: 'together' in programs
        compiled for CPU, 'separate' in all others. On CPU a reduction of its own is not fused with what it reads:
        its operand is written to memory first, and a sum over rows then takes ten times as long.

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
    return list(lax.reduce(list(arrays), zeros, lambda a, b: [p + q for p, q in zip(a, b)], tuple(axes)))
