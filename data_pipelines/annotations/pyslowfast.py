"""Lists of PySlowFast and MMAction: one line per video, with class numbers.

    videos/a.mp4 0                  path and class
    videos/a.mp4 0 3 5              path and classes: several labels
    brush_hair/April_09 77 12       folder of images (or name of a video), frames, class(es)

Path and numbers are separated by spaces, commas or tabs; paths may hold spaces. PySlowFast's lists
of frames have a line per image, and a header:

    original_vido_id video_id frame_id path labels
    107YZ 0 0 107YZ/107YZ-000001.jpg "15,20"

https://github.com/facebookresearch/SlowFast/blob/main/slowfast/datasets/DATASET.md
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import os
from typing import NamedTuple

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.class_lists import read_class_list
from data_pipelines.annotations.files import parsed, read_lines, refuse
from data_pipelines.annotations.format import Format, Option, SplitFiles
from data_pipelines.annotations.labels import with_unique_keys
from data_pipelines.annotations.listed_files import ListedFiles

_MOST_CLASSES = 100_000  # without a file that names them
_FRAME_LIST = 'original_vido_id '  # how the header begins, so spelt
_NUMBERS = ('auto', 'labels', 'frames')


class _Row(NamedTuple):
    """A line, or all lines of a video in a list of frames.

    Attributes:
      where: its place.
      path: as listed.
      labels: class numbers as listed.
      images: how many images of it there are, where the list tells.
    """

    where: str
    path: str
    labels: tuple[int, ...]
    images: int | None = None


def read_pyslowfast(
    csv_files: Mapping[str, str | os.PathLike],
    *,
    classes_file: str | os.PathLike | None = None,
    path_prefix: str | os.PathLike = '',
    numbers: str = 'auto',
    multi_label: bool = False,
) -> Annotations:
    """Reads one list per split.

    A video that a list has again is one more clip: `PATH#2`.

    Args:
      csv_files: split name -> list.
      classes_file: names of the classes, see `class_lists`. Without, classes are called by their
        numbers, 0 to the largest of any split.
      path_prefix: directory that the paths are relative to, and must not leave.
      numbers: what stands behind a path: its 'labels'; the number of its 'frames', then labels; or
        'auto': labels behind the name of a file, frames and labels behind other names.
      multi_label: also if no video has several labels.

    Raises:
      ValueError: a file is missing, a line has another form, a label has no class name, a path is
        listed with two labels where videos have one, or leads out of `path_prefix`, a split is
        empty, or the files lie elsewhere.
    """
    if not csv_files:
        raise ValueError('no csv file was given')
    files = ListedFiles(os.fspath(path_prefix))
    rows = {split: _read_rows(path, numbers, files) for split, path in csv_files.items()}
    classes, offset = _classes(classes_file, [row for own in rows.values() for row in own])
    multi_label |= any(len(row.labels) > 1 for own in rows.values() for row in own)
    splits, notes = {}, []
    for split, own in rows.items():
        if not multi_label:
            _check_one_label(own)
        paths = [files.find(row.path, row.where) for row in own]
        notes += files.check_prefix([row.path for row in own], paths, csv_files[split])
        splits[split] = with_unique_keys(
            Clip(path, row.path, tuple(n - offset for n in row.labels), images=row.images)
            for path, row in zip(paths, own)
        )
        again = len(own) - len({row.path for row in own})
        if again:
            notes.append(
                f'{os.fspath(csv_files[split])}: lines that list a video again: {again}; it is '
                'stored again, called NAME#2'
            )
    return Annotations(classes, splits, multi_label=multi_label, notes=(*notes, *files.notes()))


def _classes(classes_file: str | os.PathLike | None, rows: Sequence[_Row]) -> tuple:
    """Names of the classes, and what to subtract from the labels that are listed."""
    largest, where = max((label, row.where) for row in rows for label in row.labels)
    if classes_file is None:
        if largest >= _MOST_CLASSES:
            raise ValueError(
                f'{where}: class {largest} would make so many classes; if it is right, name them '
                'in a file of classes'
            )
        return tuple(str(number) for number in range(largest + 1)), 0
    classes = read_class_list(classes_file).check_different()
    offset = classes.offset((label for row in rows for label in row.labels), classes_file)
    last = len(classes.names) - 1 + offset
    names = f'{os.fspath(classes_file)} names only {offset} to {last}'
    refuse(
        (row.where, f'{row.where}: class {max(row.labels)}, but {names}')
        for row in rows
        if max(row.labels) > last
    )
    return classes.names, offset


def _read_rows(path: str | os.PathLike, numbers: str, files: ListedFiles) -> list[_Row]:
    """The lines of a list, each path with its labels.

    Raises:
      ValueError: of the first wrong line; names the others.
    """
    lines = list(read_lines(path))
    if not lines:
        raise ValueError(f'{os.fspath(path)}: no line in it (wanted "path label" lines)')
    if lines[0][1].startswith(_FRAME_LIST):
        return _read_frame_list(path, lines[1:])

    def row(where: str, line: str) -> tuple[str, str, tuple[int, ...]]:
        name, found = _split_line(line)
        if not found:
            raise ValueError(f'{where}: wanted "path label" with a class number, got {line[:80]!r}')
        return where, name, found

    listed, rows = list(parsed(lines, row)), []
    for (where, name, found), framed in zip(listed, _with_frames(listed, numbers, files)):
        images, labels = (found[0], found[1:]) if framed else (None, found)
        rows.append(_Row(where, name, tuple(dict.fromkeys(labels)), images))
    return rows


def _check_one_label(rows: Sequence[_Row]) -> None:
    """
    Raises:
      ValueError: a video is listed with two labels; names all its lines.
    """
    first: dict[str, _Row] = {}
    refuse(
        (
            row.where,
            f'{row.where}: {row.path} was listed in {earlier.where.rpartition(", ")[2]} '
            f'already, with class {earlier.labels[0]} instead of {row.labels[0]}; several '
            'labels of a video belong on one line',
        )
        for row in rows
        if (earlier := first.setdefault(row.path, row)).labels != row.labels
    )


def _split_line(line: str) -> tuple[str, tuple[int, ...]]:
    """The path of a line and the numbers behind it; none where there are none."""
    numbers, path = [], line
    while True:
        stem = path.rstrip('0123456789')
        digits = path[len(stem) :]
        before = stem.rstrip(', \t')
        if not 0 < len(digits) < 10 or len(before) == len(stem) or not before:
            return path.strip('"'), tuple(reversed(numbers))
        numbers.append(int(digits))
        path = before


def _with_frames(
    rows: Sequence[tuple[str, str, tuple[int, ...]]], numbers: str, files: ListedFiles
) -> list[bool]:
    """Whether the first number of each row counts frames."""
    if numbers == 'labels':
        return [False] * len(rows)
    bare = [numbers == 'frames' or not files.is_video_name(name) for _, name, _ in rows]
    several = [len(found) > 1 for _, _, found in rows]
    if not any(several[n] for n in range(len(rows)) if bare[n]) and numbers == 'auto':
        return [False] * len(rows)
    refuse(
        (
            where,
            f'{where}: one number, where other lines have frames and labels; --numbers=labels '
            'reads all numbers as labels',
        )
        for (where, _, _), is_bare, has_several in zip(rows, bare, several)
        if is_bare and not has_several
    )
    return bare


def _read_frame_list(path: str | os.PathLike, lines: Sequence[tuple[str, str]]) -> list[_Row]:
    """The videos of a list with a line per image; a video has the labels of all its images."""
    found: dict[str, tuple[str, str]] = {}  # by video: place of the first line, folder
    labels_of: dict[str, set[int]] = collections.defaultdict(set)
    images: dict[str, int] = collections.Counter()

    def image(where: str, line: str) -> tuple[str, Iterable[int]]:
        cells = line.split(' ', 3)
        path, _, labels = cells[-1].rpartition(' ')
        labels = [label for label in labels.strip('"').split(',') if label]
        if len(cells) < 4 or not path or not all(label.isdecimal() for label in labels):
            raise ValueError(
                f'{where}: wanted "video number frame path labels", as the header says, got '
                f'{line[:80]!r}'
            )
        video, folder = cells[0], os.path.dirname(path)
        if found.setdefault(video, (where, folder))[1] != folder:
            raise ValueError(f'{where}: images of {video} in two folders')
        return video, map(int, labels)

    for video, labels in parsed(lines, image):
        labels_of[video].update(labels)
        images[video] += 1
    rows = [
        _Row(where, folder, tuple(sorted(labels_of[video])), images[video])
        for video, (where, folder) in found.items()
        if labels_of[video]
    ]
    if not rows:
        raise ValueError(f'{os.fspath(path)}: no image in it has a label')
    return rows


FORMAT = Format(
    'pyslowfast',
    help='PySlowFast\'s and MMAction\'s lists: lines "path label", "path label label ...", '
    '"path frames label", and lists of frames',
    example='--csv train=train.csv --csv validation=val.csv --classes=classes.txt '
    '--path_prefix=/videos --output=data/kinetics',
    reader=read_pyslowfast,
    options=(
        SplitFiles('--csv', 'the list of one split', to='csv_files'),
        Option(
            '--classes',
            'class names: id,name or name,id lines, names alone, classInd.txt, or JSON '
            '(default: classes are called 0, 1, ...)',
            to='classes_file',
            metavar='FILE',
        ),
        Option('--path_prefix', 'what the paths are relative to', default='', metavar='DIR'),
        Option(
            '--numbers',
            'what stands behind a path: labels; the number of frames, then labels; or, for auto, '
            'labels behind the name of a file and frames and labels behind other names (default: '
            'auto)',
            choices=_NUMBERS,
            default='auto',
        ),
        Option(
            '--multi_label',
            'several labels per video, also if no line has more than one',
            action='store_true',
        ),
    ),
)
