"""The csv of PySlowFast: one line per video, `path label`, label a class number.

Path and label are separated by a space, a comma or a tab (the last one of the line, so paths may
hold spaces). https://github.com/facebookresearch/SlowFast/blob/main/slowfast/datasets/DATASET.md
"""

import argparse
from collections.abc import Mapping
import os
import re

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import check_relative, read_text
from data_pipelines.annotations.format import Format, add_files_by_split, files_by_split

_LINE = re.compile(r'(?P<path>\S.*?)\s*[,\s]\s*(?P<label>\d{1,9})')
_MOST_CLASSES = 100_000  # without a file that names them


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
      path_prefix: directory that the paths of the csv are relative to, and must not leave.

    Raises:
      ValueError: a file is missing, a line is not `path label`, a label has no class name, a
        path is listed twice in a split or leads out of `path_prefix`, or a split is empty.
    """
    rows = {split: _read_rows(path) for split, path in csv_files.items()}
    if not rows:
        raise ValueError('no csv file was given')
    if classes_file is None:
        largest, where = max(
            (label, where) for split_rows in rows.values() for _, label, where in split_rows
        )
        if largest >= _MOST_CLASSES:
            raise ValueError(
                f'{where}: class {largest} would make so many classes; if it is right, name them '
                'in a file of classes'
            )
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
    if prefix:  # without one, absolute paths are usual
        for split_rows in rows.values():
            for path, _, where in split_rows:
                check_relative(path, where)
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
    for number, line in enumerate(read_text(path).splitlines(), start=1):
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
    classes = tuple(line.strip() for line in read_text(path).rstrip().splitlines())
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


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files_by_split(parser, '--csv', 'one split')
    parser.add_argument(
        '--classes',
        metavar='FILE',
        help='class names, one per line (default: classes are called 0, 1, ...)',
    )
    parser.add_argument(
        '--path_prefix', default='', metavar='DIR', help='what the paths are relative to'
    )


FORMAT = Format(
    'pyslowfast',
    help='PySlowFast\'s csv files of lines "path label", label a class number',
    example='--csv train=train.csv --csv validation=val.csv --classes=classes.txt '
    '--path_prefix=/videos --output=data/kinetics',
    add_arguments=_add_arguments,
    read=lambda args: read_pyslowfast(
        files_by_split('--csv', args.csv),
        classes_file=args.classes,
        path_prefix=args.path_prefix,
    ),
)
