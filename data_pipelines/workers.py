"""Batches filled ahead of their use by a pool of threads, handed out in order; memory used again.

Threads suffice: reading, JPEG decoding and resizing all release Python's global lock.
"""

from collections import deque
from collections.abc import Callable, Iterator
import concurrent.futures
import logging
import threading
import time
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from data_pipelines.cores import available_cores
from data_pipelines.storage.sequence_example import RecordError

Batch = dict[str, np.ndarray]
# Name -> (shape, type) of a batch's arrays; None in a shape: differs from batch to batch.
ElementSpec = dict[str, tuple[tuple[int | None, ...], np.dtype]]

_MAX_IDLE = 4  # arrays kept for the next ones; more are under way or in use at the same time
_thread = threading.local()


class Damage(NamedTuple):
    """A damaged record (its dataset's place among the sources, its number) and what is wrong."""

    dataset: int
    record: int
    message: str


# Fills some rows of a batch; returns the damaged records that it met.
Task = Callable[[], list[Damage]]


class DamageLog:
    """Counts damaged records, each once, and raises when there are too many.

    To be told of them in the order of the batches, not in the order of decoding, so that the limit
    strikes at the same batch in every run.

    Attributes:
        bad_records: damaged records told of so far.
    """

    def __init__(self, max_bad_records: int):
        self._max_bad_records = max_bad_records
        self._damaged: set[tuple[int, int]] = set()

    @property
    def bad_records(self) -> int:
        return len(self._damaged)

    def add(self, damage: list[Damage]) -> None:
        """
        Raises:
            RecordError: these are more than the limit.
        """
        for found in damage:
            if found[:2] in self._damaged:
                continue
            self._damaged.add(found[:2])
            if self.bad_records > self._max_bad_records:
                raise RecordError(
                    f'{found.message} (one damaged record more than '
                    f'max_bad_records={self._max_bad_records})'
                )
            logging.warning('damaged record skipped: %s', found.message)


class Plan(Protocol):
    """What batches are to hold; see `plans`.

    Attributes:
        element_spec: of every batch.
        max_bad_records: damaged records to bear with.
    """

    element_spec: ElementSpec
    max_bad_records: int

    def close(self) -> None:
        """Closes what the tasks read from."""


class Batches:
    """Iterator of batches. Close it, or use it in a `with`, to stop its threads early.

    Switches OpenCV's own threads off, for the whole process: they would compete with these.

    Attributes:
        element_spec: name -> (shape, type) of the arrays of every batch.
        wait_seconds: time spent in `next()` so far, that is, waiting for data.
    """

    def __init__(
        self,
        plan: Plan,
        planned: Iterator[tuple[Batch, list[Task]]],
        *,
        num_threads: int | None,
        prefetch: int,
    ):
        """Starts to fill the first batches.

        Args:
            plan: of the batches; closed once the threads have stopped.
            planned: yields each batch, allocated, with the tasks that fill it. A task may fill rows
                of batches that are yet to come, too.
            num_threads: None: one per processor core that this process may use.
            prefetch: batches under way besides the one being waited for.

        Raises:
            ValueError: `prefetch` is negative.
        """
        if prefetch < 0:
            raise ValueError(f'need prefetch >= 0, got {prefetch}')
        cv2.setNumThreads(1)
        self.element_spec = plan.element_spec
        self.wait_seconds = 0.0
        self._damage = DamageLog(plan.max_bad_records)
        self._plan, self._planned, self._prefetch = plan, planned, prefetch
        self._pending: deque[tuple[Batch, list[concurrent.futures.Future]]] = deque()
        self._pool = concurrent.futures.ThreadPoolExecutor(
            num_threads or available_cores(), thread_name_prefix='decode'
        )
        self._submit(prefetch)

    @property
    def bad_records(self) -> int:
        """Damaged records met so far in the batches handed out, each counted once."""
        return self._damage.bad_records

    def _submit(self, batches: int) -> None:
        """Starts work until `batches` batches are under way, or the plan ends."""
        while len(self._pending) < batches:
            planned = next(self._planned, None)
            if planned is None:
                return
            batch, tasks = planned
            self._pending.append((batch, [self._pool.submit(task) for task in tasks]))

    def __iter__(self) -> 'Batches':
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            self._submit(self._prefetch + 1)
            if not self._pending:
                raise StopIteration
            batch, futures = self._pending.popleft()
            for future in futures:
                self._damage.add(future.result())
        except BaseException:
            self.close()
            raise
        finally:
            self.wait_seconds += time.perf_counter() - start
        return batch

    def close(self) -> None:
        """Stops the threads; iteration then ends. May be called again."""
        self._planned = iter(())
        self._pending.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._plan.close()

    def __enter__(self) -> 'Batches':
        return self

    def __exit__(self, *exception) -> None:
        self.close()


# Memory for batches that is used again: asking the system for it costs a tenth of making a clip.


class ArrayPool:
    """Gives arrays; again the memory of one that nobody refers to any more, nor to a part."""

    def __init__(self):
        self._idle: list[np.ndarray] = []
        self._lock = threading.Lock()  # Not for what leases give back: that may come at any moment.

    def empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """As `np.empty`."""
        array = None
        with self._lock:
            for number, candidate in enumerate(self._idle):
                if candidate.shape == shape and candidate.dtype == dtype:
                    array = self._idle.pop(number)
                    break
        if array is None:
            array = np.empty(shape, dtype)
        return np.asarray(_Lease(array, self._idle))


class _Lease:
    """What an array given away, and all views of it, keep alive; its end is theirs."""

    def __init__(self, array: np.ndarray, idle: list[np.ndarray]):
        self._array, self._idle = array, idle
        self.__array_interface__ = array.__array_interface__

    def __del__(self):
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(self._array)


def scratch(name: str, count: int) -> np.ndarray:
    """u8[count] of the calling thread, the same memory again at the next call of this `name`."""
    array = getattr(_thread, name, None)
    if array is None or len(array) < count:
        array = np.empty(count + count // 2, np.uint8)
        setattr(_thread, name, array)
    return array[:count]
