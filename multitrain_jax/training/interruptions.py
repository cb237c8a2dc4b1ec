"""Requests to stop a run: a scheduler's SIGTERM, a user's Ctrl-C (SIGINT).

All processes of a run stop at the same place.
"""

from collections.abc import Iterator
import contextlib
import logging
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.parallel.mesh import data_mesh, over_data

_log = logging.getLogger('multitrain_jax')
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequested(Exception):
    """Raised by `StopRequests.check`; all processes raise it at the same call."""


class StopRequests:
    """Whether some process of the run has been asked to stop."""

    def __init__(self):
        self.name: str | None = None  # of the signal that came to this process
        self._asked: jax.Array | None = None

    def check(self) -> None:
        """Called between pieces of work (steps, batches of an evaluation), by all processes equally
        often.

        With several processes the answer is a small computation on all devices. Its result is
        fetched at the next call, when the devices have other work to do, so that nothing waits for
        it.

        Raises:
            StopRequested: a process was asked to stop.
        """
        if jax.process_count() == 1:
            if self.name is not None:
                raise StopRequested
            return
        before, self._asked = self._asked, _any_process(self.name is not None)
        if before is not None and jax.device_get(before):
            raise StopRequested

    def _on_signal(self, number: int, frame) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.name is None:
            self.name = signal.Signals(number).name
            _log.warning(
                '%s: stopping after the work at hand, with a checkpoint (Ctrl-C: at once, without)',
                self.name,
            )


@contextlib.contextmanager
def listen() -> Iterator[StopRequests]:
    """Signals become requests while the context lasts.

    Python lets only the main thread listen; elsewhere none come.
    """
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before = {number: signal.signal(number, requests._on_signal) for number in _SIGNALS}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _any_process(flag: bool) -> jax.Array:
    """bool[], on all devices: whether it is true in some process. It is not waited for."""
    own = np.full(jax.local_device_count(), flag)
    return _any(jax.make_array_from_process_local_data(over_data(data_mesh()), own))


@jax.jit
def _any(flags: jax.Array) -> jax.Array:
    return jnp.any(flags)
