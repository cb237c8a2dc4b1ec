"""Diving48: `Diving48_vocab.json`, `Diving48_V2_train.json`, `Diving48_V2_test.json`.

    [["Back", "15som", "05Twis", "FREE"], ...]                              class 0, ...
    [{"vid_name": "8hsDyPMCCXQ_00029", "label": 0, "start_frame": 0, "end_frame": 63}, ...]

Videos are the clips, called `vid_name`. http://www.svcl.ucsd.edu/projects/resound/dataset.html
"""

from collections.abc import Mapping
import os
from typing import Any

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import read_entries, read_json
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, SplitFiles
from data_pipelines.annotations.labels import clips_by_split
from data_pipelines.annotations.locate import VideoFiles


def read_diving48(
    vocabulary: str | os.PathLike,
    json_files: Mapping[str, str | os.PathLike],
    videos: str | os.PathLike,
) -> Annotations:
    """Reads the classes and one list per split.

    Args:
      vocabulary: `Diving48_vocab.json`: the parts of each class's name, which are joined by blanks.
      json_files: split name -> list of videos.
      videos: directory that holds the videos, at any depth.

    Raises:
      ValueError: a file is missing or malformed, a class is not in the vocabulary, or there are no
        videos.
    """
    parts = read_json(vocabulary, list, 'a list of classes')
    if not parts or not all(
        isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        for names in parts
    ):
        raise ValueError(f'{os.fspath(vocabulary)}: wanted a list of lists of names')
    classes = tuple(' '.join(names) for names in parts)
    files = VideoFiles(videos)

    def clip(where: str, entry: Any) -> Clip:
        name, label = (
            (entry.get('vid_name'), entry.get('label')) if isinstance(entry, dict) else ('', '')
        )
        if isinstance(name, str) and name and type(label) is int and 0 <= label < len(classes):
            return Clip(files.find(name, where=where), name, (label,))
        raise ValueError(f'{where}: wanted "vid_name" and a "label" from 0 to {len(classes) - 1}')

    splits = clips_by_split(json_files, read_entries, clip)
    return Annotations(classes, splits, notes=files.notes())


FORMAT = Format(
    'diving48',
    help='Diving48 by its vocabulary, train and test json',
    example='--videos=rgb --vocabulary=Diving48_vocab.json --json train=Diving48_V2_train.json '
    '--json test=Diving48_V2_test.json --output=data/diving48 --short_side=320',
    reader=read_diving48,
    options=(
        VIDEOS,
        FileOption('--vocabulary', 'Diving48_vocab.json'),
        SplitFiles('--json', 'Diving48_V2_train.json or Diving48_V2_test.json', to='json_files'),
    ),
)
