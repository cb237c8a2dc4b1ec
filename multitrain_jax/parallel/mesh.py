"""The devices of all hosts as a mesh, and arrays on them: copied to every device, or divided.

Mesh axes: along `data` every replica has its own clips; along `model`, where there is such an axis,
the devices share one replica.
"""

from collections.abc import Sequence
import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from data_pipelines.settings import PositiveInt, settings
from multitrain_jax.errors import UserError
from multitrain_jax.ops.tensor_parallel import MODEL_AXIS

DATA_AXIS = 'data'
_CPU_THREADS_PER_DEVICE = 4


@settings
class ParallelConfig:
    """How devices divide the work; by default each has its own clips and the whole state."""

    # devices that share one replica: attention heads, hidden units and their parameters
    model: PositiveInt = 1
    # each replica keeps its part of optimizer state and moving average (ZeRO-1), to save memory
    shard_optimizer: bool = False


def use_cpu_devices(count: int) -> None:
    """Makes a CPU count as several devices; only before JAX computes anything. Without effect where
    XLA_FLAGS does it.

    XLA runs all devices of a CPU on one pool of threads, by default one per core. A collective
    blocks its thread until the other devices have come to it, and a device can wait in several
    collectives at once: with few cores no thread may be left for the device that is waited for, and
    after 40 seconds XLA ends the process. Hence more threads.
    """
    if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
        jax.config.update('jax_num_cpu_devices', count)
        os.environ.setdefault(
            'NPROC', str(max(os.cpu_count() or 1, _CPU_THREADS_PER_DEVICE * count))
        )


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One mesh axis, `data`, over all devices of all hosts (or over the given ones)."""
    return Mesh(np.asarray(_by_host(devices)), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def grid_mesh(model: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh axes `data` and `model`: replicas of `model` devices each, that lie beside each other on
    one host.

    Args:
        model: devices of a replica; 1 is possible.
        devices: None: all devices of all hosts.

    Raises:
        UserError: `model` does not divide the devices of a host.
    """
    devices = _by_host(devices)
    for host in {device.process_index for device in devices}:
        count = sum(device.process_index == host for device in devices)
        if count % model:
            raise UserError(
                f'config.parallel.model={model} does not divide the {count} devices of a host; '
                'use a divisor'
            )
    grid = np.asarray(devices).reshape(-1, model)
    return Mesh(grid, (DATA_AXIS, MODEL_AXIS), axis_types=(AxisType.Auto,) * 2)


def _by_host(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    """The replicas of a host follow each other, as its clips do in the global batch."""
    return sorted(
        jax.devices() if devices is None else devices,
        key=lambda device: (device.process_index, device.id),
    )


def check_divides(batch_size: int, mesh: Mesh, what: str, micro_batches: int = 1) -> int:
    """The number of clips of a (global) batch that one replica sees at a time.

    Args:
        batch_size: clips of the global batch.
        mesh: the devices.
        what: the field that holds `batch_size`, for the message.
        micro_batches: that every replica's part is cut into (gradient accumulation).

    Raises:
        UserError: the batch does not divide.
    """
    replicas = mesh.shape[DATA_AXIS]
    step = replicas * micro_batches
    if batch_size % step:
        near = max(step, round(batch_size / step) * step)
        model = mesh.shape.get(MODEL_AXIS, 1)
        parts = f'{replicas} {"devices" if model == 1 else f"replicas of {model} devices"}' + (
            f' x {micro_batches} accumulation steps' if micro_batches > 1 else ''
        )
        raise UserError(
            f'{what}={batch_size} does not divide over {parts}; use a multiple of {step}, such '
            f'as {near}'
        )
    return batch_size // step


def replicated(mesh: Mesh) -> NamedSharding:
    """Of an array that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """Of an array that the replicas divide along its first axis, as those of a batch are."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays copied to every device."""
    return place(tree, jax.tree.map(lambda leaf: replicated(mesh), tree))


def place(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has whole, as they shall lie on the devices of all processes."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def placed(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            numbers = placed(jax.random.key_data(leaf), replicated(sharding.mesh))
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(placed, tree, shardings)


def whole(tree: Any) -> Any:
    """Arrays that the devices of all processes divide in any way, whole on every device."""

    def gathered(leaf: jax.Array) -> jax.Array:
        if leaf.is_fully_replicated:
            return leaf
        return jax.device_put(leaf, replicated(leaf.sharding.mesh))

    return jax.tree.map(gathered, tree)
