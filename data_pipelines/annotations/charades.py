"""Charades: `Charades_v1_classes.txt`, `Charades_v1_train.csv`, `Charades_v1_test.csv`.

    c092 Wash a window                                            class
    id,subject,scene,...,actions,length
    46GP8,HR43,Kitchen,...,c092 11.90 21.20;c147 0.00 12.60,24.83 video, segments, seconds

Several actions go on at a time. Videos are called `ID`. https://prior.allenai.org/projects/charades
"""

from collections.abc import Mapping
import os
import re

from data_pipelines.annotations import Annotations
from data_pipelines.annotations.files import parsed, read_seconds, read_table
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, SplitFiles
from data_pipelines.annotations.labels import numbered_classes, with_unique_keys
from data_pipelines.annotations.locate import VideoFiles
from data_pipelines.annotations.segments import (
    WINDOW_SECONDS,
    Segment,
    Video,
    clip_options,
    clips_of,
    note_without_labels,
)

_CLASS = re.compile(r'c(?P<number>\d{3})\s+(?P<name>\S.*)')
_ACTION = re.compile(r'c(?P<number>\d{3}) (?P<start>[\d.]+) (?P<end>[\d.]+)')


def read_charades(
    classes_file: str | os.PathLike,
    csv_files: Mapping[str, str | os.PathLike],
    videos: str | os.PathLike,
    *,
    clips: str = 'videos',
    window: float = WINDOW_SECONDS,
) -> Annotations:
    """Reads the classes and one csv file per split.

    Args:
      classes_file: `Charades_v1_classes.txt`, whose numbers the classes have.
      csv_files: split name -> csv file.
      videos: directory that holds the videos, at any depth.
      clips, window: which clips the videos give, see `segments.clips_of`.

    Raises:
      ValueError: a file is missing or malformed, an action is not among the classes, or there are
        no videos.
    """
    classes = numbered_classes(classes_file, _CLASS, 'c000 class')
    files = VideoFiles(videos)

    def video(where: str, cells: Mapping[str, str]) -> Video:
        segments = []
        for action in filter(None, (part.strip() for part in cells['actions'].split(';'))):
            match = _ACTION.fullmatch(action)
            if match is None or int(match['number']) >= len(classes):
                raise ValueError(
                    f'{where}: wanted actions "c000 start end" of the {len(classes)} classes, got '
                    f'{action[:40]!r}'
                )
            times = (read_seconds(match[name], where) for name in ('start', 'end'))
            segments.append(Segment(int(match['number']), *times))
        seconds = read_seconds(cells['length'], where)
        return Video(files.find(cells['id'], where=where), cells['id'], segments, seconds)

    found = {}
    for split, path in csv_files.items():
        found[split] = list(parsed(read_table(path, ('id', 'actions', 'length')), video))
        if not found[split]:
            raise ValueError(f'{os.fspath(path)}: no video in it')
    splits = {s: with_unique_keys(clips_of(own, clips, window)) for s, own in found.items()}
    notes = (*note_without_labels(found), *files.notes())
    return Annotations(classes, splits, multi_label=True, notes=notes)


FORMAT = Format(
    'charades',
    help='Charades by its classes, train and test csv: several labels per clip',
    example='--videos=Charades_v1_480 --classes=Charades_v1_classes.txt '
    '--csv train=Charades_v1_train.csv --csv validation=Charades_v1_test.csv '
    '--output=data/charades --short_side=320',
    reader=read_charades,
    options=(
        VIDEOS,
        FileOption('--classes', 'Charades_v1_classes.txt', to='classes_file'),
        SplitFiles('--csv', 'Charades_v1_train.csv or Charades_v1_test.csv', to='csv_files'),
        *clip_options('videos'),
    ),
)
