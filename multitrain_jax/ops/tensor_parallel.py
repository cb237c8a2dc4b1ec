"""Work that the devices along the mesh axis `model` share (tensor parallelism).

The axis is automatic: a program only says along which axis an array is split, and the compiler
moves data. Under pmap, and in programs of one device, nothing of this has an effect.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

MODEL_AXIS = 'model'


def parts(count: int) -> int:
    """Into how many parts `count` equal things are divided: one for each device along `model`, or 1
    where it does not divide.

    Only inside a program that is being traced, which knows its mesh.
    """
    number = devices()
    return number if count % number == 0 else 1


def split(x: jax.Array, axis: int) -> jax.Array:
    """Asks that devices along `model` each hold a part of `x` along `axis`, if they divide it."""
    if parts(x.shape[axis]) == 1:
        return x
    spec = [None] * x.ndim
    spec[axis] = MODEL_AXIS
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def devices() -> int:
    """How many devices along `model` the program that is being traced has."""
    return jax.sharding.get_abstract_mesh().shape.get(MODEL_AXIS, 1)


def on_each_device(function: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """`function`, called by each device along `model` for its own part of the arguments: kernels,
    which no compiler divides.

    Args:
      function: of arrays.
      in_specs, out_specs: how arguments and results are divided, as for `jax.shard_map`; may only
          name `MODEL_AXIS`.
    """
    # Also where the axis has one device: a kernel stands where no axis is left to the compiler.
    if MODEL_AXIS not in jax.sharding.get_abstract_mesh().auto_axes:
        return function
    return jax.shard_map(
        function,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names={MODEL_AXIS},
        check_vma=False,
    )
