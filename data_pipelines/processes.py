"""Rows of batches made by processes: past Python's global lock, without a copy of the pixels.

Batches lie in memory that all processes share: anonymous files (`memfd`), whose descriptors go to
the workers over sockets. They have no name, so nothing is left of them however a process ends.
Workers are fresh interpreters (never a fork, which would copy the locks of JAX's threads) that open
the datasets for themselves; they end when their socket does.

Every worker is told of every batch: what its jobs are. Whose they become is nobody's decision: for
each job there is a token in one pipe, from which the threads of all workers take the next when they
have time. So the parent does little for a clip; what a row holds does not depend on who made it.

A message is its length (u32), then a pickle. To a worker: a `Block`, with its descriptor beside, or
(number of a batch, [(work, [(block, row)])] of its jobs, numbers of batches that are done, of
blocks that are gone). From it, of what a thread did for one batch: a list of (number, job, what
`Plan.write` takes, damage), or (number, job, exception, None).
"""

from collections.abc import Iterator, Sequence
import contextlib
import itertools
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
from typing import Any, NamedTuple
import weakref

import numpy as np

from data_pipelines.workers import ArrayPool, Damage, Job, Plan

LENGTH = struct.Struct('<I')
TOKEN = struct.Struct('<QQ')  # number of a batch, of a job in it
_PIECE = 512 // TOKEN.size * TOKEN.size  # bytes; so many enter a pipe as a whole or not at all
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

    def __init__(self, plan: int, queue: int, threads: int):
        """`plan`: descriptor of a file that holds the pickled plan; `queue`: where tokens are."""
        self.socket, theirs = socket.socketpair()
        with theirs:
            # Room for answers while nobody asks for them; what the system allows is given.
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self.process = subprocess.Popen(
                [
                    *(sys.executable, '-P', '-m', 'data_pipelines.row_worker'),
                    *map(str, (theirs.fileno(), queue, plan, threads)),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), queue, plan),
                # It finds what is found here: this package, a user's module of a DMVR factory.
                env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(os.path.abspath, sys.path))},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends the workers
            )
        self.received = bytearray()

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        with contextlib.suppress(ConnectionError):  # It has died, which is seen when it is read.
            if descriptors:
                message = message[socket.send_fds(self.socket, [message], descriptors) :]
            self.socket.sendall(message)


class _Begun:
    """A batch that is being made."""

    def __init__(self, jobs: list[Job]):
        self.jobs, self.left = jobs, len(jobs)
        self.notable: dict[int, list[Damage] | Exception] = {}  # by job; of the others: nothing


class Processes:
    """A `workers.Filler` of processes. Answers are read when somebody waits for them."""

    def __init__(self, plan: Plan, count: int, threads: int):
        """
        Args:
            plan: which is pickled; its batches come to lie in shared memory.
            count: processes.
            threads: of each.
        """
        self._plan, self._pool = plan, SharedPool()
        plan.use(self._pool)
        text = pickle.dumps(plan)
        file = _anonymous_file(len(text))
        tokens, queue = os.pipe()
        for end in (tokens, queue):
            os.set_blocking(end, False)
        try:
            os.pwrite(file, text, 0)
            self._workers = [_Worker(file, tokens, threads) for _ in range(count)]
        finally:
            os.close(file)
            os.close(tokens)
        self._queue, self._unsent = queue, bytearray()
        self._count, self._begun, self._done = 0, {}, []
        self._known: set[int] = set()  # numbers of blocks
        self._selector = selectors.DefaultSelector()
        for worker in self._workers:
            self._selector.register(worker.socket, selectors.EVENT_READ, worker)
        # Also if nobody closes it.
        self._end = weakref.finalize(self, _end, self._workers, queue, self._selector)

    def begin(self, jobs: list[Job]) -> Iterator[list[Damage]]:
        number = self._count = self._count + 1
        self._begun[number] = _Begun(jobs)
        blocks = {id(batch): self._share(batch['video']) for job in jobs for batch, _ in job.rows}
        told = [(job.work, [(blocks[id(batch)], row) for batch, row in job.rows]) for job in jobs]
        gone = self._known - self._pool.live
        self._tell((number, told, self._done, gone))
        self._known, self._done = self._known - gone, []
        self._unsent += b''.join(TOKEN.pack(number, job) for job in range(len(jobs)))
        self._deal()
        return self._results(number)

    def _share(self, array: np.ndarray) -> int:
        """Number of the block that an array is; now known to all workers."""
        block, descriptor = self._pool.block(array)
        if block.number not in self._known:
            self._known.add(block.number)
            self._tell(block, [descriptor])
        return block.number

    def _tell(self, content: Any, descriptors: Sequence[int] = ()) -> None:
        """Tells all workers."""
        message = pack(content)
        for worker in self._workers:
            worker.send(message, descriptors)

    def _deal(self) -> None:
        """Puts tokens into the pipe, as many as there is room for."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # full; all workers have died
            while self._unsent:
                del self._unsent[: os.write(self._queue, self._unsent[:_PIECE])]

    def _results(self, number: int) -> Iterator[list[Damage]]:
        begun = self._begun[number]
        while begun.left:
            self._collect()
        self._done.append(number)
        del self._begun[number]
        for job in range(len(begun.jobs)):
            found = begun.notable.get(job, [])
            if isinstance(found, Exception):
                raise found
            yield found

    def _collect(self) -> None:
        """Waits for answers, and takes those that are there."""
        self._deal()
        for key, _ in self._selector.select():
            worker = key.data
            try:
                received = worker.socket.recv(_READ)
            except ConnectionError:
                received = b''
            if not received:
                raise ChildProcessError(self._death(worker))
            worker.received += received
            answers = itertools.chain.from_iterable(_messages(worker.received))
            for number, job, found, damage in answers:
                begun = self._begun[number]
                begun.left -= 1
                if damage is None:
                    begun.notable[job] = found
                    continue
                if damage:
                    begun.notable[job] = damage
                self._plan.write(begun.jobs[job].rows, found)

    def _death(self, worker: _Worker) -> str:
        """What to say of a worker that has died."""
        code = worker.process.wait()
        if code < 0:
            how = f'was killed by {signal.Signals(-code).name}'
            if code == -signal.SIGKILL:
                how += '; memory may have run out: fewer processes (input.num_processes) take less'
        else:
            how = f'ended with exit code {code}; see its message above'
        pid, count = worker.process.pid, len(self._workers)
        return f'process {pid}, one of {count} that make batches, {how}'

    def close(self) -> None:
        self._end()


def _end(workers: list[_Worker], queue: int, selector: selectors.BaseSelector) -> None:
    """Ends all processes, at once."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()
        worker.socket.close()
    selector.close()
    os.close(queue)


def pack(content: Any) -> bytes:
    """A message."""
    text = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(text)) + text


def _messages(received: bytearray) -> Iterator[Any]:
    """Takes whole messages off the beginning of what was received."""
    while len(received) >= LENGTH.size:
        (length,) = LENGTH.unpack_from(received)
        end = LENGTH.size + length
        if len(received) < end:
            return
        yield pickle.loads(memoryview(received)[LENGTH.size : end])
        del received[:end]
