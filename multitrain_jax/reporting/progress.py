"""What a person at the terminal sees of long work: lines with a clock, progress, time left."""

from collections.abc import Iterator
import contextlib
import logging
import math
from pathlib import Path
import sys
import time
from typing import Any

from data_pipelines.settings import spelt_out

_log = logging.getLogger('multitrain_jax')
_LEAST = {'absl': logging.ERROR}  # Orbax warns of ordinary checkpoints


def set_up_logging(workdir: str | Path | None = None, *, process: int = 0) -> None:
    """Our own lines, and errors of the libraries, on standard error; in `WORKDIR/log.txt` also
    their warnings, and metrics.

    Of several processes the first one speaks, the others only warn, and write into
    `WORKDIR/log_PROCESS.txt`.

    An exception that a library logs is raised too, and told once, by us: the console does not show
    it twice.
    """
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(_Formatter('[%(asctime)s] %(message)s', datefmt='%H:%M:%S'))
    console.addFilter(
        lambda record: (
            record.name == _log.name or (record.levelno >= logging.ERROR and not record.exc_info)
        )
    )
    if process:
        console.setLevel(logging.WARNING)
    handlers: list[logging.Handler] = [console]
    if workdir is not None:
        file = logging.FileHandler(
            Path(workdir) / (f'log_{process}.txt' if process else 'log.txt'), encoding='utf-8'
        )
        file.setFormatter(_Formatter('%(asctime)s %(levelname).1s %(name)s %(message)s'))
        # Libraries speak of their inner life; of what clu says, the metrics are wanted.
        file.addFilter(
            lambda record: (
                record.name.partition('.')[0] == _log.name
                or record.levelno >= _LEAST.get(record.name, logging.WARNING)
                or 'metric_writers' in record.pathname
            )
        )
        handlers.append(file)
        from absl import logging as absl_logging  # Orbax and clu speak through it

        absl_logging.set_verbosity(absl_logging.INFO)
    logging.getLogger().handlers[:] = handlers
    # A log file on a full disk must not cover the terminal with tracebacks.
    logging.raiseExceptions = False
    sys.unraisablehook = _log_unraisable
    _log.setLevel(logging.INFO)


class _Formatter(logging.Formatter):
    """One for messages with names from outside in them."""

    def format(self, record: logging.LogRecord) -> str:
        return spelt_out(super().format(record))


def _log_unraisable(unraisable: Any) -> None:
    """To the log file: of one failed write, TensorStore's threads print hundreds of lines."""
    exception = (unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback)
    logging.getLogger('background').error(
        '%s', unraisable.err_msg or 'in the background', exc_info=exception
    )


def duration(seconds: float) -> str:
    """`75` as `1m15s`, `5` as `5s`, `7300` as `2h01m`; infinity, not known yet, as `?`."""
    if math.isinf(seconds):
        return '?'
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds}s'
    if seconds < 3600:
        return f'{seconds // 60}m{seconds % 60:02d}s'
    return f'{seconds // 3600}h{seconds % 3600 // 60:02d}m'


class Countdown:
    """Speed and time left of work in equal steps, by the steps done since the last few reports."""

    def __init__(self, total: int, done: int = 0):
        self.total = total
        self._marks = [(time.monotonic(), done)]

    def restart(self, done: int) -> None:
        """Forgets the past: compiling and evaluating say nothing of the steps to come."""
        self._marks = [(time.monotonic(), done)]

    def update(self, done: int) -> tuple[float, float]:
        """(steps per second, seconds left) after `done` steps; (0, infinity): none timed yet."""
        self._marks = [*self._marks[-8:], (time.monotonic(), done)]
        (then, before), (now, _) = self._marks[0], self._marks[-1]
        rate = (done - before) / max(now - then, 1e-9)
        return rate, (self.total - done) / rate if rate > 0 else float('inf')


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Says that `what` begins, and how long it took."""
    _log.info('%s ...', what)
    start = time.monotonic()
    yield
    _log.info('%s: done in %s', what, duration(time.monotonic() - start))
