"""The csv of PySlowFast: one line per video, ``path label``, label a class number.

Path and label are separated by a space, a comma or a tab (the last one of the line, so paths may
hold spaces). https://github.com/facebookresearch/SlowFast/blob/main/slowfast/datasets/DATASET.md
"""

from collections.abc import Mapping
import os
import re

from data_pipelines.annotations import Annotations
from data_pipelines.annotations import Clip

_LINE = re.compile(r'(?P<path>\S.*?)\s*[,\s]\s*(?P<label>\d+)')


def read_pyslowfast(
    csv_files: Mapping[str, str | os.PathLike],
    *,
    classes_file: str | os.PathLike | None = None,
    path_prefix: str | os.PathLike = '',
) -> Annotations:
    """Reads one csv file per split.

    Args:
      csv_files: split name -> csv file.
      classes_file: text file with one class name per line, in the order of the class numbers.
        Without, classes are called by their numbers, 0 to the largest of any split.
      path_prefix: directory that the paths of the csv are relative to.

    Raises:
      ValueError: a file is missing, a line is not ``path label``, a label has no class name, a
        path is listed twice in a split, or a split is empty.
    """
    rows = {split: _read_rows(path) for split, path in csv_files.items()}
    if not rows:
        raise ValueError('no csv file was given')
    if classes_file is None:
        largest = max(label for split_rows in rows.values() for _, label, _ in split_rows)
        classes = tuple(str(number) for number in range(largest + 1))
    else:
        classes = _read_classes(classes_file)
        for split_rows in rows.values():
            for _, label, where in split_rows:
                if label >= len(classes):
                    raise ValueError(
                        f'{where}: class {label}, but {classes_file} names only '
                        f'0 to {len(classes) - 1}'
                    )
    prefix = os.fspath(path_prefix)
    splits = {
        split: tuple(
            Clip(os.path.join(prefix, path), path, (label,)) for path, label, _ in split_rows
        )
        for split, split_rows in rows.items()
    }
    return Annotations(classes, splits)


def _read_rows(path: str | os.PathLike) -> list[tuple[str, int, str]]:
    """(video path, label, place in the csv) of each line."""
    rows, seen = [], {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        where = f'{os.fspath(path)}, line {number}'
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f'{where}: wanted "path label" with a class number, got {line.strip()[:80]!r}'
            )
        video = match['path'].strip('"')
        if video in seen:
            raise ValueError(
                f'{where}: {video} was listed in line {seen[video]} already; remove one of them'
            )
        seen[video] = number
        rows.append((video, int(match['label']), where))
    if not rows:
        raise ValueError(f'{os.fspath(path)}: no line in it (wanted "path label" lines)')
    return rows


def _read_classes(path: str | os.PathLike) -> tuple[str, ...]:
    classes = tuple(line.strip() for line in _read_text(path).rstrip().splitlines())
    for number, name in enumerate(classes):
        if not name:
            raise ValueError(f'{os.fspath(path)}, line {number + 1}: no class name')
        first = classes.index(name)
        if first != number:
            raise ValueError(
                f'{os.fspath(path)}, line {number + 1}: {name!r} is the name of class {first} '
                'already'
            )
    return classes


def _read_text(path: str | os.PathLike) -> str:
    try:
        with open(path, encoding='utf-8-sig') as file:
            return file.read()
    except FileNotFoundError as error:
        raise ValueError(f'{os.fspath(path)}: no such file') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{os.fspath(path)}: not UTF-8 text ({error})') from error
