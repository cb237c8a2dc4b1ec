"""How commands tell a mistake: one line on standard error, exit code 2, no traceback."""

import argparse
from collections.abc import Callable
import logging
import os
import sys

from data_pipelines.settings import spelt_out

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
_EXIT_NO_READER = 141  # as a shell says of a program that a closed pipe ended


class ArgumentParser(argparse.ArgumentParser):
    """One whose complaints are one line, without the usage."""

    def error(self, message: str):
        self.exit(EXIT_MISTAKE, f'error: {message} (help: {self.prog} --help)\n')


def exit_code(run: Callable[[], int]) -> int:
    """Runs a command; returns its exit code.

    What it raises as ValueError or OSError is told in one line; MULTITRAIN_TRACEBACK=1 lets it
    through. Warnings are lines, too.
    """
    logging.basicConfig(format='warning: %(message)s')
    try:
        code = run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # ... | head
        # For what is flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_NO_READER
    except (ValueError, OSError) as error:
        if os.environ.get('MULTITRAIN_TRACEBACK'):
            raise
        print(f'error: {one_line(error)}', file=sys.stderr)
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED


def check_picture_name(option: str, path: str) -> None:
    """
    Raises:
      ValueError: pictures of this suffix are not written.
    """
    if not path.lower().endswith(('.jpg', '.jpeg', '.png')):
        raise ValueError(f'{option}={path}: the name must end in .jpg or .png')


def one_line(error: Exception) -> str:
    """The text of an error; of the system's own, file and reason."""
    text = str(error)
    if isinstance(error, OSError) and isinstance(error.filename, (str, bytes)):
        text = f'{os.fsdecode(error.filename)}: {error.strerror}'
    return spelt_out(' '.join(text.splitlines())) or type(error).__name__
