"""Devices and hosts: the driver that runs one per-replica step on all of them, and how a host's batch reaches them.

A step is written once for one replica's share, with the named axis `DATA_AXIS` for its collectives
(`pmean`, `psum`, `all_gather`); here it is mapped over the devices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import os
import queue
import threading
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from multitrain_jax.errors import UserError

DATA_AXIS = 'data'
_CPU_THREADS_PER_DEVICE = 4


def use_cpu_devices(count: int) -> None:
    """Makes a CPU count as several devices; only before JAX computes anything. Without effect where XLA_FLAGS does it.

    XLA runs all devices of a CPU on one pool of threads, by default one per core. A collective blocks its thread until
    the other devices have come to it, and a device can wait in several collectives at once: with few cores no thread
    may be left for the device that is waited for, and after 40 seconds XLA ends the process. Hence more threads.
    """
    if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
        jax.config.update('jax_num_cpu_devices', count)
        os.environ.setdefault('NPROC', str(max(os.cpu_count() or 1, _CPU_THREADS_PER_DEVICE * count)))


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One mesh axis, `data`, over all devices of all hosts (or over the given ones)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def check_divides(batch_size: int, mesh: Mesh, what: str, pieces: int = 1) -> int:
    """The number of clips of a (global) batch that one device sees at a time.

    Args:
        batch_size: clips of the global batch.
        mesh: the devices.
        what: the field that holds `batch_size`, for the message.
        pieces: parts that every device's share is cut into (gradient accumulation).

    Raises:
        UserError: the batch does not divide.
    """
    devices = mesh.size
    if batch_size % (devices * pieces):
        step = devices * pieces
        near = max(step, round(batch_size / step) * step)
        parts = f'{devices} devices' + (f' x {pieces} accumulation steps' if pieces > 1 else '')
        raise UserError(f'{what}={batch_size} does not divide over {parts}; use a multiple of {step}, such as {near}')
    return batch_size // (devices * pieces)


def map_train_step(step: Callable, mesh: Mesh) -> Callable:
    """`step(state, share) -> (state, metrics)` on every device: the state replicated and donated, metrics equal."""
    return jax.pmap(
        step, axis_name=DATA_AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0, devices=list(mesh.devices.flat)
    )


def map_eval_step(step: Callable, mesh: Mesh) -> Callable:
    """`step(params, share) -> result` on every device: parameters replicated, results stacked [devices, ...]."""
    return jax.pmap(step, axis_name=DATA_AXIS, in_axes=(None, 0), out_axes=0, devices=list(mesh.devices.flat))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays copied to every device of this host."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A host's share [B, ...] as arrays [devices, B / devices, ...], spread over the devices."""
    local = len([device for device in mesh.devices.flat if device.process_index == jax.process_index()])
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def spread(array: np.ndarray) -> jax.Array:
        shares = array.reshape(local, array.shape[0] // local, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, shares)

    return {name: spread(np.asarray(array)) for name, array in batch.items()}


def prefetch(items: Iterator[Any], transform: Callable[[Any], Any], depth: int = 2) -> Iterator[Any]:
    """`transform(item)` for every item, made up to `depth` items ahead of their use by a thread.

    With `to_devices` as the transform, copies to the devices overlap the computation. An error in the
    thread is raised where the item would have come.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()
    end = object()

    def put(entry: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not put((transform(item), None)):
                    return
            put((end, None))
        except BaseException as error:  # handed over, whatever it is
            put((None, error))

    thread = threading.Thread(target=run, name='prefetch', daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
        close = getattr(items, 'close', None)
        if close is not None:
            close()
