"""Results of all hosts put together, in the order of the hosts; what hosts agree on."""

from collections.abc import Sequence

import jax
from jax.experimental import multihost_utils
import numpy as np


def gather_rows(array: np.ndarray) -> np.ndarray:
    """All hosts' rows, [sum of n, ...], of each host's [n, ...]; hosts may have different n, also 0.

    Integers travel as 32 bits and floats as float32, as JAX has them.
    """
    if jax.process_count() == 1:
        return array
    counts = multihost_utils.process_allgather(np.array([len(array)]))
    padded = np.zeros((int(counts.max()), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    everyone = multihost_utils.process_allgather(padded)  # [hosts, most, ...]
    return np.concatenate([rows[:count] for rows, count in zip(everyone, counts.ravel())])


def on_all_hosts(flag: bool) -> bool:
    """Whether it is true on every host."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).all())


def barrier(name: str) -> None:
    """Returns when all hosts have come to it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather_names(names: Sequence[str]) -> tuple[str, ...]:
    """All hosts' texts."""
    if jax.process_count() == 1:
        return tuple(names)
    encoded = np.array([name.encode() for name in names], np.bytes_)
    longest = int(multihost_utils.process_allgather(np.array(encoded.itemsize)).max())
    characters = np.zeros((len(encoded), longest), np.uint8)
    characters[:, : encoded.itemsize] = encoded.view(np.uint8).reshape(
        len(encoded), encoded.itemsize
    )
    return tuple(row.tobytes().rstrip(b'\0').decode() for row in gather_rows(characters))
