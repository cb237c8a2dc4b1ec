"""Lists of classes: which number has which name, in whatever form people have them.

    id,name                       a csv with a header that names its columns, in any order
    0,archery   archery<TAB>0     the same without; also with ; : or a blank between the two
    1 ApplyEyeMakeup              UCF101's classInd.txt, which counts from 1
    archery                       names alone, one a line, in the order of their numbers
    ["archery", ...]   {"archery": 0, ...}   {"0": "archery", ...}   [{"id": 0, "name": ...}, ...]
    item { name: "stand" id: 1 }  AVA's pbtxt

Where there are numbers they count, not the order of the lines. This module needs the standard
library alone: importing a checkpoint reads its classes here, too.
"""

from collections.abc import Iterable, Sequence
import csv
import json
import os
import re
from typing import Any, NamedTuple
import unicodedata

from data_pipelines.annotations.files import read_text

# What headers call the two columns, the surest first.
_NUMBER_WORDS = (
    'id number no num idx index class_id classid label_id labelid action_id category_id '
    'class_index class_idx label_index label_idx class_number label class target'
).split()
_NAME_WORDS = (
    'name class_name classname label_name labelname action_name category_name display_name key '
    'class label action category text names classes labels'
).split()
_WORDS = {*_NUMBER_WORDS, *_NAME_WORDS}
# Alone on the first line of a list of names, these are likelier its header than a class.
_LONE_HEADERS = ('name', 'class', 'label', 'class_name', 'label_name', 'names', 'classes', 'labels')
_WRAPPERS = ('id2label', 'label2id', 'classes', 'categories', 'labels')  # keys around a JSON list
_STRONG = r'\s*[,;:\t]\s*'
_FORMS = tuple(  # (whether a separator is strong, pattern), the surest first
    (separator == _STRONG, re.compile(pattern.replace('SEPARATOR', separator)))
    for separator in (_STRONG, r'\s+')
    for pattern in (
        r'"?(?P<number>\d{1,9})"?SEPARATOR(?P<name>\S.*)',
        r'(?P<name>.*\S)SEPARATOR"?(?P<number>\d{1,9})"?',
    )
)
_REMEDY = 'a JSON list, ["name", ...], says that names are not numbered'


class ClassList(NamedTuple):
    """Names of classes in the order of their numbers.

    Attributes:
      names: the names; they may be equal, see `check_different`.
      places: where each stands, for messages.
      first: the number of the first; 0, or 1 in files that count so.
    """

    names: tuple[str, ...]
    places: tuple[str, ...]
    first: int

    def offset(self, labels: Iterable[int], path: str | os.PathLike) -> int:
        """What to subtract from the labels of a list so that they count these names from 0.

        A file that counts from 1 goes with lists that count so, and with lists that count from 0.

        Args:
          labels: all that the list holds.
          path: the file of this list, for the error.

        Raises:
          ValueError: the labels do not say which.
        """
        if not self.first:
            return 0
        found, last = set(labels), len(self.names)
        if 0 in found:
            return 0
        if last in found:
            return 1
        raise ValueError(
            f'{os.fspath(path)}: counts its classes from 1, and the lists may do so or count from '
            f'0, for they hold neither 0 nor {last}; number its lines from 0, or leave the '
            'numbers out'
        )

    def check_different(self) -> 'ClassList':
        """Returns itself.

        Raises:
          ValueError: names are equal; tells all of them.
        """
        first = {}
        again = [n for n, name in enumerate(self.names) if first.setdefault(name, n) != n]
        if not again:
            return self
        number = again[0]
        name = self.names[number]
        others = ', '.join(f'{self.names[n]!r} in {_short(self.places[n])}' for n in again[1:20])
        raise ValueError(
            f'{self.places[number]}: {name!r} is the name of class {first[name]} already'
            + (f' ({len(again) - 1} more: {others})' if others else '')
            + f'; names must differ: call it {name + "#2"!r}'
        )


