"""What a process that makes rows of batches runs; see `processes`."""

import mmap
import os
import pickle
import select
import signal
import socket
import sys
import threading
import traceback
from typing import Any

import cv2
import numpy as np

from data_pipelines.processes import LENGTH, TOKEN, Block, pack
from data_pipelines.workers import Damage, Plan, yield_to_others


class _Server:
    """Serves jobs until the parent closes its end, or ends."""

    def __init__(self, plan: Plan, parent: socket.socket, queue: int):
        self._plan, self._parent, self._queue = plan, parent, queue
        self._sending, self._told = threading.Lock(), threading.Condition()
        self._blocks: dict[int, np.ndarray] = {}
        self._jobs: dict[int, list] = {}  # of each batch
        self._newest = 0  # number of a batch

    def listen(self) -> None:
        """Takes what the parent tells."""
        while (head := self._receive(LENGTH.size, descriptors=1)) is not None:
            text, found = head
            message = self._receive(*LENGTH.unpack(text))
            if message is None:
                return
            told = pickle.loads(message[0])
            if isinstance(told, Block):
                self._blocks[told.number] = _open(told, *found)
                continue
            number, jobs, done, gone = told
            with self._told:
                for batch in done:
                    del self._jobs[batch]
                for block in gone:
                    del self._blocks[block]
                self._jobs[number], self._newest = jobs, number
                self._told.notify_all()

    def _receive(self, count: int, descriptors: int = 0) -> tuple[bytes, list[int]] | None:
        """So many bytes and what came beside; None: the parent has ended."""
        text, found = b'', []
        while len(text) < count:
            part, beside, _, _ = socket.recv_fds(self._parent, count - len(text), descriptors)
            if not part:
                return None
            text, found = text + part, found + beside
        return text, found

    def serve(self) -> None:
        """One of several threads."""
        yield_to_others()
        answers = []  # of one batch: to take them one by one is what costs the parent most
        tokens = select.poll()
        tokens.register(self._queue, select.POLLIN)
        while True:
            try:
                token = os.read(self._queue, TOKEN.size)
            except BlockingIOError:  # There is none.
                self._send(answers)
                tokens.poll()
                continue
            if not token:
                return
            number, job = TOKEN.unpack(token)
            if answers and answers[-1][0] != number:
                self._send(answers)
            answers.append((number, job, *self._do(number, job)))

    def _do(self, number: int, job: int) -> tuple[Any, list[Damage] | None]:
        """What came of a job of a batch: see `processes`."""
        with self._told:
            self._told.wait_for(lambda: number <= self._newest)
            work, rows = self._jobs[number][job]
            pixels = [self._blocks[block][row] for block, row in rows]
        try:
            return self._plan.make(work, pixels)
        except Exception as error:  # for whoever waits for the row
            return _that_can_be_sent(error), None

    def _send(self, answers: list[tuple]) -> None:
        """Sends them and takes them off the list."""
        if not answers:
            return
        message = pack(answers)
        answers.clear()
        try:
            with self._sending:
                self._parent.sendall(message)
        except OSError:
            os._exit(0)


def _open(block: Block, descriptor: int) -> np.ndarray:
    memory = mmap.mmap(descriptor, block.size)
    os.close(descriptor)
    return np.frombuffer(memory, np.uint8, int(np.prod(block.shape))).reshape(block.shape)


def _that_can_be_sent(error: Exception) -> Exception:
    """An error, with where it was raised; as another one where it cannot be pickled."""
    error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # what a class's own pickling raises
        other = RuntimeError(f'{type(error).__name__}: {error}')
        other.add_note(traceback.format_exc())
        return other


def _end(unhandled: threading.ExceptHookArgs) -> None:
    """A thread fewer would leave its job unanswered: the process ends, and the parent says so."""
    threading.__excepthook__(unhandled)
    os._exit(1)


def main(parent: int, queue: int, plan: int, threads: int) -> None:
    """Arguments: descriptors of a socket, a pipe, a file that holds a pickled plan; threads."""
    # Schedulers signal all processes of a job: the parent then saves, and needs batches until then.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    cv2.setNumThreads(1)
    # Read at a place: the workers share the descriptor's position.
    text = os.pread(plan, os.fstat(plan).st_size, 0)
    os.close(plan)
    server = _Server(pickle.loads(text), socket.socket(fileno=parent), queue)
    threading.excepthook = _end
    for _ in range(threads):
        threading.Thread(target=server.serve, daemon=True).start()
    # In a thread, too: the usual way out of a program would abort in those that decode.
    listener = threading.Thread(target=server.listen)
    listener.start()
    listener.join()
    os._exit(0)


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
