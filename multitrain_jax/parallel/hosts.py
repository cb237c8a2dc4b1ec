"""The processes of one run, on one machine or many: how they find each other, what they tell each
other, and what they say when one is lost.

JAX is imported inside the functions: mistakes in a command's flags, which this module names, are
answered at once.
"""

from collections.abc import Iterator, Sequence
import contextlib
import os
import sys

import numpy as np

from multitrain_jax.errors import UserError, first_line

# A process that has not been heard of for so long counts as lost. JAX then ends the others, also
# where they wait for it in a collective, with a message that names it.
_HEARTBEAT_SECONDS = 30
_SHUTDOWN_SECONDS = 30  # that a process waits for the others when it ends
_EXIT_LOST = 1
# What collectives say when the other side of a connection has gone.
_SIGNS_OF_LOSS = (
    'Gloo',
    'NCCL',
    'UNAVAILABLE',
    'DEADLINE_EXCEEDED',
    'Connection',
    'Socket closed',
    'heartbeat',
)

FLAG_HELP = {
    'multi_host': 'Join the other processes of the cluster '
    '(SLURM, Open MPI, TPU pod: found by itself).',
    'coordinator_address': 'HOST:PORT of process 0, where no cluster tells it; '
    'with --num_processes and --process_id.',
    'num_processes': 'Processes of the run.',
    'process_id': 'Number of this one, from 0.',
}


@contextlib.contextmanager
def joined(
    multi_host: bool,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> Iterator[None]:
    """This process is one of a run's while the context lasts. Before JAX computes anything.

    Args:
        multi_host: ask the cluster (SLURM, Open MPI, TPU pod) for the rest.
        coordinator_address: HOST:PORT of process 0; given, nobody is asked.
        num_processes: of the run.
        process_id: of this one.

    Raises:
        UserError: the others cannot be found, or one of them was lost.
    """
    by_hand = dict(
        coordinator_address=coordinator_address, num_processes=num_processes, process_id=process_id
    )
    missing = [f'--{name}' for name, value in by_hand.items() if value is None]
    if missing and len(missing) < len(by_hand):
        raise UserError(
            f'{", ".join(missing)} missing: --coordinator_address, --num_processes and '
            '--process_id belong together'
        )
    if not multi_host and missing:
        yield
        return
    if not missing and not 0 <= process_id < num_processes:
        raise UserError(
            f'--process_id={process_id} must be from 0 to {num_processes - 1}, below '
            f'--num_processes={num_processes}'
        )
    import jax

    try:
        jax.distributed.initialize(
            **by_hand,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        where = coordinator_address or 'the cluster that --multi_host looks for'
        raise UserError(
            f'cannot join {where}: {first_line(error)}. Without SLURM, Open MPI or TPU pod, give '
            '--coordinator_address=HOST:PORT --num_processes=N --process_id=I'
        ) from error
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        print(
            f'error: process {jax.process_index()} of {jax.process_count()} has lost another one '
            f'({first_line(error)}); see the output of the others for the reason. The same command '
            'goes on from the last checkpoint',
            file=sys.stderr,
            flush=True,
        )
        os._exit(_EXIT_LOST)  # at once: the usual way out waits for the one that is lost


def gather_rows(array: np.ndarray) -> np.ndarray:
    """All hosts' rows, [sum of n, ...], of each host's [n, ...]; hosts may have different n, also
    0.

    Integers travel as 32 bits and floats as float32, as JAX has them.
    """
    if _alone():
        return array
    counts = _from_all(np.array([len(array)]))
    padded = np.zeros((int(counts.max()), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    everyone = _from_all(padded)  # [hosts, most, ...]
    return np.concatenate([rows[:count] for rows, count in zip(everyone, counts.ravel())])


def on_all_hosts(flag: bool) -> bool:
    """Whether it is true on every host."""
    if _alone():
        return flag
    return bool(_from_all(np.array(flag)).all())


def barrier(name: str) -> None:
    """Returns when all hosts have come to it."""
    if not _alone():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def gather_names(names: Sequence[str]) -> tuple[str, ...]:
    """All hosts' texts."""
    if _alone():
        return tuple(names)
    encoded = np.array([name.encode() for name in names], np.bytes_)
    longest = int(_from_all(np.array(encoded.itemsize)).max())
    characters = np.zeros((len(encoded), longest), np.uint8)
    characters[:, : encoded.itemsize] = encoded.view(np.uint8).reshape(
        len(encoded), encoded.itemsize
    )
    return tuple(row.tobytes().rstrip(b'\0').decode() for row in gather_rows(characters))


def _alone() -> bool:
    import jax

    return jax.process_count() == 1


def _from_all(array: np.ndarray) -> np.ndarray:
    """[hosts, ...] of each host's array, all of one shape."""
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array)
