"""The directory of a run: made, held by one run at a time, and what was asked for in it."""

from collections.abc import Iterator
import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
from pathlib import Path
import platform
import shlex
import socket
import sys
import tempfile

import jax

from multitrain_jax.config import Config, stored_tree
from multitrain_jax.errors import UserError
from multitrain_jax.parallel.hosts import on_all_hosts

CONFIG_FILE, COMMAND_FILE, VERSIONS_FILE = 'config.json', 'command.txt', 'versions.json'
_LOG = 'log.txt'
_PACKAGES = ('multitrain_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'av')


def make_workdir(workdir: str | os.PathLike) -> Path:
    """The directory, with a log in it.

    Raises:
        UserError: it cannot be made or written.
    """
    path = Path(workdir).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            (path / _LOG).touch()
            tempfile.TemporaryFile(dir=path).close()  # a log may be writable where nothing else is
    except OSError as error:
        raise UserError(
            f'--workdir={workdir}: cannot be made or written ({error.strerror})'
        ) from error
    return path


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """No other run can use the directory while the context lasts. It ends with the process, however
    that ends.

    Of several processes the first one holds it, for all.

    Raises:
        UserError: another run uses it.
    """
    with open(workdir / _LOG, 'ab') as log:
        free = True
        if jax.process_index() == 0:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
            except OSError:  # a file system without locks
                pass
        if not on_all_hosts(free):
            raise UserError(
                f'{workdir}: another run uses it{_last_command(workdir)}; wait for it, stop it, or '
                'use another --workdir'
            )
        yield


def write_request(workdir: Path, config: Config) -> None:
    """Keeps what the run was asked for: `config.json`, to be used again, command line, versions."""
    tree = json.dumps(stored_tree(config), indent=2, ensure_ascii=False)
    (workdir / CONFIG_FILE).write_text(f'{tree}\n', encoding='utf-8')
    now = datetime.datetime.now().astimezone().isoformat(' ', 'seconds')
    where = f'{socket.gethostname()}, process {os.getpid()}, in {os.getcwd()}'
    with open(workdir / COMMAND_FILE, 'a', encoding='utf-8') as file:
        file.write(f'{shlex.join(sys.orig_argv)}  # {now}, {where}\n')
    text = json.dumps(versions(), indent=2)
    (workdir / VERSIONS_FILE).write_text(f'{text}\n', encoding='utf-8')


def versions() -> dict[str, str]:
    """Of Python, the packages that compute, and this machine's devices."""
    found = {'Python': platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found['devices'] = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
    return found


def commands(workdir: Path) -> list[str]:
    """Lines `COMMAND  # TIME, PLACE` of what was run in a directory, in order, as far as known."""
    try:
        return (workdir / COMMAND_FILE).read_text(encoding='utf-8').splitlines()
    except OSError:
        return []


def _last_command(workdir: Path) -> str:
    """Of the run that uses the directory, as far as it is known."""
    lines = commands(workdir)
    return f' ({lines[-1].rpartition("  # ")[2]})' if lines else ''
