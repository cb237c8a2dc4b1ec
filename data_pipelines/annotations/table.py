"""A csv of one's own, or of HVU, HAA500 and the like: a header, then a clip per line.

    path,label                          videos/a.mp4,running
    video,labels                        videos/a.mp4,running|outdoors            several labels
    Tags,youtube_id,time_start,time_end   run|grass,dQw4w9WgXcQ,12,22            (HVU)
    filename,class,split                a.mp4,running,train                      several splits

Columns are known by their names; `columns` names others. Cells are separated by commas, semicolons
or tabs, several labels of a clip by `|`.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import os
from typing import NamedTuple

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.class_lists import read_class_list
from data_pipelines.annotations.files import parsed, read_seconds, read_table, read_text, refuse
from data_pipelines.annotations.format import VIDEOS, Format, Option
from data_pipelines.annotations.labels import check_same_classes, with_unique_keys
from data_pipelines.annotations.locate import VideoFiles

_DELIMITERS = ',;\t'
# What headers call a column, the surest first.
_WORDS = {
    'video': 'path video_path file_path filepath filename file_name file video_name vid_name '
    'video_id youtube_id video clip clip_id name id'.split(),
    'label': 'labels label tags tag class_name classname label_name class classes action_name '
    'actions action category gesture'.split(),
    'start': 'time_start start_time start start_seconds start_timestamp t_start begin'.split(),
    'end': 'time_end end_time end end_seconds end_timestamp stop_timestamp stop t_end'.split(),
    'split': 'split subset set partition'.split(),
}
COLUMNS = tuple(_WORDS)
VIDEO_COLUMNS = tuple(_WORDS['video'])


class _Row(NamedTuple):
    where: str
    video: str
    labels: tuple[str, ...]
    start: float | None
    end: float | None
    split: str


def read_csv_table(
    csv_files: Mapping[str, str | os.PathLike],
    videos: str | os.PathLike,
    *,
    classes_file: str | os.PathLike | None = None,
    columns: Mapping[str, str] | None = None,
    separator: str = '|',
    multi_label: bool = False,
) -> Annotations:
    """Reads csv files with a header.

    A clip with times is a part of its video, unless there is a file of the clip alone, called
    `VIDEO_000012_000022` as Kinetics calls them.

    Args:
      csv_files: split name -> csv file; '': a file that has a column of splits.
      videos: directory that holds the videos, at any depth.
      classes_file: the classes, see `class_lists`; labels are their names, or numbers. Without,
        classes are the labels that occur, sorted: by number if all are numbers.
      columns: of `COLUMNS` those that have other names than usual.
      separator: between several labels of a clip.
      multi_label: also if no clip has several labels.

    Raises:
      ValueError: a file is missing or malformed, a label is not among the classes, the splits have
        different classes, or there are no videos.
    """
    rows: dict[str, list[_Row]] = {}
    for split, path in csv_files.items():
        for row in _rows(path, split, columns or {}, separator):
            rows.setdefault(row.split, []).append(row)
    classes, number_of = _classes(rows, classes_file)
    refuse(
        (row.where, f'{row.where}: {os.fspath(classes_file)} has no class {label!r}')
        for own in rows.values()
        for row in own
        if (label := next((label for label in row.labels if label not in number_of), None))
    )
    files = VideoFiles(videos)
    splits = {
        split: with_unique_keys(
            _clip(row, tuple(number_of[label] for label in row.labels), files) for row in own
        )
        for split, own in rows.items()
    }
    multi_label |= any(len(row.labels) > 1 for own in rows.values() for row in own)
    return Annotations(classes, splits, multi_label=multi_label, notes=files.notes())


def _rows(
    path: str | os.PathLike, split: str, columns: Mapping[str, str], separator: str
) -> Iterator[_Row]:
    head = read_text(path).partition('\n')[0]
    delimiter = max(_DELIMITERS, key=head.count)
    lines = read_table(path, delimiter=delimiter)
    first = next(lines, None)
    if first is None:
        raise ValueError(f'{os.fspath(path)}: no clip in it')
    names = _columns(*first, columns, split)

    def row(where: str, cells: Mapping[str, str]) -> _Row:
        video, labels = cells[names['video']], cells[names['label']].split(separator)
        labels = tuple(dict.fromkeys(filter(None, map(str.strip, labels))))
        if not video or not labels:
            raise ValueError(f'{where}: no {"label" if video else "video"}')
        start, end = (
            read_seconds(cells[names[name]], where) if name in names else None
            for name in ('start', 'end')
        )
        return _Row(where, video, labels, start, end, split or cells[names['split']])

    return parsed(itertools.chain([first], lines), row)


def _columns(
    where: str, cells: Mapping[str, str], given: Mapping[str, str], split: str
) -> dict[str, str]:
    """Which column is which."""
    path = where.rpartition(', ')[0]
    names = {}
    for what, words in _WORDS.items():
        name = given.get(what, next((word for word in words if word in cells), '')).lower()
        if what in given and name not in cells:
            raise ValueError(f'{path}: no column {given[what]!r}; it has {", ".join(cells)}')
        if name:
            names[what] = name
    needed = ('video', 'label') if split else ('video', 'label', 'split')
    for what in needed:
        if what not in names:
            raise ValueError(
                f'{path}: which column is the {what}? Name it, {what}=COLUMN; it has '
                f'{", ".join(cells)}'
            )
    return names


def _classes(
    rows: Mapping[str, Sequence[_Row]], classes_file: str | os.PathLike | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the classes, and the number of each label."""
    labels = {label for own in rows.values() for row in own for label in row.labels}
    numbers = all(label.isascii() and label.isdecimal() for label in labels)
    if classes_file is not None:
        classes = read_class_list(classes_file).check_different()
        number_of = {name: number for number, name in enumerate(classes.names)}
        if numbers and not labels <= set(number_of):
            offset = classes.offset(map(int, labels), classes_file)
            number_of = {str(n + offset): n for n in range(len(classes.names))}
        return classes.names, number_of
    if numbers:
        names = tuple(map(str, range(max(map(int, labels)) + 1)))
    else:
        names = check_same_classes(
            {split: (label for row in own for label in row.labels) for split, own in rows.items()}
        )
    return names, {name: number for number, name in enumerate(names)}


