"""HMDB51: a directory of `CLASS_test_splitN.txt` files, one per class and fold (N is 1, 2 or 3).

    April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1

where 1 is training, 2 testing, 0 neither.
https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database
"""

import os
import re

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import match_line, read_lines
from data_pipelines.annotations.format import VIDEOS, Format, Option
from data_pipelines.annotations.labels import with_unique_keys
from data_pipelines.annotations.locate import VideoFiles

_FILE = re.compile(r'(?P<label>.+)_test_split(?P<fold>\d+)\.txt')
_LINE = re.compile(r'(?P<video>\S.*?)\s+(?P<use>[012])')
_SPLITS = {'1': 'train', '2': 'test'}


def read_hmdb51(
    splits_directory: str | os.PathLike, videos: str | os.PathLike, fold: int = 1
) -> Annotations:
    """Reads the splits `train` and `test` of one fold. Classes are sorted.

    Args:
      splits_directory: where the `CLASS_test_splitN.txt` are (`testTrainMulti_7030_splits`).
      videos: directory that holds the videos, at any depth.
      fold: 1, 2 or 3.

    Raises:
      ValueError: no such files, a malformed line, or there are no videos.
    """
    splits_directory = os.fspath(splits_directory)
    if not os.path.isdir(splits_directory):
        raise ValueError(f'{splits_directory}: no such directory of CLASS_test_split{fold}.txt')
    lists = {}
    for name in sorted(os.listdir(splits_directory)):
        match = _FILE.fullmatch(name)
        if match and int(match['fold']) == fold:
            lists[match['label']] = os.path.join(splits_directory, name)
    if not lists:
        raise ValueError(f'{splits_directory}: no file CLASS_test_split{fold}.txt in it')
    classes = tuple(sorted(lists))
    files = VideoFiles(videos, classes)
    splits: dict[str, list[Clip]] = {split: [] for split in _SPLITS.values()}
    for label, name in enumerate(classes):
        for where, line in read_lines(lists[name]):
            match = match_line(where, line, _LINE, 'video 0|1|2')
            if match['use'] in _SPLITS:
                key = f'{name}/{match["video"]}'
                stem, suffix = os.path.splitext(key)
                path = files.find(stem, suffix=suffix, where=where)
                splits[_SPLITS[match['use']]].append(Clip(path, key, (label,)))
    splits = {split: with_unique_keys(clips) for split, clips in splits.items()}
    return Annotations(classes, splits, notes=files.notes())


FORMAT = Format(
    'hmdb51',
    help='HMDB51 by its files CLASS_test_splitN.txt',
    example='--videos=hmdb51_org --splits=testTrainMulti_7030_splits --fold=1 '
    '--output=data/hmdb51_fold1',
    reader=read_hmdb51,
    options=(
        VIDEOS,
        Option(
            '--splits',
            'testTrainMulti_7030_splits',
            to='splits_directory',
            required=True,
            metavar='DIR',
        ),
        Option('--fold', 'which split (default: 1)', type=int, choices=(1, 2, 3), default=1),
    ),
)
