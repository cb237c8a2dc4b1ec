"""Moments in Time: `moments_categories.txt`, `trainingSet.csv`, `validationSet.csv`.

    clapping,0                                               class, number
    blocking/getty-karate-video-id635808620_4.mp4,blocking,3,0
                                                             file, class, votes for and against it

http://moments.csail.mit.edu
"""

import argparse
from collections.abc import Mapping
import os

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import read_csv, read_lines
from data_pipelines.annotations.format import (
    Format,
    add_files_by_split,
    add_videos,
    files_by_split,
)
from data_pipelines.annotations.labels import classes_in_order, with_unique_keys
from data_pipelines.annotations.locate import VideoFiles


def read_moments_in_time(
    categories: str | os.PathLike,
    csv_files: Mapping[str, str | os.PathLike],
    videos: str | os.PathLike,
) -> Annotations:
    """Reads the label map and one csv file per split.

    Args:
      categories: `moments_categories.txt`, whose numbers the classes have.
      csv_files: split name -> csv file.
      videos: directory that holds the videos, at any depth.

    Raises:
      ValueError: a file is missing or malformed, a class is not in `categories`, or there are no
        videos.
    """
    classes = _read_categories(os.fspath(categories))
    numbers = {name: number for number, name in enumerate(classes)}
    files = VideoFiles(videos, classes)
    splits = {}
    for split, path in csv_files.items():
        clips = []
        for where, cells in read_csv(path):
            if len(cells) < 2 or not cells[0]:
                raise ValueError(f'{where}: wanted "file,class,...", got {",".join(cells)[:80]!r}')
            if cells[1] not in numbers:
                raise ValueError(f'{where}: {os.fspath(categories)} has no class {cells[1]!r}')
            name = os.path.splitext(cells[0])[0]
            # The same file may lie in the folders of both sets: then in that of its own.
            folder = os.path.basename(path).removesuffix('Set.csv')
            file = files.find(f'{folder}/{name}', where=where)
            clips.append(Clip(file, cells[0], (numbers[cells[1]],)))
        if not clips:
            raise ValueError(f'{os.fspath(path)}: no clip in it')
        splits[split] = with_unique_keys(clips)
    return Annotations(classes, splits, notes=files.notes())


def _read_categories(path: str) -> tuple[str, ...]:
    rows = []
    for where, line in read_lines(path):
        name, _, number = line.rpartition(',')
        if not number.strip().isdecimal():
            raise ValueError(f'{where}: wanted "class,number", got {line[:80]!r}')
        rows.append((where, name.strip(), int(number)))
    return classes_in_order(rows, first=0, path=path)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_videos(parser)
    parser.add_argument(
        '--categories', required=True, metavar='FILE', help='moments_categories.txt'
    )
    add_files_by_split(parser, '--csv', 'trainingSet.csv or validationSet.csv')


FORMAT = Format(
    'moments_in_time',
    help='Moments in Time by its categories and csv files',
    example='--videos=MiT --categories=MiT/moments_categories.txt '
    '--csv train=MiT/trainingSet.csv --csv validation=MiT/validationSet.csv '
    '--output=data/moments',
    add_arguments=_add_arguments,
    read=lambda args: read_moments_in_time(
        args.categories, files_by_split('--csv', args.csv), args.videos
    ),
)
