"""What a process that makes rows of batches runs; see `processes`."""

import mmap
import os
import pickle
import signal
import socket
import sys
import threading
import traceback

import cv2
import numpy as np

from data_pipelines.processes import LENGTH, Block
from data_pipelines.workers import Plan

_MAX_BLOCKS = 253  # that Linux lets come with one message


class _Server:
    """Serves jobs until the parent closes its end, or ends."""

    def __init__(self, plan: Plan, parent: socket.socket):
        self._plan, self._parent = plan, parent
        self._receiving, self._sending = threading.Lock(), threading.Lock()
        self._blocks: dict[int, np.ndarray] = {}

    def run(self) -> None:
        """One of several threads."""
        while True:
            with self._receiving:
                message = self._receive()
                if message is None:
                    os._exit(0)
                number, work, rows, blocks, gone, descriptors = message
                for block, descriptor in zip(blocks, descriptors, strict=True):
                    self._blocks[block.number] = _open(block, descriptor)
                for block in gone:
                    del self._blocks[block]
                pixels = [self._blocks[block][row] for block, row in rows]
            try:
                answer = number, self._plan.make(work, pixels)
            except Exception as error:  # for whoever waits for the row
                answer = number, _that_can_be_sent(error)
            del pixels
            text = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
            try:
                with self._sending:
                    self._parent.sendall(LENGTH.pack(len(text)) + text)
            except OSError:
                os._exit(0)

    def _receive(self) -> tuple | None:
        """The next message and the descriptors that came with it; None: there is none any more."""
        head, descriptors = b'', []
        while len(head) < LENGTH.size:
            part, found, _, _ = socket.recv_fds(self._parent, LENGTH.size - len(head), _MAX_BLOCKS)
            if not part:
                return None
            head, descriptors = head + part, descriptors + found
        (length,) = LENGTH.unpack(head)
        text = self._parent.recv(length, socket.MSG_WAITALL)
        return (*pickle.loads(text), descriptors) if len(text) == length else None


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


def main(parent: int, plan: int, threads: int) -> None:
    """Arguments: descriptor of a socket, and of a file that holds a pickled plan; threads."""
    # Schedulers signal all processes of a job: the parent then saves, and needs batches until then.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    cv2.setNumThreads(1)
    # Read at a place: the workers share the descriptor's position.
    text = os.pread(plan, os.fstat(plan).st_size, 0)
    os.close(plan)
    server = _Server(pickle.loads(text), socket.socket(fileno=parent))
    threading.excepthook = _end
    for _ in range(threads - 1):
        threading.Thread(target=server.run, daemon=True).start()
    server.run()


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
