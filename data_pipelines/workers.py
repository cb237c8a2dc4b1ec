"""Batches filled ahead of their use, by threads or processes, and handed out in order.

Reading, decoding and resizing release Python's global lock, so that threads suffice for a few
cores; what is left between them lets one process stop at some hundred clips a second. See
`processes`.
"""

import abc
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
import concurrent.futures
import logging
import os
import sys
import threading
import time
from typing import Any, NamedTuple, Protocol, Self

import cv2
import numpy as np

from data_pipelines.storage.sequence_example import RecordError

Batch = dict[str, np.ndarray]
# Name -> (shape, type) of a batch's arrays; None in a shape: differs from batch to batch.
ElementSpec = dict[str, tuple[tuple[int | None, ...], np.dtype]]

_NICENESS, _MOST_NICENESS = 10, 19  # of threads that decode; of any
_MAX_IDLE = 4  # arrays kept for the next ones; more are under way or in use at the same time
_thread = threading.local()


class Damage(NamedTuple):
    """A damaged record (its dataset's place among the sources, its number) and what is wrong."""

    dataset: int
    record: int
    message: str


class Job(NamedTuple):
    """Rows of batches, possibly of some that are yet to come, and what is to fill them.

    Attributes:
        work: what the plan makes; it can be pickled.
        rows: (batch, row), in the order in which the plan's `make` gets their pixels.
    """

    work: Any
    rows: list[tuple[Batch, int]]


class Made(NamedTuple):
    """What came of a job besides pixels: what `Plan.write` takes, and the damaged records met."""

    found: Any
    damage: list[Damage]


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

    def use(self, pool: 'ArrayPool') -> None:
        """The pixels of batches are to be taken from this pool."""

    def make(self, work: Any, pixels: Sequence[np.ndarray]) -> Made:
        """Does the work of a job: writes the pixels of its rows, u8[T, H, W, 3] each.

        In a thread of this process, or in another process, which has a copy of the plan (pickled:
        opened anew).
        """

    def write(self, rows: Sequence[tuple[Batch, int]], found: Any) -> None:
        """Writes the rest of the rows of a job, in this process."""

    def close(self) -> None:
        """Closes what is read from."""


class Filler(Protocol):
    """Does jobs, several at a time."""

    def begin(self, jobs: list[Job]) -> Iterator[list[Damage]]:
        """Begins jobs; their order is the one in which they are to be done.

        Returns:
            of each job, in order, the damaged records that it met; whoever asks waits for it, and
            gets the error that it ended with.
        """

    def close(self) -> None:
        """Ends at once what has begun. May be called again."""


class Threads:
    """A `Filler` of threads of this process."""

    def __init__(self, plan: Plan, count: int):
        self._plan = plan
        self._pool = concurrent.futures.ThreadPoolExecutor(
            count, thread_name_prefix='decode', initializer=yield_to_others
        )

    def begin(self, jobs: list[Job]) -> Iterator[list[Damage]]:
        futures = [self._pool.submit(fill, self._plan, job) for job in jobs]
        return (future.result() for future in futures)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def yield_to_others() -> None:
    """This thread takes the processor after the others of its process, under Linux.

    A training step on a CPU spreads over all cores and waits for the last of them; decoding then
    fills its pauses instead of making them longer (the quickstart trains 6 % faster).
    """
    if sys.platform == 'linux':
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, _MOST_NICENESS))


def fill(plan: Plan, job: Job) -> list[Damage]:
    """Does a job here and now; returns the damaged records that it met."""
    made = plan.make(job.work, [batch['video'][row] for batch, row in job.rows])
    plan.write(job.rows, made.found)
    return made.damage


class BatchIterator(abc.ABC):
    """Iterator of batches. Close it, or use it in a `with`, to stop what makes them early.

    Attributes:
        element_spec: name -> (shape, type) of the arrays of every batch.
        wait_seconds: time spent in `next()` so far, that is, waiting for data.
    """

    def __init__(self, element_spec: ElementSpec, max_bad_records: int):
        self.element_spec, self.wait_seconds = element_spec, 0.0
        self._damage = DamageLog(max_bad_records)

    @property
    def bad_records(self) -> int:
        """Damaged records met so far in the batches handed out, each counted once."""
        return self._damage.bad_records

    @abc.abstractmethod
    def _next(self) -> tuple[Batch, Iterable[list[Damage]]]:
        """The next batch, and the damaged records met; raises StopIteration after the last."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stops what makes batches; iteration then ends. May be called again."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            batch, found = self._next()
            for damage in found:
                self._damage.add(damage)
        except BaseException:
            self.close()
            raise
        finally:
            self.wait_seconds += time.perf_counter() - start
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class Batches(BatchIterator):
    """Batches filled by threads or processes.

    Switches OpenCV's own threads off, for the whole process: they would compete with these.
    """

    def __init__(
        self,
        plan: Plan,
        planned: Iterator[tuple[Batch, list[Job]]],
        filler: Filler,
        *,
        prefetch: int,
    ):
        """Starts to fill the first batches.

        Args:
            plan: of the batches; closed once nobody fills them any more.
            planned: yields each batch, allocated, with the jobs that fill it.
            filler: does the jobs; closed in the end.
            prefetch: batches under way besides the one being waited for.

        Raises:
            ValueError: `prefetch` is negative.
        """
        if prefetch < 0:
            raise ValueError(f'need prefetch >= 0, got {prefetch}')
        super().__init__(plan.element_spec, plan.max_bad_records)
        cv2.setNumThreads(1)
        self._plan, self._planned, self._prefetch = plan, planned, prefetch
        self._pending: deque[tuple[Batch, Iterator[list[Damage]]]] = deque()
        self._filler = filler
        self._begin(prefetch)

    def _begin(self, batches: int) -> None:
        """Starts work until `batches` batches are under way, or the plan ends."""
        while len(self._pending) < batches:
            planned = next(self._planned, None)
            if planned is None:
                return
            batch, jobs = planned
            self._pending.append((batch, self._filler.begin(jobs)))

    def _next(self):
        self._begin(self._prefetch + 1)
        if not self._pending:
            raise StopIteration
        return self._pending.popleft()

    def close(self) -> None:
        self._planned = iter(())
        self._pending.clear()
        self._filler.close()
        self._plan.close()


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
            array = self._new(shape, dtype)
        return np.asarray(_Lease(array, self._idle))

    def _new(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.empty(shape, dtype)


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
