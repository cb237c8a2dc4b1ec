"""Work that the devices along the mesh axis `model` share (tensor parallelism).

The axis is automatic: a program only says along which axis an array is split, and the compiler moves data. Under pmap,
and in programs of one device, nothing of this has an effect.
"""

import jax
from jax.sharding import PartitionSpec

MODEL_AXIS = 'model'


def parts(count: int) -> int:
    """Into how many parts `count` equal things are divided: one for each device along `model`, or 1 where it does not divide.

    Only inside a program that is being traced, which knows its mesh.
    """
    devices = jax.sharding.get_abstract_mesh().shape.get(MODEL_AXIS, 1)
    return devices if count % devices == 0 else 1


def split(x: jax.Array, axis: int) -> jax.Array:
    """Asks that the devices along `model` hold a part of `x` each, cut along `axis`; as it is where that does not divide."""
    if parts(x.shape[axis]) == 1:
        return x
    spec = [None] * x.ndim
    spec[axis] = MODEL_AXIS
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
