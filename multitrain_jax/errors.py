"""How a command ends: 0; 2, one line on a user's mistake; 75, interrupted, to be given again."""

import argparse
import atexit
from collections.abc import Callable, Iterator
import contextlib
import errno
import gc
import os
from pathlib import Path
import sys
import traceback

from data_pipelines.settings import spelt_out

_OUR_CODE = Path(__file__).resolve().parent.parent
_OUR_ROOMS = ('multitrain_jax', 'data_pipelines', 'configs', 'run.py')

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # sysexits' EX_TEMPFAIL: the same command, given again, goes on
# How XLA says that an allocation has failed: itself, its runtime, a library of kernels for CPUs.
_NO_MEMORY = ('RESOURCE_EXHAUSTED', 'Out of memory', 'bad_alloc', 'YNNPACK operation failed')
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
_EXIT_NO_READER = 141  # as a shell says of a program that a closed pipe ended


class UserError(ValueError):
    """Something the user can mend. Its text says what is wrong, where, and how to mend it."""


class Interrupted(Exception):
    """A run was asked to stop, and has saved what it has done. Its text says where it goes on."""


class ArgumentParser(argparse.ArgumentParser):
    """Of a command, `python -m MODULE`; its complaints are one line.

    As in `data_pipelines`, without which training works, too.
    """

    def __init__(self, module: str, description: str, formatter=argparse.RawTextHelpFormatter):
        prog = f'python -m {module}'
        super().__init__(prog=prog, description=description, formatter_class=formatter)

    def error(self, message: str):
        self.exit(EXIT_USER_ERROR, f'error: {message} (help: {self.prog} --help)\n')


def first_line(error: BaseException) -> str:
    """The beginning of what an exception says, for a message of one line."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Complaints about reading and writing an open file (`Input/output error`) name the file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


def memory_problem(error: BaseException | None) -> str | None:
    """What a failed allocation has said, however libraries have wrapped it; None: no such thing."""
    while error is not None:
        text = first_line(error)
        if isinstance(error, MemoryError) or (
            type(error).__name__ == 'JaxRuntimeError' and any(sign in text for sign in _NO_MEMORY)
        ):
            return text
        error = error.__cause__ or error.__context__
    return None


def storage_problem(error: BaseException | None) -> str | None:
    """What a full, locked or broken disk has said, however libraries have wrapped it, or None."""
    while error is not None:
        for code in _STORAGE:
            if getattr(error, 'errno', None) == code or os.strerror(code) in str(error):
                return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None


def _raised_by_us(error: BaseException) -> bool:
    """Whether the raise statement stands in this project: its text then was written for a user."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    path = Path(frames[-1].filename).resolve()
    return any((_OUR_CODE / room) in (path, *path.parents) for room in _OUR_ROOMS)


def _text_for_user(error: Exception) -> str | None:
    """What a user can do something about; None: the error is a defect."""
    if isinstance(error, OSError) and isinstance(error.filename, (str, bytes)):
        return f'{os.fsdecode(error.filename)}: {error.strerror}'
    if isinstance(error, (UserError, FileNotFoundError, PermissionError)):
        return str(error)
    if isinstance(error, (ValueError, OSError)) and _raised_by_us(error):
        return str(error)
    if reason := memory_problem(error):
        return (
            f'no memory left ({reason}); do less at a time: fewer clips (batch_size, or more '
            'config.accumulation_steps), config.model.backbone.remat_attention=True, a smaller '
            'model'
        )
    reason = storage_problem(error)
    return reason and f'{reason}: {error}'


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command's main function and exits: 0 or its return value, 2 with one line on a user's
    mistake, 75 `Interrupted`.

    ValueError and OSError raised by this project's own statements carry a text for the user, and so
    do the operating system's complaints about a file (missing, not writable, disk full); anything
    else is a defect and keeps its traceback. MULTITRAIN_TRACEBACK=1 shows the traceback always.
    """
    from absl import logging as absl_logging

    # Orbax warns of ordinary checkpoints; progress.set_up_logging keeps all.
    absl_logging.set_verbosity(absl_logging.FATAL)
    # Else the last collection goes through all of TensorFlow, for a second.
    atexit.register(gc.freeze)
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # ... | head
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for what is flushed at exit
        sys.exit(_EXIT_NO_READER)
    except Interrupted as interruption:
        print(f'interrupted: {interruption}', file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        text = _text_for_user(error)
        if os.environ.get('MULTITRAIN_TRACEBACK') or text is None:
            raise
        print(f'error: {spelt_out(" ".join(text.splitlines()))}', file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)
