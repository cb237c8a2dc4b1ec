"""Checksums of arrays: whether what comes back from disk is what was there when it was saved.

The storage below Orbax checks its own tables, not the numbers: a flipped bit in them comes back
unnoticed. A checksum is computed where the array is (on the devices, over all shards) and costs one
reading of it.

Word number i of an array, in the order of its elements, counts 2 i + 1 times, modulo 2^32. The
factors are odd, so that no change of a single element leaves the sum as it was; the order of the
additions does not matter, nor does how an array lies on the devices.
"""

from collections.abc import Mapping
import functools
import json
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.models.parameters import named_leaves

# By bytes of an element; of 8 bytes, two words.
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}
_CHUNK = 2**20  # words that NumPy sums at a time


def array_checksums(tree: Any) -> dict[str, int]:
    """A number below 2^32 for every array, by its name in the tree.

    Args:
        tree: arrays with elements of 1, 2, 4 or 8 bytes.
    """
    names, leaves = zip(*named_leaves(tree))
    if all(_is_on_host(leaf) for leaf in leaves):  # nothing to compile
        return {name: _sum_on_host(np.asarray(leaf)) for name, leaf in zip(names, leaves)}
    return dict(zip(names, jax.device_get(_sums_on_device(leaves)).tolist()))


def text_checksum(content: Any) -> int:
    """Of what JSON can hold."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def first_difference(stored: Mapping[str, int], tree: Any) -> str | None:
    """Name of the first array whose checksum is not the stored one; None: all are as they were."""
    return next(
        (name for name, number in array_checksums(tree).items() if stored.get(name) != number), None
    )


def _is_on_host(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    return leaf.is_fully_addressable and all(device.platform == 'cpu' for device in leaf.devices())


def _sum_on_host(array: np.ndarray) -> int:
    words = np.ascontiguousarray(array).reshape(-1).view(_UNSIGNED[array.itemsize])
    odd = 2 * np.arange(min(_CHUNK, words.size), dtype=np.uint32) + 1
    total = 0
    for start in range(0, words.size, _CHUNK):
        chunk = words[start : start + _CHUNK].astype(np.uint32, copy=False)
        total += int(np.dot(chunk, odd[: chunk.size])) + 2 * start * int(chunk.sum(dtype=np.uint64))
    return total % 2**32


def _sum_words(array: jax.Array) -> jax.Array:
    words = jax.lax.bitcast_convert_type(array, _UNSIGNED[array.dtype.itemsize])
    words = words.reshape(-1).astype(np.uint32)
    return (words * (2 * jnp.arange(words.size, dtype=np.uint32) + 1)).sum(dtype=np.uint32)


# It has little to optimise, and hundreds of arrays: compiled for a short compile time.
@functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
def _sums_on_device(leaves):
    return jnp.stack([_sum_words(leaf) for leaf in leaves])
