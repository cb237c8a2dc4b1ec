"""Jester and Something-Something V1: folders of images, one list per split.

    100218;Something falling like a feather or a rock       folder of images; class
    Something falling like a feather or a rock              a line of the list of classes

The folders are called by the numbers of the videos and hold 00001.jpg, ..., 12 images a second.
https://www.qualcomm.com/developer/software/jester-dataset
"""

import argparse
from collections.abc import Mapping
import os

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.class_lists import read_class_list
from data_pipelines.annotations.files import Mistakes, read_lines
from data_pipelines.annotations.format import (
    Format,
    add_files_by_split,
    add_videos,
    files_by_split,
)
from data_pipelines.annotations.labels import with_unique_keys
from data_pipelines.annotations.listed_files import ListedFiles

_IMAGES_PER_SECOND = 12.0


def read_twentybn(
    labels: str | os.PathLike,
    csv_files: Mapping[str, str | os.PathLike],
    videos: str | os.PathLike,
) -> Annotations:
    """Reads one list per split. Classes are in the order of the list of classes.

    Args:
      labels: such as `jester-v1-labels.csv`.
      csv_files: split name -> such as `jester-v1-train.csv`.
      videos: directory that holds the folders of images (or videos of these names).

    Raises:
      ValueError: a file is missing or malformed, or a class is not in `labels`.
    """
    if not os.path.isdir(videos):
        raise ValueError(f'{os.fspath(videos)}: no such directory of videos')
    classes = read_class_list(labels)
    classes.check_different()
    numbers = {name: number for number, name in enumerate(classes.names)}
    files, splits, notes = ListedFiles(os.fspath(videos)), {}, []
    for split, path in csv_files.items():
        clips, mistakes = [], Mistakes()
        for where, line in read_lines(path):
            video, separator, label = (part.strip() for part in line.partition(';'))
            if label in numbers:
                clips.append(Clip(files.find(video, where), video, (numbers[label],)))
            elif separator:
                error = f'{where}: {os.fspath(labels)} has no class {label!r}'
                mistakes.add(ValueError(error), where)
            else:
                error = f'{where}: wanted "video;class", got {line[:80]!r} (a list of a test set?)'
                mistakes.add(ValueError(error), where)
        mistakes.check()
        if not clips:
            raise ValueError(f'{os.fspath(path)}: no video in it')
        splits[split] = with_unique_keys(clips)
        notes += files.check_prefix([c.key for c in clips], [c.path for c in clips], path)
    return Annotations(classes.names, splits, notes=tuple(notes))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_videos(parser)
    parser.add_argument(
        '--labels', required=True, metavar='FILE', help='the list of classes, NAME-v1-labels.csv'
    )
    add_files_by_split(parser, '--csv', 'NAME-v1-train.csv or NAME-v1-validation.csv')
    parser.set_defaults(images_per_second=_IMAGES_PER_SECOND)


FORMATS = tuple(
    Format(
        name,
        help=f'{title} by its labels, train and validation csv: folders of images',
        example=f'--videos=20bn-{file} --labels={file}-labels.csv '
        f'--csv train={file}-train.csv --csv validation={file}-validation.csv '
        f'--output=data/{name}',
        add_arguments=_add_arguments,
        read=lambda args: read_twentybn(
            args.labels, files_by_split('--csv', args.csv), args.videos
        ),
    )
    for name, title, file in (
        ('jester', 'Jester', 'jester-v1'),
        ('something_v1', 'Something-Something V1', 'something-something-v1'),
    )
)
