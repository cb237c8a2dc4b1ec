"""Batches filled ahead of their use by a pool of threads, handed out in order.

Threads suffice: reading, JPEG decoding and resizing all release Python's global lock.
"""

from collections import deque
from collections.abc import Callable, Iterator
import concurrent.futures
import logging
import os
import time
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.records import RecordError

Batch = dict[str, np.ndarray]


class Damage(NamedTuple):
    """A damaged record (its dataset's place among the sources, its number) and what is wrong."""

    dataset: int
    record: int
    message: str


# Fills some rows of a batch; returns the damaged records that it met.
Task = Callable[[], list[Damage]]


class Batches:
    """Iterator of batches. Close it, or use it in a ``with``, to stop its threads early.

    Switches OpenCV's own threads off, for the whole process: they would compete with these.

    Attributes:
        bad_records: damaged records met so far in the batches handed out, each counted once.
        wait_seconds: time spent in ``next()`` so far, that is, waiting for data.
    """

    def __init__(
        self,
        plan: Iterator[tuple[Batch, list[Task]]],
        *,
        num_threads: int | None,
        prefetch: int,
        max_bad_records: int,
        on_close: Callable[[], None],
    ):
        """Starts to fill the first batches.

        Args:
            plan: yields each batch, allocated, with the tasks that fill it. A task may fill rows of
                batches that are yet to come, too.
            num_threads: None: one per processor core that this process may use.
            prefetch: batches under way besides the one being waited for.
            max_bad_records: damaged records to bear with.
            on_close: called once the threads have stopped.

        Raises:
            ValueError: a number is out of range.
        """
        if num_threads is None:
            num_threads = _available_cores()
        if num_threads < 1 or prefetch < 0 or max_bad_records < 0:
            raise ValueError(
                'need num_threads >= 1, prefetch >= 0 and max_bad_records >= 0, '
                f'got {num_threads}, {prefetch} and {max_bad_records}'
            )
        cv2.setNumThreads(1)
        self.bad_records = 0
        self.wait_seconds = 0.0
        self._max_bad_records = max_bad_records
        self._damaged: set[tuple[int, int]] = set()
        self._plan = plan
        self._prefetch = prefetch
        self._on_close = on_close
        self._pending: deque[tuple[Batch, list[concurrent.futures.Future]]] = deque()
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads, thread_name_prefix='decode')
        self._submit(prefetch)

    def _submit(self, batches: int) -> None:
        """Starts work until ``batches`` batches are under way, or the plan ends."""
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
                self._count(future.result())
        except BaseException:
            self.close()
            raise
        finally:
            self.wait_seconds += time.perf_counter() - start
        return batch

    def _count(self, damage: list[Damage]) -> None:
        # Counted here, in the order of the batches and not in the order of decoding, so that the
        # limit strikes at the same batch in every run.
        for found in damage:
            if found[:2] in self._damaged:
                continue
            self._damaged.add(found[:2])
            self.bad_records += 1
            if self.bad_records > self._max_bad_records:
                raise RecordError(
                    f'{found.message} (one damaged record more than '
                    f'max_bad_records={self._max_bad_records})'
                )
            logging.warning('damaged record skipped: %s', found.message)

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


def _available_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):  # Not on macOS, nor on Windows.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
