"""Devices and hosts: the two drivers that run one per-replica step on all of them, and how a host's batch reaches them.

A step is written once for one replica's share, with the named axis `DATA_AXIS` for its collectives
(`pmean`, `psum`, `all_gather`); here it is mapped over the devices. The mesh says which driver does it:

* `data_mesh`, one axis: `jax.pmap`, a replica is a device, every device has the whole state;
* `grid_mesh`, axes `data` and `model`: `jax.jit` and `jax.shard_map`, a replica is a row of devices, which share its
  work and the state as the annotations in the model (`ops.tensor_parallel`) and the `layout` of the state say.

Both give the same numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import os
import queue
import threading
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from multitrain_jax.errors import UserError
from multitrain_jax.ops.tensor_parallel import MODEL_AXIS

DATA_AXIS = 'data'
_CPU_THREADS_PER_DEVICE = 4


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """How devices divide the work; where nothing else is said, each has its own clips and the whole state."""

    model: int = (
        1  # devices that share one replica: attention heads, hidden units and their parameters
    )
    shard_optimizer: bool = False  # each replica keeps its part of the optimizer's state and the moving average (ZeRO-1)

    def __post_init__(self):
        if self.model < 1:
            raise ValueError(f'model={self.model} must be at least 1')


def use_cpu_devices(count: int) -> None:
    """Makes a CPU count as several devices; only before JAX computes anything. Without effect where XLA_FLAGS does it.

    XLA runs all devices of a CPU on one pool of threads, by default one per core. A collective blocks its thread until
    the other devices have come to it, and a device can wait in several collectives at once: with few cores no thread
    may be left for the device that is waited for, and after 40 seconds XLA ends the process. Hence more threads.
    """
    if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
        jax.config.update('jax_num_cpu_devices', count)
        os.environ.setdefault(
            'NPROC', str(max(os.cpu_count() or 1, _CPU_THREADS_PER_DEVICE * count))
        )


def run_mesh(config: ParallelConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a run, and with it the driver.

    pmap where every device has the whole state, in one process. Of several processes each would have a state of its own
    under pmap; shard_map's belongs to all of them, as checkpoints need it.
    """
    if config == ParallelConfig() and jax.process_count() == 1:
        return data_mesh(devices)
    return grid_mesh(config.model, devices)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One mesh axis, `data`, over all devices of all hosts (or over the given ones)."""
    return Mesh(np.asarray(_by_host(devices)), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def grid_mesh(model: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh axes `data` and `model`: replicas of `model` devices each, that lie beside each other on one host.

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
                f'config.parallel.model={model} does not divide the {count} devices of a host; use a divisor'
            )
    grid = np.asarray(devices).reshape(-1, model)
    return Mesh(grid, (DATA_AXIS, MODEL_AXIS), axis_types=(AxisType.Auto,) * 2)


def _by_host(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    """The replicas of a host follow each other, as its clips do in the global batch."""
    return sorted(
        jax.devices() if devices is None else devices,
        key=lambda device: (device.process_index, device.id),
    )


def check_divides(batch_size: int, mesh: Mesh, what: str, pieces: int = 1) -> int:
    """The number of clips of a (global) batch that one replica sees at a time.

    Args:
        batch_size: clips of the global batch.
        mesh: the devices.
        what: the field that holds `batch_size`, for the message.
        pieces: parts that every replica's share is cut into (gradient accumulation).

    Raises:
        UserError: the batch does not divide.
    """
    devices = mesh.shape[DATA_AXIS]
    if batch_size % (devices * pieces):
        step = devices * pieces
        near = max(step, round(batch_size / step) * step)
        model = mesh.shape.get(MODEL_AXIS, 1)
        parts = f'{devices} {"devices" if model == 1 else f"replicas of {model} devices"}' + (
            f' x {pieces} accumulation steps' if pieces > 1 else ''
        )
        raise UserError(
            f'{what}={batch_size} does not divide over {parts}; use a multiple of {step}, such as {near}'
        )
    return batch_size // (devices * pieces)


def map_train_step(step: Callable, mesh: Mesh, shardings: Any = None) -> Callable:
    """`step(state, share) -> (state, metrics)` on every replica: the state donated, metrics equal.

    Args:
        step: of one replica, with its parts `gradients` and `update`, see `train_step.TrainStep`.
        mesh: chooses the driver, see above.
        shardings: of the state, from `layout.state_shardings`; only read for a mesh with the axis `model`.

    Returns:
        The compiled step of the state and the global batch, see `to_devices`. It has `.lower(state, batch)`, which also
        takes shapes, and a mesh of devices that are only described.
    """
    if MODEL_AXIS not in mesh.shape:
        return jax.pmap(
            step.__call__,
            axis_name=DATA_AXIS,
            in_axes=(None, 0),
            out_axes=None,
            donate_argnums=0,
            devices=list(mesh.devices.flat),
        )
    gradients = _per_replica(step.gradients, mesh, PartitionSpec())

    def train_step(state, batch):
        # The update needs no collectives: out here the compiler may divide it over `data`, as the state lies.
        return step.update(state, *gradients(state, batch))

    return jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )


def map_eval_step(step: Callable, mesh: Mesh) -> Callable:
    """`step(params, share) -> result` on every replica: parameters equal; `local_rows` of the results are the host's."""
    if MODEL_AXIS not in mesh.shape:
        return jax.pmap(
            step,
            axis_name=DATA_AXIS,
            in_axes=(None, 0),
            out_axes=0,
            devices=list(mesh.devices.flat),
        )
    return jax.jit(_per_replica(step, mesh, PartitionSpec(DATA_AXIS)))


