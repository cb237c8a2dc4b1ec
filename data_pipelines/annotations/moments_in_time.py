"""Moments in Time: `moments_categories.txt`, `trainingSet.csv`, `validationSet.csv`.

    clapping,0                                               class, number
    blocking/getty-karate-video-id635808620_4.mp4,blocking,3,0
                                                             file, class, votes for and against it

http://moments.csail.mit.edu
"""

from collections.abc import Mapping, Sequence
import os
import re

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import read_csv
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, SplitFiles
from data_pipelines.annotations.labels import clips_by_split, numbered_classes
from data_pipelines.annotations.locate import VideoFiles

_CLASS = re.compile(r'(?P<name>.*),\s*(?P<number>\d+)')


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
    classes = numbered_classes(categories, _CLASS, 'class,number')
    numbers = {name: number for number, name in enumerate(classes)}
    files = VideoFiles(videos, classes)

    def clip(where: str, cells: Sequence[str]) -> Clip:
        if len(cells) < 2 or not cells[0]:
            raise ValueError(f'{where}: wanted "file,class,...", got {",".join(cells)[:80]!r}')
        if cells[1] not in numbers:
            raise ValueError(f'{where}: {os.fspath(categories)} has no class {cells[1]!r}')
        # The same file may lie in the folders of both sets: then in that of its own.
        folder = os.path.basename(where.rpartition(', ')[0]).removesuffix('Set.csv')
        stem, suffix = os.path.splitext(cells[0])
        file = files.find(f'{folder}/{stem}', suffix=suffix, where=where)
        return Clip(file, cells[0], (numbers[cells[1]],))

    splits = clips_by_split(csv_files, read_csv, clip, 'clip')
    return Annotations(classes, splits, notes=files.notes())


FORMAT = Format(
    'moments_in_time',
    help='Moments in Time by its categories and csv files',
    example='--videos=MiT --categories=MiT/moments_categories.txt '
    '--csv train=MiT/trainingSet.csv --csv validation=MiT/validationSet.csv '
    '--output=data/moments',
    reader=read_moments_in_time,
    options=(
        VIDEOS,
        FileOption('--categories', 'moments_categories.txt'),
        SplitFiles('--csv', 'trainingSet.csv or validationSet.csv', to='csv_files'),
    ),
)
