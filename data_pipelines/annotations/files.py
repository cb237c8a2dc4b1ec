"""Reading annotation files: text and JSON, with errors that name the file; paths kept in bounds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import csv
import io
import json
import math
import os
import re
from typing import Any, TypeVar
import unicodedata

_Line, _Parsed = TypeVar('_Line'), TypeVar('_Parsed')
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


def read_entries(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """Yields (place, entry) of a JSON file that is a list of videos; raises as `read_json`."""
    for number, entry in enumerate(read_json(path, list, 'a list of videos'), start=1):
        yield f'{os.fspath(path)}, entry {number}', entry


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


def match_line(where: str, line: str, pattern: re.Pattern, wanted: str) -> re.Match:
    """The match of a line.

    Raises:
      ValueError: there is none; says what is `wanted`.
    """
    match = pattern.fullmatch(line)
    if match is None:
        raise ValueError(f'{where}: wanted "{wanted}", got {line[:80]!r}')
    return match


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


def parsed(
    lines: Iterable[tuple[str, _Line]], parse: Callable[[str, _Line], _Parsed]
) -> Iterator[_Parsed]:
    """Yields what `parse` makes of each (place, line).

    Raises:
      ValueError: of the first line that `parse` refuses, at the end, so that it tells of the
        others, too.
    """
    refused = []
    for where, line in lines:
        try:
            found = parse(where, line)
        except ValueError as error:
            refused.append((where, str(error)))
        else:
            yield found
    refuse(refused)


def refuse(mistakes: Iterable[tuple[str, str]]) -> None:
    """
    Args:
      mistakes: (place, which ends with a number; what is wrong, which begins with the place).

    Raises:
      ValueError: there are some: the first is told, the others are listed by their numbers.
    """
    mistakes = list(mistakes)
    others = [where.rpartition(' ')[2] for where, _ in mistakes[1:]]
    if others:
        numbers = ', '.join(others[:_NAMED]) + (', ...' if others[_NAMED:] else '')
        raise ValueError(f'{mistakes[0][1]} ({len(others)} more damaged lines: {numbers})')
    if mistakes:
        raise ValueError(mistakes[0][1])
