"""Batches filled ahead of their use by a pool of threads, handed out in order.

Threads suffice: reading, JPEG decoding and resizing all release Python's global lock.
"""

from collections import deque
from collections.abc import Callable, Iterator
import concurrent.futures
import logging
import time
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.cores import available_cores
from data_pipelines.storage.sequence_example import RecordError

Batch = dict[str, np.ndarray]
ElementSpec = dict[
    str, tuple[tuple[int | None, ...], np.dtype]
]  # None: differs from batch to batch


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
        if max_bad_records < 0:
            raise ValueError(f'need max_bad_records >= 0, got {max_bad_records}')
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


class Batches:
    """Iterator of batches. Close it, or use it in a `with`, to stop its threads early.

    Switches OpenCV's own threads off, for the whole process: they would compete with these.

    Attributes:
        element_spec: name -> (shape, type) of the arrays of every batch.
        wait_seconds: time spent in `next()` so far, that is, waiting for data.
    """

    def __init__(
        self,
        plan: Iterator[tuple[Batch, list[Task]]],
        *,
        num_threads: int | None,
        prefetch: int,
        max_bad_records: int,
        on_close: Callable[[], None],
        element_spec: ElementSpec,
    ):
        """Starts to fill the first batches.

        Args:
            plan: yields each batch, allocated, with the tasks that fill it. A task may fill rows of
                batches that are yet to come, too.
            num_threads: None: one per processor core that this process may use.
            prefetch: batches under way besides the one being waited for.
            max_bad_records: damaged records to bear with.
            on_close: called once the threads have stopped.
            element_spec: name -> (shape, type) of a batch's arrays.

        Raises:
            ValueError: a number is out of range.
        """
        if num_threads is None:
            num_threads = available_cores()
        if num_threads < 1 or prefetch < 0:
            raise ValueError(
                f'need num_threads >= 1 and prefetch >= 0, got {num_threads} and {prefetch}'
            )
        cv2.setNumThreads(1)
        self.element_spec = element_spec
        self.wait_seconds = 0.0
        self._damage = DamageLog(max_bad_records)
        self._plan = plan
        self._prefetch = prefetch
        self._on_close = on_close
        self._pending: deque[tuple[Batch, list[concurrent.futures.Future]]] = deque()
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads, thread_name_prefix='decode')
        self._submit(prefetch)

    @property
    def bad_records(self) -> int:
        """Damaged records met so far in the batches handed out, each counted once."""
        return self._damage.bad_records

    def _submit(self, batches: int) -> None:
        """Starts work until `batches` batches are under way, or the plan ends."""
        while len(self._pending) < batches:
            planned = next(self._plan, None)
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
        self._plan = iter(())
        self._pending.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._on_close()

    def __enter__(self) -> 'Batches':
        return self

    def __exit__(self, *exception) -> None:
        self.close()
