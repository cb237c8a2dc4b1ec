"""Reading annotation files: text and JSON, with errors that name the file; paths kept in bounds."""

from collections.abc import Iterator, Sequence
import csv
import io
import json
import math
import os
from typing import Any
import unicodedata

_NAMED = 20  # damaged lines that a message names


def read_text(path: str | os.PathLike) -> str:
    """The content of a UTF-8 file, with or without a byte order mark, in Unicode's form NFC.

    Raises:
      ValueError: it cannot be read, or is not UTF-8.
    """
    try:
        with open(path, encoding='utf-8-sig') as file:
            return unicodedata.normalize('NFC', file.read())
    except FileNotFoundError as error:
        raise ValueError(f'{os.fspath(path)}: no such file') from error
    except OSError as error:
        raise ValueError(f'{os.fspath(path)}: cannot be read ({error.strerror})') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{os.fspath(path)}: not UTF-8 text ({error})') from error


def read_json(path: str | os.PathLike, wanted: type, description: str) -> Any:
    """The content of a JSON file.

    Args:
      path: the file.
      wanted: `dict` or `list`: what it must hold.
      description: of what it should be, for the error.

    Raises:
      ValueError: it cannot be read, is not JSON, or holds something else.
    """
    try:
        text = read_text(path)
        content = json.loads(text)
        if '\\u' in text:  # escapes may spell letters in another normal form
            spelt = json.dumps(content, ensure_ascii=False)
            content = json.loads(unicodedata.normalize('NFC', spelt))
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{os.fspath(path)}, line {error.lineno}: not JSON ({error.msg}); wanted {description}'
        ) from error
    except RecursionError as error:
        raise ValueError(f'{os.fspath(path)}: JSON nested too deeply') from error
    if not isinstance(content, wanted):
        raise ValueError(f'{os.fspath(path)}: not {description}')
    return content


def read_csv(path: str | os.PathLike, delimiter: str = ',') -> Iterator[tuple[str, list[str]]]:
    """Yields (place, cells without outer spaces) of each line of a csv file that is not blank.

    The place is `FILE, line N`, for errors.

    Raises:
      ValueError: it cannot be read, or is not csv.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=''), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield f'{os.fspath(path)}, line {reader.line_num}', cells
    except csv.Error as error:
        raise ValueError(f'{os.fspath(path)}, line {reader.line_num}: not csv ({error})') from error


def read_table(
    path: str | os.PathLike, wanted: Sequence[str] = (), delimiter: str = ','
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (place, cells by column) of each line of a csv file whose header names the columns.

    Args:
      path: the file.
      wanted: columns that must be there, in small letters, as all are here.
      delimiter: between cells.

    Raises:
      ValueError: it cannot be read, a column is missing, or a line has not as many cells.
    """
    lines = read_csv(path, delimiter)
    where, header = next(lines, (f'{os.fspath(path)}, line 1', []))
    header = [name.lower() for name in header]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise ValueError(
            f'{where}: wanted a header with {", ".join(wanted)}; {", ".join(missing)} is missing'
        )
    for where, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f'{where}: {len(cells)} columns, but {len(header)} in the header: '
                f'{delimiter.join(cells)[:80]!r}'
            )
        yield where, dict(zip(header, cells))


def read_lines(path: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """Yields (place, line without outer spaces) of each line that is not blank."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            yield f'{os.fspath(path)}, line {number}', line.strip()


def check_relative(path: str, where: str) -> str:
    """Returns a path from an annotation file, if it cannot leave the directory it is relative to.

    Raises:
      ValueError: it is absolute, or holds `..` or a NUL.
    """
    if (
        os.path.isabs(path)
        or '\0' in path
        or '..' in path.replace('\\', '/').split('/')
        or not path.strip('/. ')
    ):
        raise ValueError(f'{where}: {path[:120]!r} is no path inside the directory of the videos')
    return path


def read_seconds(text: str, where: str) -> float:
    """A time from an annotation file: seconds, or `HH:MM:SS.ss`.

    Raises:
      ValueError: it is not a number, or infinite.
    """
    try:
        parts = [float(part) for part in str(text).split(':')]
        value = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f'{where}: wanted a time in seconds, got {str(text)[:80]!r}')
    return value


class Mistakes:
    """Damaged lines of a file: the first is told, the others are listed by their numbers."""

    def __init__(self):
        self._first: ValueError | None = None
        self._others: list[str] = []

    def add(self, error: ValueError, where: str) -> None:
        """Takes note of a line; `where` ends with its number."""
        if self._first is None:
            self._first = error
        else:
            self._others.append(where.rpartition(' ')[2])

    def check(self) -> None:
        """
        Raises:
          ValueError: there are some.
        """
        if self._others:
            numbers = ', '.join(self._others[:_NAMED]) + (', ...' if self._others[_NAMED:] else '')
            raise ValueError(f'{self._first} ({len(self._others)} more damaged lines: {numbers})')
        if self._first is not None:
            raise self._first