def _per_replica(step: Callable, mesh: Mesh, out_specs: PartitionSpec) -> Callable:
    """`data` is written out in the step, as pmap has it; what `model` does is left to the compiler."""
    return jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS)),
        out_specs=out_specs,
        axis_names={DATA_AXIS},
        check_vma=False,  # types that follow which values are equal on all replicas: each loop in the model would need casts
    )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays copied to every device."""
    return place(tree, jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), tree))


def place(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has whole, as they shall lie on the devices of all processes."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def placed(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            numbers = placed(
                jax.random.key_data(leaf), NamedSharding(sharding.mesh, PartitionSpec())
            )
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(placed, tree, shardings)


def whole(tree: Any) -> Any:
    """Arrays of the devices of all processes, however they are divided, with all of them on every device."""

    def gathered(leaf: jax.Array) -> jax.Array:
        return (
            leaf
            if leaf.is_fully_replicated
            else jax.device_put(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec()))
        )

    return jax.tree.map(gathered, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of the arrays of a batch: divided over the replicas along their first axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A host's share [B, ...] of the batch, spread over the replicas.

    Returns:
        Global arrays [all hosts' B, ...]; for pmap [devices, B / local devices, ...].
    """
    local = len(
        [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    )

    def spread(array: np.ndarray) -> jax.Array:
        if MODEL_AXIS not in mesh.shape:
            array = array.reshape(local, array.shape[0] // local, *array.shape[1:])
        return jax.make_array_from_process_local_data(batch_sharding(mesh), array)

    return {name: spread(np.asarray(array)) for name, array in batch.items()}


def local_rows(array: jax.Array, mesh: Mesh) -> np.ndarray:
    """What a mapped evaluation step gave for the rows [B, ...] of this host's share of the batch."""
    shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    rows = [
        np.asarray(shard.data)
        for shard in sorted(shards, key=lambda shard: shard.index[0].start or 0)
    ]
    if MODEL_AXIS not in mesh.shape:  # [1, B / local devices, ...] of each device
        rows = [row[0] for row in rows]
    return np.concatenate(rows)


def prefetch(
    items: Iterator[Any], transform: Callable[[Any], Any], depth: int = 2
) -> Iterator[Any]:
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