def read_class_list(path: str | os.PathLike) -> ClassList:
    """Reads a list of classes, in any of the forms that this module names.

    Raises:
      ValueError: the file cannot be read, a name is missing, or numbers are there but not each of
        0 to N - 1 (or 1 to N) once.
    """
    path = os.fspath(path)
    text = read_text(path)
    if path.lower().endswith('.pbtxt'):
        from data_pipelines.annotations.ava_files import read_actions

        return _by_number([(path, name, number) for number, name in read_actions(path).items()])
    if path.lower().endswith('.json') or text.lstrip().startswith(('[', '{')):
        return _read_json(path, text)
    return _read_lines(path, text)


def _by_number(rows: Sequence[tuple[str, str, int]], *, from_one: bool = True) -> ClassList:
    """The classes of (place, name, number) rows in any order."""
    taken: dict[int, tuple[str, str]] = {}
    for place, name, number in rows:
        if not name:
            raise ValueError(f'{place}: no class name')
        if number in taken:
            raise ValueError(
                f'{place}: number {number} is that of {taken[number][1]!r} already; class numbers '
                f'must be 0 to {len(rows) - 1}, each once'
            )
        taken[number] = place, name
    first = min(taken) if from_one and min(taken) == 1 else 0
    wanted = range(first, first + len(rows))
    for number in wanted:
        if number not in taken:
            path = rows[0][0].rpartition(', ')[0] or rows[0][0]
            raise ValueError(
                f'{path}: names {len(rows)} classes, but none of them has the number {number}; '
                f'class numbers must be 0 to {len(rows) - 1}, each once'
            )
    return ClassList(
        tuple(taken[number][1] for number in wanted),
        tuple(taken[number][0] for number in wanted),
        first,
    )


def _in_order(path: str, names: Sequence[str], places: Sequence[str]) -> ClassList:
    if not names:
        raise ValueError(f'{path}: no class in it')
    return ClassList(tuple(names), tuple(places), 0)


# JSON


class _Object(list):
    """The pairs of a JSON object, those of one key, too."""


def _read_json(path: str, text: str) -> ClassList:
    wanted = 'wanted a list of names, or an object of names and numbers'
    try:
        content = json.loads(text, object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}, line {error.lineno}: not JSON ({error.msg})') from error
    except RecursionError as error:
        raise ValueError(f'{path}: JSON nested too deeply') from error
    if isinstance(content, _Object):
        inner = dict(content)
        content = next((inner[key] for key in _WRAPPERS if _is_list(inner.get(key))), content)
    if not _is_list(content) or not content:
        raise ValueError(f'{path}: {wanted}')
    if not isinstance(content, _Object):
        places = [f'{path}, entry {number}' for number in range(1, len(content) + 1)]
        if all(isinstance(entry, _Object) for entry in content):
            return _records(path, places, [dict(entry) for entry in content])
        if not all(isinstance(name, str) for name in content):
            raise ValueError(f'{path}: {wanted}')
        return _in_order(path, [_name(name, where) for name, where in zip(content, places)], places)
    named = [(key, value) for key, value in content if _number(value) is not None]
    numbered = [(v, key) for key, v in content if isinstance(v, str) and _number(key) is not None]
    if len(named) == len(numbered) == len(content) and any(k != v for k, v in content):
        raise ValueError(f'{path}: which are the names, and which the numbers? {_REMEDY}')
    for pairs in (named, numbered):
        if len(pairs) == len(content):
            rows = [(f'{path}, {name!r}', name, number) for name, number in pairs]
            rows = [(where, _name(name, where), _number(number)) for where, name, number in rows]
            return _by_number(rows, from_one=False)
    raise ValueError(f'{path}: {wanted}')


