"""Rows of batches made by processes: past Python's global lock, without a copy of the pixels.

Batches lie in memory that all processes share: anonymous files (`memfd`), whose descriptors go to
the workers over the sockets that jobs and answers take. They have no name, so nothing is left of
them however a process ends. Workers are fresh interpreters (never a fork, which would copy the
locks of JAX's threads) that open the datasets for themselves; they end when their socket does. A
job goes to whoever has least to do; what a row holds does not depend on that.

A message is its length (u32), then a pickle. To a worker: (number, work, rows, blocks, forget),
with the descriptors of `blocks` beside; from it: (number, `Made`), or (number, exception).
"""

from collections import deque
from collections.abc import Iterator
import concurrent.futures
import mmap
import os
import pickle
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from typing import Any, NamedTuple
import weakref

import numpy as np

from data_pipelines.workers import ArrayPool, Job, Made, Plan

LENGTH = struct.Struct('<I')
_AHEAD = 2  # jobs that a thread of a worker has, so that it need not wait for the next
_READ = 1 << 16  # bytes


class Block(NamedTuple):
    """Memory that is shared.

    Attributes:
        number: its name in messages.
        shape, size: of the u8 array that it is, and its bytes.
    """

    number: int
    shape: tuple[int, ...]
    size: int


class SharedPool(ArrayPool):
    """Gives arrays in memory that other processes can open."""

    def __init__(self):
        super().__init__()
        self._blocks: dict[int, tuple[Block, int]] = {}  # by address; and the file's descriptor
        self._given = 0

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    @property
    def live(self) -> set[int]:
        """Numbers of the blocks that are there."""
        return {block.number for block, _ in list(self._blocks.values())}

    def block(self, array: np.ndarray) -> tuple[Block, int]:
        """The block that an array of this pool is, and the descriptor of its file."""
        return self._blocks[array.__array_interface__['data'][0]]

    def _new(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        descriptor = _anonymous_file(size)
        array = np.frombuffer(mmap.mmap(descriptor, size), dtype, int(np.prod(shape)))
        array = array.reshape(shape)
        address = array.__array_interface__['data'][0]
        self._given += 1
        self._blocks[address] = Block(self._given, shape, size), descriptor
        weakref.finalize(array, self._forget, address)
        return array

    def _forget(self, address: int) -> None:
        _, descriptor = self._blocks.pop(address)
        os.close(descriptor)


def _anonymous_file(size: int) -> int:
    """Descriptor of a file of zeros that has no name."""
    if hasattr(os, 'memfd_create'):  # Linux
        descriptor = os.memfd_create('batch')
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


class _Worker:
    """One process, as its parent sees it."""

    def __init__(self, plan: int, threads: int):
        """`plan`: descriptor of a file that holds the pickled plan."""
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, '-P', '-m', 'data_pipelines.row_worker'),
                    *map(str, (theirs.fileno(), plan, threads)),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), plan),
                # It finds what is found here: this package, a user's module of a DMVR factory.
                env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(os.path.abspath, sys.path))},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends the workers
            )
        self.received = bytearray()
        self.busy: dict[int, tuple[Job, concurrent.futures.Future]] = {}
        self.known: set[int] = set()  # numbers of blocks

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()


class Processes:
    """A `workers.Filler` of processes."""

    def __init__(self, plan: Plan, count: int, threads: int):
        """
        Args:
            plan: which is pickled; its batches come to lie in shared memory.
            count: processes.
            threads: of each.
        """
        pool = SharedPool()
        plan.use(pool)
        self._dealer = dealer = _Dealer(plan, pool, count, threads)
        # Also if nobody closes it; the thread must not keep it alive.
        self._end = weakref.finalize(self, dealer.end)
        threading.Thread(target=dealer.run, name='collect', daemon=True).start()

    def submit(self, job: Job) -> concurrent.futures.Future:
        return self._dealer.submit(job)

    def close(self) -> None:
        self._end()