def _clip(row: _Row, labels: tuple[int, ...], files: VideoFiles) -> Clip:
    name, suffix = files.split(row.video)
    if row.start is None and row.end is None:
        return Clip(files.find(name, suffix=suffix, where=row.where), row.video, labels)
    start, end = row.start or 0.0, row.end
    trimmed = '' if end is None else f'{name}_{int(start):06d}_{int(end):06d}'
    if trimmed and os.path.basename(trimmed) in files:
        return Clip(files.find(trimmed, suffix=suffix, where=row.where), trimmed, labels)
    key = trimmed or f'{name}_{int(start):06d}'
    return Clip(files.find(name, suffix=suffix, where=row.where), key, labels, start, end)


def _files(flag: str, values: Sequence[str]) -> dict[str, str]:
    """The values `[SPLIT=]FILE` of an option."""
    files: dict[str, str] = {}
    for value in values:
        split, separator, path = value.partition('=')
        split, path = (split, path) if separator and not os.path.exists(value) else ('', value)
        if split in files:
            raise ValueError(
                f'{flag}={value}: {"the split" if split else "such a file"} is given twice'
            )
        files[split] = path
    return files


def _named_columns(flag: str, values: Sequence[str]) -> dict[str, str]:
    """The values `WHAT=NAME` of an option."""
    columns = {}
    for value in values:
        what, _, name = value.partition('=')
        if what not in COLUMNS or not name:
            raise ValueError(f'{flag}={value}: wanted WHAT=NAME, WHAT one of {", ".join(COLUMNS)}')
        columns[what] = name
    return columns


FORMAT = Format(
    'csv',
    help='a csv with a header that names video and label(s), of your own, of HVU and others',
    example='--videos=my_videos --csv train=train.csv --csv validation=val.csv '
    '--output=data/mine --short_side=320',
    reader=read_csv_table,
    options=(
        VIDEOS,
        Option(
            '--csv',
            'the csv file of one split, or one with a column of splits; may be repeated',
            to='csv_files',
            parse=_files,
            action='append',
            required=True,
            metavar='[SPLIT=]FILE',
        ),
        Option(
            '--classes',
            'class names in any form (default: the labels that occur, sorted)',
            to='classes_file',
            metavar='FILE',
        ),
        Option(
            '--column',
            f'name of a column, WHAT one of {", ".join(COLUMNS)}; may be repeated (default: what '
            'such columns are usually called)',
            to='columns',
            parse=_named_columns,
            action='append',
            default=[],
            metavar='WHAT=NAME',
        ),
        Option('--separator', 'between labels (default: |)', default='|', metavar='SIGN'),
        Option(
            '--multi_label',
            'several labels per clip, also if no line has more than one',
            action='store_true',
        ),
    ),
)
