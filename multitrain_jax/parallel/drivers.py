"""The two drivers that run a step, written once for one replica, on all devices.

A step sees one replica's part of the batch and has the named axis `DATA_AXIS` for its collectives
(`pmean`, `psum`, `all_gather`):

* `Pmap`: `jax.pmap`, a replica is a device, every device has the whole state;
* `ShardMap`: `jax.jit` and `jax.shard_map`, a replica is a row of devices, which share its work and
  the state as the annotations in the model (`ops.tensor_parallel`) and the `layout` of the state
  say.

Both give the same numbers.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
import numpy as np

from multitrain_jax.parallel.mesh import (
    DATA_AXIS,
    ParallelConfig,
    data_mesh,
    grid_mesh,
    over_data,
    replicate,
    replicated,
)


class _Bound:
    """A compiled step with its last argument given; likewise what `lower` and `compile` give."""

    def __init__(self, step: Any, constants: Any, mesh: Mesh):
        self._step, self._constants, self._mesh = step, constants, mesh

    @functools.cached_property
    def _placed(self) -> Any:
        return replicate(self._constants, self._mesh)

    def __call__(self, *args: Any) -> Any:
        return self._step(*args, self._placed)

    def lower(self, *args: Any) -> '_Bound':
        return _Bound(self._step.lower(*args, self._constants), self._constants, self._mesh)

    def compile(self, *options: Any) -> '_Bound':
        return _Bound(self._step.compile(*options), self._constants, self._mesh)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


@dataclasses.dataclass(frozen=True)
class Driver(abc.ABC):
    """Runs steps on the devices of a mesh."""

    mesh: Mesh

    @abc.abstractmethod
    def train_step(self, step: Callable, shardings: Any = None, constants: Any = None) -> Callable:
        """`step(state, batch) -> (state, metrics)` on every replica: the state donated, metrics
        equal.

        Args:
            step: of one replica, with its parts `gradients` and `update`, see
                `train_step.TrainStep`.
            shardings: of the state, from `layout.state_shardings`; `Pmap` needs none.
            constants: third argument of every step, arrays of the host that it takes as data.

        Returns:
            The compiled step of the state and the global batch, see `to_devices`. It has
            `.lower(state, batch)`, which also takes shapes, and a mesh of devices that are only
            described.
        """

    @abc.abstractmethod
    def eval_step(self, step: Callable) -> Callable:
        """`step(params, batch) -> result` on every replica; `local_rows` of it are the host's."""

    def to_devices(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host's part [B, ...] of the batch, spread over the replicas: global arrays."""
        sharding = over_data(self.mesh)
        return {
            name: jax.make_array_from_process_local_data(sharding, self._local(np.asarray(array)))
            for name, array in batch.items()
        }

    def local_rows(self, array: jax.Array) -> np.ndarray:
        """What a mapped evaluation step gave for this host's part [B, ...] of the batch."""
        shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
        in_order = sorted(shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([self._rows(np.asarray(shard.data)) for shard in in_order])

    def _local(self, array: np.ndarray) -> np.ndarray:
        return array

    def _rows(self, shard: np.ndarray) -> np.ndarray:
        return shard


class Pmap(Driver):
    """Every device is a replica and has the whole state.

    Batches are [devices, B / devices, ...].
    """

    def train_step(self, step: Callable, shardings: Any = None, constants: Any = None) -> Callable:
        mapped = self._mapped(
            step.__call__, in_axes=(None, 0, None), out_axes=None, donate_argnums=0
        )
        return _Bound(mapped, constants, self.mesh)

    def eval_step(self, step: Callable) -> Callable:
        return self._mapped(step, in_axes=(None, 0), out_axes=0)

    def _mapped(self, step: Callable, **options) -> Callable:
        devices = list(self.mesh.devices.flat)
        return jax.pmap(step, axis_name=DATA_AXIS, devices=devices, **options)

    def _local(self, array: np.ndarray) -> np.ndarray:
        devices = len(self.mesh.local_devices)
        return array.reshape(devices, array.shape[0] // devices, *array.shape[1:])

    def _rows(self, shard: np.ndarray) -> np.ndarray:
        return shard[0]


class ShardMap(Driver):
    """On a mesh with the axes `data` and `model`. Batches are [B, ...]."""

    def train_step(self, step: Callable, shardings: Any = None, constants: Any = None) -> Callable:
        gradients = self._per_replica(step.gradients, PartitionSpec(), PartitionSpec())

        def train_step(state, batch, constants):
            # The update needs no collectives: out here the compiler may divide it over `data`, as
            # the state lies.
            return step.update(state, *gradients(state, batch, constants), constants)

        compiled = jax.jit(
            train_step,
            in_shardings=(shardings, over_data(self.mesh), replicated(self.mesh)),
            out_shardings=(shardings, replicated(self.mesh)),
            donate_argnums=0,
        )
        return _Bound(compiled, constants, self.mesh)

    def eval_step(self, step: Callable) -> Callable:
        return jax.jit(self._per_replica(step, PartitionSpec(DATA_AXIS)))

    def _per_replica(
        self, step: Callable, out_specs: PartitionSpec, *others: PartitionSpec
    ) -> Callable:
        """`data` is written out in the step, as pmap has it; `model` is left to the compiler."""
        return jax.shard_map(
            step,
            mesh=self.mesh,
            in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS), *others),
            out_specs=out_specs,
            axis_names={DATA_AXIS},
            # Types that follow which values are equal on all replicas: each loop in the model would
            # need casts.
            check_vma=False,
        )


def open_driver(config: ParallelConfig, devices: Sequence[jax.Device] | None = None) -> Driver:
    """The driver of a run on these devices; None: all of them.

    `Pmap` where every device has the whole state, in one process. Of several processes each would
    have a state of its own under pmap; shard_map's belongs to all of them, as checkpoints need it.

    Raises:
        UserError: `config.model` does not divide the devices of a host.
    """
    if config == ParallelConfig() and jax.process_count() == 1:
        return Pmap(data_mesh(devices))
    return ShardMap(grid_mesh(config.model, devices))