class _Dealer:
    """Deals jobs to workers and collects what they answer."""

    def __init__(self, plan: Plan, pool: SharedPool, count: int, threads: int):
        self._plan, self._pool = plan, pool
        self._most = threads * _AHEAD
        self._waiting: deque[tuple[Job, concurrent.futures.Future]] = deque()
        self._lock = threading.Lock()
        self._count, self._ended = 0, False
        self._failure: BaseException | None = None
        text = pickle.dumps(plan)
        file = _anonymous_file(len(text))
        try:
            os.pwrite(file, text, 0)
            self._workers = [_Worker(file, threads) for _ in range(count)]
        finally:
            os.close(file)
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for worker in self._workers:
            self._selector.register(worker.socket, selectors.EVENT_READ, worker)
        self._selector.register(self._woken, selectors.EVENT_READ, None)

    def submit(self, job: Job) -> concurrent.futures.Future:
        future = concurrent.futures.Future()
        with self._lock:
            if self._failure is not None:
                future.set_exception(self._failure)
                return future
            self._waiting.append((job, future))
            self._deal()
        return future

    def _deal(self) -> None:
        """Gives waiting jobs to who has least to do; the lock is held."""
        while self._waiting and not self._ended:
            worker = min(self._workers, key=lambda worker: len(worker.busy))
            if len(worker.busy) >= self._most:
                return
            job, future = self._waiting.popleft()
            self._count += 1
            worker.busy[self._count] = job, future
            try:
                self._send(worker, self._count, job)
            except OSError:
                return  # It has died, which `run` is about to see.

    def _send(self, worker: _Worker, number: int, job: Job) -> None:
        rows, blocks, descriptors = [], [], []
        for batch, row in job.rows:
            block, descriptor = self._pool.block(batch['video'])
            rows.append((block.number, row))
            if block.number not in worker.known:
                worker.known.add(block.number)
                blocks.append(block)
                descriptors.append(descriptor)
        gone = []
        if len(worker.known) > self._pool.count:
            gone = list(worker.known - self._pool.live)
            worker.known.difference_update(gone)
        text = pickle.dumps((number, job.work, rows, blocks, gone), pickle.HIGHEST_PROTOCOL)
        message = LENGTH.pack(len(text)) + text
        if descriptors:
            sent = socket.send_fds(worker.socket, [message], descriptors)
            message = message[sent:]
        worker.socket.sendall(message)

    def run(self) -> None:
        """Collects answers, until `end`; in a thread of its own."""
        while True:
            for key, _ in self._selector.select():
                worker = key.data
                if worker is None:
                    return
                try:
                    received = worker.socket.recv(_READ)
                except OSError:
                    received = b''
                if not received:
                    self._fail(worker)
                    return
                worker.received += received
                for number, answer in _messages(worker.received):
                    self._take(worker, number, answer)

    def _take(self, worker: _Worker, number: int, answer: Made | BaseException) -> None:
        with self._lock:
            job, future = worker.busy.pop(number)
            self._deal()
        if isinstance(answer, BaseException):
            future.set_exception(_raised(answer))
            return
        try:
            self._plan.write(job.rows, answer.found)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(answer.damage)

    def _fail(self, worker: _Worker) -> None:
        """Has everybody who waits told that a worker has died."""
        if self._ended:
            return
        code = worker.process.wait()
        if code < 0:
            how = f'was killed by {signal.Signals(-code).name}'
            if code == -signal.SIGKILL:
                how += '; memory may have run out: fewer processes (input.num_processes) take less'
        else:
            how = f'ended with exit code {code}; see its message above'
        with self._lock:
            self._failure = _raised(
                ChildProcessError(
                    f'process {worker.process.pid}, one of {len(self._workers)} that make batches, '
                    f'{how}'
                )
            )
            left = [future for _, future in self._waiting]
            left += [future for worker in self._workers for _, future in worker.busy.values()]
        for future in left:
            future.set_exception(self._failure)

    def end(self) -> None:
        """Ends all processes, at once."""
        self._ended = True
        self._wake.close()
        for worker in self._workers:
            worker.end()


def _raised(error: Exception) -> Exception:
    """The error, raised here: by this, commands tell that its text is for a user."""
    try:
        raise error
    except type(error):
        return error


def _messages(received: bytearray) -> Iterator[Any]:
    """Takes whole messages off the beginning of what was received."""
    while len(received) >= LENGTH.size:
        (length,) = LENGTH.unpack_from(received)
        end = LENGTH.size + length
        if len(received) < end:
            return
        yield pickle.loads(memoryview(received)[LENGTH.size : end])
        del received[:end]