def _records(path: str, places: Sequence[str], entries: Sequence[dict[str, Any]]) -> ClassList:
    """Classes of objects, or of the lines of a csv, with fields for name and number."""
    fields = {field: field.strip().lower() for field in entries[0]}

    def column(words: Sequence[str], fits) -> str | None:
        known = sorted((words.index(word), f) for f, word in fields.items() if word in words)
        fields_in_order = [field for _, field in known] or list(fields)
        fitting = (f for f in fields_in_order if all(fits(entry.get(f)) for entry in entries))
        return next(fitting, None)

    number = column(_NUMBER_WORDS, lambda value: _number(value) is not None)
    name = column(
        [word for word in _NAME_WORDS if number is None or word != fields[number]],
        lambda value: isinstance(value, str),
    )
    if number is None or name is None or number == name:
        raise ValueError(
            f'{path}: wanted a number and a name of every class, in columns such as id,name; found '
            f'{", ".join(map(repr, fields))[:80]}'
        )
    return _by_number(
        [(where, _name(e[name], where), _number(e[number])) for where, e in zip(places, entries)]
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _number(value: Any) -> int | None:
    """A class number, which JSON may have as a text; None: it is none."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
    return value if type(value) is int and value >= 0 else None


# Lines


def _read_lines(path: str, text: str) -> ClassList:
    lines = [
        (f'{path}, line {number}', line.strip())
        for number, line in enumerate(text.rstrip().split('\n'), start=1)
    ]
    filled = [row for row in lines if row[1]]
    if not filled:
        raise ValueError(f'{path}: no class in it')
    table = _with_header(path, filled)
    if table is not None:
        return table
    if _is_header(re.split(r'[,;:\s]+', filled[0][1])):
        filled = filled[1:]
    found = [
        (strong, [(where, pattern.fullmatch(line)) for where, line in filled])
        for strong, pattern in _FORMS
    ]
    for strong, matches in found:
        if not all(match for _, match in matches):
            continue
        rows = [(where, _name(m['name'], where), int(m['number'])) for where, m in matches]
        names = {name for _, name, _ in rows}
        if not strong and len(names) == 1 < len(rows):
            continue  # "phase 1", "phase 2": these are their names
        try:
            classes = _by_number(rows)
        except ValueError as error:
            raise ValueError(f'{error} ({_REMEDY})') from error
        if not strong and len(names) < len(rows):
            raise ValueError(
                f'{path}: are the numbers class numbers, or parts of the names? {_REMEDY}'
            )
        return classes
    for strong, matches in found:
        without = [where for where, match in matches if not match]
        if strong and 2 * len(without) < len(matches):
            raise ValueError(f'{without[0]}: no class number, which other lines have ({_REMEDY})')
    if len(lines) > 1 and filled[0][1].lower() in _LONE_HEADERS:
        raise ValueError(
            f'{filled[0][0]}: {filled[0][1]!r} looks like a header; remove it ({_REMEDY})'
        )
    return _in_order(path, [_name(line, where) for where, line in lines], [w for w, _ in lines])


def _with_header(path: str, lines: Sequence[tuple[str, str]]) -> ClassList | None:
    """The classes of a table whose first line names its columns; None: it is no such table."""
    for delimiter in ',;\t':
        try:
            rows = list(csv.reader([line for _, line in lines], delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        header = [cell.strip() for cell in rows[0]]
        if len(header) < 2 or not _is_header(header) or len(rows) != len(lines):
            continue
        if len(rows) == 1:
            raise ValueError(f'{path}: no class in it')
        for (where, _), row in zip(lines[1:], rows[1:]):
            if len(row) != len(header):
                raise ValueError(
                    f'{where}: {len(row)} columns, but {len(header)} in the header; put names with '
                    f'{delimiter!r} into quotation marks'
                )
        entries = [dict(zip(header, row)) for row in rows[1:]]
        return _records(path, [where for where, _ in lines[1:]], entries)
    return None


def _is_header(cells: Sequence[str]) -> bool:
    """Whether these are names of columns: two or more, one of them known, none a number."""
    words = {cell.strip().strip('"').lower() for cell in cells}
    return len(words) > 1 and bool(words & _WORDS) and all(_number(word) is None for word in words)


def _name(text: str, where: str) -> str:
    """A name as people write it, without the quotation marks that Kinetics' have."""
    name = unicodedata.normalize('NFC', text.strip().strip('"').strip())
    if not name:
        raise ValueError(f'{where}: no class name')
    return name


def _short(place: str) -> str:
    return place.rpartition(', ')[2]
