"""Jester and Something-Something V1: folders of images, one list per split.

    100218;Something falling like a feather or a rock       folder of images; class
    Something falling like a feather or a rock              a line of the list of classes

The folders are called by the numbers of the videos and hold 00001.jpg, ..., 12 images a second.
https://www.qualcomm.com/developer/software/jester-dataset
"""

from collections.abc import Mapping
import os

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.class_lists import read_class_list
from data_pipelines.annotations.files import read_lines
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, SplitFiles
from data_pipelines.annotations.labels import clips_by_split
from data_pipelines.annotations.listed_files import ListedFiles

_IMAGES_PER_SECOND = 12.0


def read_twentybn(
    labels: str | os.PathLike, csv_files: Mapping[str, str | os.PathLike], videos: str | os.PathLike
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
    classes = read_class_list(labels).check_different()
    numbers = {name: number for number, name in enumerate(classes.names)}
    files, notes = ListedFiles(os.fspath(videos)), []

    def clip(where: str, line: str) -> Clip:
        video, separator, label = (part.strip() for part in line.partition(';'))
        if label in numbers:
            return Clip(files.find(video, where), video, (numbers[label],))
        if separator:
            raise ValueError(f'{where}: {os.fspath(labels)} has no class {label!r}')
        raise ValueError(
            f'{where}: wanted "video;class", got {line[:80]!r} (a list of a test set?)'
        )

    splits = clips_by_split(csv_files, read_lines, clip)
    for split, clips in splits.items():
        listed = [clip.key.partition('#')[0] for clip in clips]
        notes += files.check_prefix(listed, [clip.path for clip in clips], csv_files[split])
    return Annotations(classes.names, splits, notes=tuple(notes))


FORMATS = tuple(
    Format(
        name,
        help=f'{title} by its labels, train and validation csv: folders of images',
        example=f'--videos=20bn-{file} --labels={file}-labels.csv '
        f'--csv train={file}-train.csv --csv validation={file}-validation.csv --output=data/{name}',
        reader=read_twentybn,
        options=(
            VIDEOS,
            FileOption('--labels', 'the list of classes, NAME-v1-labels.csv'),
            SplitFiles('--csv', 'NAME-v1-train.csv or NAME-v1-validation.csv', to='csv_files'),
        ),
        defaults={'images_per_second': _IMAGES_PER_SECOND},
    )
    for name, title, file in (
        ('jester', 'Jester', 'jester-v1'),
        ('something_v1', 'Something-Something V1', 'something-something-v1'),
    )
)
