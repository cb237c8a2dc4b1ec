"""Finished trainings, a JSON line each: an experiment started again goes on where it stopped.

Several processes of one experiment, started at once, share its trainings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import fcntl
import hashlib
import json
import logging
from pathlib import Path
import time
from typing import Any

import numpy as np

_log = logging.getLogger('multitrain_jax')

Line = Mapping[str, Any]


class Busy(Exception):
    """Another process is at this training."""


class Ledger:
    """The lines of a jsonl file.

    Attributes:
        lines: what is finished, in the order of the file.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._read, self._wait = path, 0, True
        self._claims = open(path.with_suffix('.claims'), 'wb')  # noqa: SIM115
        self.lines: list[Line] = []
        self._read_on()

    def find(self, **wanted: Any) -> list[Line]:
        """The lines that have these entries."""
        return [line for line in self.lines if _has(line, wanted)]

    def ensure(self, key: Mapping[str, Any], run: Callable[[], Mapping[str, Any]]) -> Line:
        """The line of the training `key`, which `run` does unless it is finished.

        Another process that is at it is waited for.
        """
        if found := self._finished(key):
            return found
        with self._claimed(key):
            self._read_on()
            if found := self._finished(key):
                return found
            started = time.time()
            line = {**key, **run(), 'finished': round(time.time())}
            self._append(line)
        figures = {name: value for name, value in line.items() if isinstance(value, float)}
        _log.info('%s: %s (%.0f s)', dict(key), figures, time.time() - started)
        return line

    def spread(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What the calls return; those at whose trainings other processes are, are called last."""
        found, self._wait = {}, False
        for number, call in enumerate(calls):
            with contextlib.suppress(Busy):
                found[number] = call()
        self._wait = True
        return [found[i] if i in found else call() for i, call in enumerate(calls)]

    def best(self, values: Sequence[float], seeds: Sequence[int], measure: Callable) -> float:
        """The value whose mean `measure(value, seed)` is the highest."""
        figures = self.spread([lambda v=v, s=s: measure(v, s) for v in values for s in seeds])
        return values[int(np.reshape(figures, (len(values), len(seeds))).mean(1).argmax())]

    def _finished(self, key: Mapping[str, Any]) -> Line | None:
        return next((line for line in self.lines if _has(line, key)), None)

    def _read_on(self) -> None:
        """Reads the whole lines that have come. A killed process may leave half a line."""
        if self._path.exists():
            with open(self._path, 'rb') as file:
                file.seek(self._read)
                whole, end, _ = file.read().rpartition(b'\n')
            self._read += len(whole + end)
            self.lines += [json.loads(line) for line in whole.splitlines()]

    def _append(self, line: Line) -> None:
        with open(self._path, 'ab+') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            file.truncate(file.read().rfind(b'\n') + 1)
            file.write(json.dumps(line).encode() + b'\n')
        self._read_on()

    @contextlib.contextmanager
    def _claimed(self, key: Mapping[str, Any]) -> Iterator[None]:
        """Keeps other processes from this training: one byte of a file is locked.

        Raises:
            Busy: another process has it, in `spread`.
        """
        text = json.dumps(key, sort_keys=True).encode()
        place = int.from_bytes(hashlib.sha256(text).digest()[:6], 'big')
        try:
            how = fcntl.LOCK_EX if self._wait else fcntl.LOCK_EX | fcntl.LOCK_NB
            fcntl.lockf(self._claims, how, 1, place)
        except (BlockingIOError, PermissionError) as error:
            raise Busy from error
        try:
            yield
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, place)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Waits until no other process is in here with the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'wb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _has(line: Line, wanted: Mapping[str, Any]) -> bool:
    return all(name in line and line[name] == value for name, value in wanted.items())
