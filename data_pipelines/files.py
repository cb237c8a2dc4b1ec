"""Files by path, on this machine or in an object store (`gs://bucket/dir`, `s3://`, ...).

Local files are read by `os.pread`, without any layer between. Remote ones go through
`etils.epath`, which uses TensorFlow's file layer where TensorFlow is installed and `fsspec`
(with `gcsfs`, `s3fs`, ...) where it is not.
"""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import csv
import io
import os
import threading
from typing import Protocol
import uuid

Path = str | os.PathLike


def is_remote(path: Path) -> bool:
    """Whether a path names a file in an object store: `scheme://...`."""
    return '://' in os.fspath(path)


def join(directory: Path, name: Path) -> str:
    """`name` within `directory`, or `name` itself where that is absolute or remote."""
    directory, name = os.fspath(directory), os.fspath(name)
    if is_remote(name) or os.path.isabs(name):
        return name
    return (
        f'{directory.rstrip("/")}/{name}' if is_remote(directory) else os.path.join(directory, name)
    )


def expand_home(path: Path) -> str:
    """`~` as the home directory, in local paths."""
    return os.fspath(path) if is_remote(path) else os.path.expanduser(path)


def is_directory(path: Path) -> bool:
    """
    Raises:
        OSError: the store cannot be reached.
    """
    if not is_remote(path):
        return os.path.isdir(path)
    with _as_os_error(path):
        return _remote(path).is_dir()


def names(directory: Path) -> list[str]:
    """Names of what a directory holds."""
    if not is_remote(directory):
        return os.listdir(directory)
    with _as_os_error(directory):
        return [entry.name for entry in _remote(directory).iterdir()]


def size(path: Path) -> int:
    """Bytes of a file."""
    if not is_remote(path):
        return os.path.getsize(path)
    with _as_os_error(path):
        return _remote(path).stat().length


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not is_remote(path):
        with naming(path), open(path, 'rb') as file:
            return file.read()
    with _as_os_error(path):
        if not _remote(path).exists():  # TensorFlow has an error of its own for this.
            raise FileNotFoundError(f'{path}: no such file')
        return _remote(path).read_bytes()


def write_atomically(path: Path, *parts: bytes) -> None:
    """Writes a file, one part after the other; readers (and other writers) see the old or the new
    one, never a piece.

    Raises:
        OSError: it cannot be written.
    """
    if is_remote(path):
        with _as_os_error(path, 'written'):
            _remote(path).write_bytes(b''.join(parts))  # An object appears when its writing ends.
        return
    with naming(path), complete_or_absent(path) as temporary, open(temporary, 'xb') as file:
        file.writelines(parts)


def write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    """Writes rows as `write_atomically`; names that are no UTF-8 are spelt with backslashes."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    write_atomically(path, text.getvalue().encode(errors='backslashreplace'))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Complaints of an open file (`[Errno 5] Input/output error`) name the file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def complete_or_absent(path: Path) -> Iterator[str]:
    """Gives the name under which to write a local file; it gets its own once the block has ended.

    The name is new each time, so that a writer that was given up does not get in the way of its
    successor. If the block raises, the file is removed.
    """
    directory, name = os.path.split(os.fspath(path))
    temporary = os.path.join(directory, f'.{name}.{uuid.uuid4().hex}.tmp')
    try:
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


class RandomAccessFile(Protocol):
    """A file open for reading, to be used from several threads at once."""

    def read(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes from `offset` on; fewer only at the end of the file."""

    def close(self) -> None: ...


def open_random_access(path: Path) -> RandomAccessFile:
    """Opens a file.

    Raises:
        OSError: it cannot be opened.
    """
    return _RemoteFile(path) if is_remote(path) else _LocalFile(path)


class _LocalFile:
    def __init__(self, path: Path):
        self._path, self._file = path, os.open(path, os.O_RDONLY)

    def read(self, count: int, offset: int) -> bytes:
        with naming(self._path):
            data = os.pread(self._file, count, offset)
            if len(data) == count or not data:
                return data
            parts = [data]  # A signal, or more than the 2 GiB that one call gives.
            while parts[-1]:
                offset, count = offset + len(parts[-1]), count - len(parts[-1])
                parts.append(os.pread(self._file, count, offset) if count else b'')
            return b''.join(parts)

    def close(self) -> None:
        os.close(self._file)


class _RemoteFile:
    """As many handles as threads have ever read at the same time: a handle has one position."""

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        self._handles = contextlib.ExitStack()
        self._idle = [self._open()]

    def _open(self):
        with _as_os_error(self._path):
            # A context manager is all that TensorFlow's layer gives.
            return self._handles.enter_context(_remote(self._path).open('rb'))

    def read(self, count: int, offset: int) -> bytes:
        with self._lock:
            handle = self._idle.pop() if self._idle else self._open()
        with _as_os_error(self._path):
            handle.seek(offset)
            data = handle.read(count)
        with self._lock:
            self._idle.append(handle)
        return data

    def close(self) -> None:
        with self._lock:
            self._idle.clear()
            self._handles.close()


@contextlib.contextmanager
def _as_os_error(path: Path, what: str = 'read'):
    """Tells an object store's errors as such: TensorFlow's and fsspec's are no OSErrors."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise OSError(
            f'{os.fspath(path)}: cannot be {what} ({" ".join(str(error).split())})'
        ) from error


def _remote(path: Path):
    """An `epath.Path`.

    Raises:
        ValueError: a scheme that it does not know.
    """
    from etils import epath  # Not needed for local files.

    try:
        return epath.Path(os.fspath(path))
    except KeyError as error:
        raise ValueError(
            f'{path}: this kind of remote path is not supported; gs:// and s3:// are'
        ) from error
