"""UCF101: `classInd.txt`, `trainlist0N.txt`, `testlist0N.txt` (fold N is 1, 2 or 3).

    1 ApplyEyeMakeup                                  number, class
    ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1     file, number of its class (training)
    ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi       file (testing)

https://www.crcv.ucf.edu/data/UCF101.php
"""

import argparse
import os
import re

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import read_lines
from data_pipelines.annotations.format import Format, add_videos
from data_pipelines.annotations.labels import classes_in_order, with_unique_keys
from data_pipelines.annotations.locate import VideoFiles

_CLASS = re.compile(r'(?P<number>\d+)\s+(?P<label>\S+)')
_VIDEO = re.compile(r'(?P<path>(?P<label>[^/\s]+)/\S+?)(\s+(?P<number>\d+))?')
_LISTS = {'train': 'trainlist{:02d}.txt', 'test': 'testlist{:02d}.txt'}


def read_ucf101(
    lists_directory: str | os.PathLike, videos: str | os.PathLike, fold: int = 1
) -> Annotations:
    """Reads the splits `train` and `test` of one fold. Classes are in the official order.

    Args:
      lists_directory: where `classInd.txt` and the lists are (`ucfTrainTestlist`).
      videos: directory that holds the videos, at any depth.
      fold: 1, 2 or 3.

    Raises:
      ValueError: no such files, a malformed line, an unknown class, a number that is not that of
        the class, or there are no videos.
    """
    lists_directory = os.fspath(lists_directory)
    class_file = os.path.join(lists_directory, 'classInd.txt')
    classes = _read_classes(class_file)
    numbers = {name: number for number, name in enumerate(classes)}
    files = VideoFiles(videos, classes)
    splits = {}
    for split, name in _LISTS.items():
        list_file = os.path.join(lists_directory, name.format(fold))
        clips = []
        for where, line in read_lines(list_file):
            match = _VIDEO.fullmatch(line)
            if match is None:
                raise ValueError(f'{where}: wanted "CLASS/video [number]", got {line[:80]!r}')
            if match['label'] not in numbers:
                raise ValueError(f'{where}: {class_file} has no class {match["label"]!r}')
            label = numbers[match['label']]
            if match['number'] is not None and int(match['number']) != label + 1:
                raise ValueError(
                    f'{where}: class {match["number"]}, but {class_file} gives '
                    f'{match["label"]!r} the number {label + 1}'
                )
            path = files.find(os.path.splitext(match['path'])[0], where=where)
            clips.append(Clip(path, match['path'], (label,)))
        if not clips:
            raise ValueError(f'{list_file}: no video in it')
        splits[split] = with_unique_keys(clips)
    return Annotations(classes, splits, notes=files.notes())


def _read_classes(path: str) -> tuple[str, ...]:
    rows = []
    for where, line in read_lines(path):
        match = _CLASS.fullmatch(line)
        if match is None:
            raise ValueError(f'{where}: wanted "number class", got {line[:80]!r}')
        rows.append((where, match['label'], int(match['number'])))
    return classes_in_order(rows, first=1, path=path)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_videos(parser)
    parser.add_argument('--lists', required=True, metavar='DIR', help='ucfTrainTestlist')
    parser.add_argument(
        '--fold', type=int, choices=(1, 2, 3), default=1, help='which split (default: 1)'
    )


FORMAT = Format(
    'ucf101',
    help='UCF101 by its files classInd.txt, trainlist0N.txt and testlist0N.txt',
    example='--videos=UCF-101 --lists=ucfTrainTestlist --fold=1 --output=data/ucf101_fold1',
    add_arguments=_add_arguments,
    read=lambda args: read_ucf101(args.lists, args.videos, args.fold),
)
