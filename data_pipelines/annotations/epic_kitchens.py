"""EPIC-Kitchens-100: `EPIC_100_train.csv`, `EPIC_100_verb_classes.csv`,
`EPIC_100_noun_classes.csv`.

    narration_id,participant_id,video_id,...,start_timestamp,stop_timestamp,...,verb_class,...
    P01_01_0,P01,P01_01,...,00:00:00.14,00:00:03.37,...,3,...
    id,key,instances,category
    0,take,...                                                     of a file of classes

Clips are parts of videos `video_id`. Verbs and nouns are two datasets of the same clips.
https://github.com/epic-kitchens/epic-kitchens-100-annotations
"""

from collections.abc import Mapping
import functools
import os

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.class_lists import read_class_list
from data_pipelines.annotations.files import read_seconds, read_table
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, Option, SplitFiles
from data_pipelines.annotations.labels import clips_by_split
from data_pipelines.annotations.locate import VideoFiles

_TIMES = ('start_timestamp', 'stop_timestamp')


def read_epic_kitchens(
    csv_files: Mapping[str, str | os.PathLike],
    classes_file: str | os.PathLike,
    videos: str | os.PathLike,
    *,
    label: str,
) -> Annotations:
    """Reads one csv file per split, for verbs or for nouns.

    Args:
      csv_files: split name -> csv file.
      classes_file: `EPIC_100_verb_classes.csv` or `EPIC_100_noun_classes.csv`.
      videos: directory that holds the videos, at any depth.
      label: 'verb' or 'noun'.

    Raises:
      ValueError: a file is missing or malformed, a class is not among the classes, or there are no
        videos.
    """
    classes = read_class_list(classes_file).check_different()
    column, wanted = f'{label}_class', {str(number) for number in range(len(classes.names))}
    files = VideoFiles(videos)
    read = functools.partial(read_table, wanted=('narration_id', 'video_id', *_TIMES, column))

    def clip(where: str, cells: Mapping[str, str]) -> Clip:
        if cells[column] not in wanted:
            raise ValueError(
                f'{where}: {column} {cells[column]!r}, but {os.fspath(classes_file)} names '
                f'0 to {len(classes.names) - 1}'
            )
        start, end = (read_seconds(cells[name], where) for name in _TIMES)
        video = files.find(cells['video_id'], where=where)
        return Clip(video, cells['narration_id'], (int(cells[column]),), start, end)

    splits = clips_by_split(csv_files, read, clip, 'clip')
    return Annotations(classes.names, splits, notes=files.notes())


FORMAT = Format(
    'epic_kitchens',
    help='EPIC-Kitchens-100 by its csv files, for verbs or for nouns: parts of videos P01_01.MP4',
    example='--videos=EPIC-KITCHENS --csv train=EPIC_100_train.csv '
    '--csv validation=EPIC_100_validation.csv --label=verb --classes=EPIC_100_verb_classes.csv '
    '--output=data/epic_verbs --short_side=320',
    reader=read_epic_kitchens,
    options=(
        VIDEOS,
        SplitFiles('--csv', 'EPIC_100_train.csv or EPIC_100_validation.csv', to='csv_files'),
        FileOption(
            '--classes', 'EPIC_100_verb_classes.csv or EPIC_100_noun_classes.csv', to='classes_file'
        ),
        Option('--label', 'what the classes are', required=True, choices=('verb', 'noun')),
    ),
)
