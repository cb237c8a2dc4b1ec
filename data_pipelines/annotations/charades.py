"""Charades: `Charades_v1_classes.txt`, `Charades_v1_train.csv`, `Charades_v1_test.csv`.

    c092 Wash a window                                            class
    id,subject,scene,...,actions,length
    46GP8,HR43,Kitchen,...,c092 11.90 21.20;c147 0.00 12.60,24.83 video, segments, seconds

Several actions go on at a time. Videos are called `ID`. https://prior.allenai.org/projects/charades
"""

import argparse
from collections.abc import Iterator, Mapping
import os
import re

from data_pipelines.annotations import Annotations
from data_pipelines.annotations.files import Mistakes, read_lines, read_seconds, read_table
from data_pipelines.annotations.format import (
    Format,
    add_files_by_split,
    add_videos,
    files_by_split,
)
from data_pipelines.annotations.labels import classes_in_order, with_unique_keys
from data_pipelines.annotations.locate import VideoFiles
from data_pipelines.annotations.segments import (
    WINDOW_SECONDS,
    Segment,
    Video,
    add_clips,
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
    rows = []
    for where, line in read_lines(classes_file):
        match = _CLASS.fullmatch(line)
        if match is None:
            raise ValueError(f'{where}: wanted "c000 class", got {line[:80]!r}')
        rows.append((where, match['name'], int(match['number'])))
    classes = classes_in_order(rows, first=0, path=os.fspath(classes_file))
    files = VideoFiles(videos)
    found = {}
    for split, path in csv_files.items():
        found[split] = [
            Video(files.find(cells['id'], where=where), cells['id'], segments, seconds)
            for where, cells, segments, seconds in _rows(path, len(classes))
        ]
        if not found[split]:
            raise ValueError(f'{os.fspath(path)}: no video in it')
    splits = {s: with_unique_keys(clips_of(own, clips, window)) for s, own in found.items()}
    notes = (*note_without_labels(found), *files.notes())
    return Annotations(classes, splits, multi_label=True, notes=notes)


def _rows(path: str | os.PathLike, count: int) -> Iterator[tuple]:
    """(place, cells, segments, length) of each line."""
    mistakes = Mistakes()
    for where, cells in read_table(path, ('id', 'actions', 'length')):
        segments = []
        try:
            for action in filter(None, (part.strip() for part in cells['actions'].split(';'))):
                match = _ACTION.fullmatch(action)
                if match is None or int(match['number']) >= count:
                    raise ValueError(
                        f'{where}: wanted actions "c000 start end" of the {count} classes, got '
                        f'{action[:40]!r}'
                    )
                times = (read_seconds(match[name], where) for name in ('start', 'end'))
                segments.append(Segment(int(match['number']), *times))
            seconds = read_seconds(cells['length'], where)
        except ValueError as error:
            mistakes.add(error, where)
            continue
        yield where, cells, segments, seconds
    mistakes.check()


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_videos(parser)
    parser.add_argument('--classes', required=True, metavar='FILE', help='Charades_v1_classes.txt')
    add_files_by_split(parser, '--csv', 'Charades_v1_train.csv or Charades_v1_test.csv')
    add_clips(parser, 'videos')


FORMAT = Format(
    'charades',
    help='Charades by its classes, train and test csv: several labels per clip',
    example='--videos=Charades_v1_480 --classes=Charades_v1_classes.txt '
    '--csv train=Charades_v1_train.csv --csv validation=Charades_v1_test.csv '
    '--output=data/charades --short_side=320',
    add_arguments=_add_arguments,
    read=lambda args: read_charades(
        args.classes,
        files_by_split('--csv', args.csv),
        args.videos,
        clips=args.clips,
        window=args.window,
    ),
)
