"""Kinetics-400, -600 and -700: one csv file per split with a header that names the columns.

    label,youtube_id,time_start,time_end,split,is_cc
    "air drumming",_dbcJuKJQNs,40,50,val,0

The releases differ in the order and number of columns. Videos are the clips that were cut from
YouTube's, called `ID_000040_000050` or `ID`. https://github.com/cvdfoundation/kinetics-dataset
"""

import argparse
from collections import Counter
from collections.abc import Mapping
import os
from typing import NamedTuple

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import read_csv, read_seconds
from data_pipelines.annotations.format import (
    Format,
    add_files_by_split,
    add_videos,
    files_by_split,
)
from data_pipelines.annotations.labels import check_same_classes, with_unique_keys
from data_pipelines.annotations.locate import VideoFiles

_COLUMNS = ('label', 'youtube_id', 'time_start', 'time_end')


class _Row(NamedTuple):
    where: str
    label: str
    video: str  # YouTube's
    start: float  # seconds
    end: float

    @property
    def name(self) -> str:
        """The official name of the clip's file, without suffix."""
        return f'{self.video}_{int(self.start):06d}_{int(self.end):06d}'


def read_kinetics(
    csv_files: Mapping[str, str | os.PathLike],
    videos: str | os.PathLike,
    *,
    untrimmed: bool = False,
) -> Annotations:
    """Reads one csv file per split. Classes are the labels, sorted.

    Args:
      csv_files: split name -> csv file.
      videos: directory that holds the videos, at any depth.
      untrimmed: the files are whole YouTube videos `ID`, of which the clips are parts.

    Raises:
      ValueError: a file is missing or malformed, the splits have different classes, or there are no
        videos.
    """
    rows = {split: _read_rows(path) for split, path in csv_files.items()}
    if not rows:
        raise ValueError('no csv file was given')
    classes = check_same_classes(
        {os.fspath(csv_files[split]): (row.label for row in rows[split]) for split in rows}
    )
    numbers = {name: number for number, name in enumerate(classes)}
    files = VideoFiles(videos)
    # Of two clips of one YouTube video a file called ID would leave open which it is.
    names = {row.name: row.video for split_rows in rows.values() for row in split_rows}
    clips_per_video = Counter(names.values())
    splits = {}
    for split, split_rows in rows.items():
        clips = []
        for row in split_rows:
            label = (numbers[row.label],)
            if untrimmed:
                path = files.find(row.video, where=row.where)
                clips.append(Clip(path, row.name, label, row.start, row.end))
            else:
                plain = [row.video] if clips_per_video[row.video] == 1 else []
                clips.append(Clip(files.find(row.name, *plain, where=row.where), row.name, label))
        splits[split] = with_unique_keys(clips)
    return Annotations(classes, splits)


def _read_rows(path: str | os.PathLike) -> list[_Row]:
    path = os.fspath(path)
    lines = read_csv(path)
    _, header = next(lines, ('', []))
    header = [name.lower() for name in header]
    missing = [name for name in _COLUMNS if name not in header]
    if missing == ['label']:
        raise ValueError(f'{path}: a list without labels (of a test set?) cannot be converted')
    if missing:
        raise ValueError(
            f'{path}, line 1: wanted a header with {", ".join(_COLUMNS)}; '
            f'{", ".join(missing)} is missing'
        )
    columns = [header.index(name) for name in _COLUMNS]
    split_column = header.index('split') if 'split' in header else None
    rows, split_names = [], set()
    for where, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f'{where}: {len(cells)} columns, but {len(header)} in the header: '
                f'{",".join(cells)[:80]!r}'
            )
        label, video, start, end = (cells[column] for column in columns)
        if not label or not video:
            raise ValueError(f'{where}: no {"label" if video else "youtube_id"}')
        row = _Row(where, label, video, read_seconds(start, where), read_seconds(end, where))
        if not 0 <= row.start < row.end:
            raise ValueError(f'{where}: the clip lasts from {start} to {end} s')
        rows.append(row)
        if split_column is not None:
            split_names.add(cells[split_column])
    if not rows:
        raise ValueError(f'{path}: no clip in it')
    if len(split_names) > 1:
        raise ValueError(
            f'{path}: has clips of several splits ({", ".join(sorted(split_names))}); '
            'make one file of each'
        )
    return rows


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_videos(parser)
    add_files_by_split(parser, '--csv', 'the csv file of one split')
    parser.add_argument(
        '--untrimmed',
        action='store_true',
        help='the files are whole YouTube videos; cut the clips out of them '
        '(default: the files are the clips)',
    )


FORMAT = Format(
    'kinetics',
    help='Kinetics-400, -600 or -700 by its csv files, videos ID_000012_000022.mp4 or ID.mp4',
    example='--videos=k400 --csv train=train.csv --csv validation=val.csv '
    '--output=data/kinetics400 --short_side=320',
    add_arguments=_add_arguments,
    read=lambda args: read_kinetics(
        files_by_split('--csv', args.csv), args.videos, untrimmed=args.untrimmed
    ),
)
