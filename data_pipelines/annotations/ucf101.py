"""UCF101: `classInd.txt`, `trainlist0N.txt`, `testlist0N.txt` (fold N is 1, 2 or 3).

    1 ApplyEyeMakeup                                  number, class
    ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1     file, number of its class (training)
    ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi       file (testing)

https://www.crcv.ucf.edu/data/UCF101.php
"""

import os
import re

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import match_line, read_lines
from data_pipelines.annotations.format import VIDEOS, Format, Option
from data_pipelines.annotations.labels import clips_by_split, numbered_classes
from data_pipelines.annotations.locate import VideoFiles

_CLASS = re.compile(r'(?P<number>\d+)\s+(?P<name>\S+)')
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
    classes = numbered_classes(class_file, _CLASS, 'number class', first=1)
    numbers = {name: number for number, name in enumerate(classes)}
    files = VideoFiles(videos, classes)

    def clip(where: str, line: str) -> Clip:
        match = match_line(where, line, _VIDEO, 'CLASS/video [number]')
        if match['label'] not in numbers:
            raise ValueError(f'{where}: {class_file} has no class {match["label"]!r}')
        label = numbers[match['label']]
        if match['number'] is not None and int(match['number']) != label + 1:
            raise ValueError(
                f'{where}: class {match["number"]}, but {class_file} gives '
                f'{match["label"]!r} the number {label + 1}'
            )
        stem, suffix = os.path.splitext(match['path'])
        path = files.find(stem, suffix=suffix, where=where)
        return Clip(path, match['path'], (label,))

    lists = {s: os.path.join(lists_directory, name.format(fold)) for s, name in _LISTS.items()}
    return Annotations(classes, clips_by_split(lists, read_lines, clip), notes=files.notes())


FORMAT = Format(
    'ucf101',
    help='UCF101 by its files classInd.txt, trainlist0N.txt and testlist0N.txt',
    example='--videos=UCF-101 --lists=ucfTrainTestlist --fold=1 --output=data/ucf101_fold1',
    reader=read_ucf101,
    options=(
        VIDEOS,
        Option('--lists', 'ucfTrainTestlist', to='lists_directory', required=True, metavar='DIR'),
        Option('--fold', 'which split (default: 1)', type=int, choices=(1, 2, 3), default=1),
    ),
)
