"""Kinetics-400, -600 and -700: one csv file per split with a header that names the columns.

    label,youtube_id,time_start,time_end,split,is_cc
    "air drumming",_dbcJuKJQNs,40,50,val,0

The releases differ in the order and number of columns. Videos are the clips that were cut from
YouTube's, called `ID_000040_000050` or `ID`. https://github.com/cvdfoundation/kinetics-dataset
"""

from collections import Counter
from collections.abc import Mapping
import os
from typing import NamedTuple

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import read_seconds, read_table
from data_pipelines.annotations.format import VIDEOS, Format, Option, SplitFiles
from data_pipelines.annotations.labels import check_same_classes, with_unique_keys
from data_pipelines.annotations.locate import VideoFiles

_COLUMNS = ('label', 'youtube_id', 'time_start', 'time_end')


class Row(NamedTuple):
    """A line of a csv file."""

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
    rows = {split: read_rows(path) for split, path in csv_files.items()}
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
        splits[split] = with_unique_keys(
            find_clip(row, numbers[row.label], files, clips_per_video, untrimmed)
            for row in split_rows
        )
    return Annotations(classes, splits, notes=files.notes())


def find_clip(
    row: Row, label: int, files: VideoFiles, clips_per_video: Mapping[str, int], untrimmed: bool
) -> Clip:
    """The clip of a line; a file called `ID` is that clip where its video has but one."""
    if untrimmed:
        path = files.find(row.video, where=row.where)
        return Clip(path, row.name, (label,), row.start, row.end)
    plain = [row.video] if clips_per_video[row.video] == 1 else []
    return Clip(files.find(row.name, *plain, where=row.where), row.name, (label,))


def read_rows(path: str | os.PathLike, *, labelled: bool = True) -> list[Row]:
    """The clips of a csv file; of lists of test sets, without labels, with `labelled=False`.

    Raises:
      ValueError: it is missing or malformed.
    """
    path = os.fspath(path)
    rows, splits = [], set()
    try:
        lines = list(read_table(path, _COLUMNS if labelled else _COLUMNS[1:]))
    except ValueError as error:
        if str(error).endswith('; label is missing'):
            text = f'{path}: a list without labels (of a test set?) cannot be converted'
            raise ValueError(text) from error
        raise
    for where, cells in lines:
        label, video = cells.get('label', ''), cells['youtube_id']
        if not video or (labelled and not label):
            raise ValueError(f'{where}: no {"label" if video else "youtube_id"}')
        start, end = (read_seconds(cells[name], where) for name in _COLUMNS[2:])
        if not 0 <= start < end:
            raise ValueError(f'{where}: the clip lasts from {start:g} to {end:g} s')
        rows.append(Row(where, label, video, start, end))
        splits.add(cells.get('split'))
    if not rows:
        raise ValueError(f'{path}: no clip in it')
    if len(splits) > 1 and labelled:
        raise ValueError(
            f'{path}: has clips of several splits ({", ".join(sorted(splits))}); '
            'make one file of each'
        )
    return rows


FORMAT = Format(
    'kinetics',
    help='Kinetics-400, -600 or -700 by its csv files, videos ID_000012_000022.mp4 or ID.mp4',
    example='--videos=k400 --csv train=train.csv --csv validation=val.csv '
    '--output=data/kinetics400 --short_side=320',
    reader=read_kinetics,
    options=(
        VIDEOS,
        SplitFiles('--csv', 'the csv file of one split', to='csv_files'),
        Option(
            '--untrimmed',
            'the files are whole YouTube videos; cut the clips out of them '
            '(default: the files are the clips)',
            action='store_true',
        ),
    ),
)
