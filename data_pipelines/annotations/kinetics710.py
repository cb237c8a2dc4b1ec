"""Kinetics-710: Kinetics-400, -600 and -700 as one dataset, by their csv files (see `kinetics`).

Classes are merged by name, each YouTube video is taken once, and none that any of the three tests
or validates on is trained on (UniFormerV2, arXiv 2211.09552, section 4.1). Each of the three keeps
its own validation split, `validation_NAME`; the classes of each among those of all are stored as
`label_maps` in `dataset.json`.
"""

import collections
from collections.abc import Mapping, Sequence
import os
import re

from data_pipelines.annotations import Annotations
from data_pipelines.annotations.format import VIDEOS, Format, Option
from data_pipelines.annotations.kinetics import Row, find_clip, read_rows
from data_pipelines.annotations.labels import with_unique_keys
from data_pipelines.annotations.locate import VideoFiles

_SPLITS = ('train', 'validation', 'test')


def read_kinetics710(
    csv_files: Mapping[str, Mapping[str, str | os.PathLike]],
    videos: str | os.PathLike,
    *,
    untrimmed: bool = False,
) -> Annotations:
    """Reads the csv files of several Kinetics.

    Of a video that several list for training, clip and label of the last are taken whose file is
    there: give the newest last.

    Args:
      csv_files: name -> {'train': file, 'validation': file, 'test': file}; the latter two may be
        missing, a test list needs no labels and gives no clips.
      videos: directory that holds the videos of all, at any depth.
      untrimmed: the files are whole YouTube videos `ID`.

    Returns:
      Splits `train` and `validation_NAME`; `details['label_maps']` has, by name, the number of each
      of its own classes among those of all.

    Raises:
      ValueError: a file is missing or malformed, or there are no videos.
    """
    rows: dict[str, dict[str, list[Row]]] = {
        name: {split: read_rows(path, labelled=split != 'test') for split, path in own.items()}
        for name, own in csv_files.items()
    }
    names: dict[str, str] = {}  # as it is compared -> as the last list writes it
    own_classes = {
        name: sorted({row.label for split, r in own.items() if split != 'test' for row in r})
        for name, own in rows.items()
    }
    for classes in own_classes.values():
        names.update((_alike(label), label) for label in classes)
    order = sorted(names)
    number_of = {name: number for number, name in enumerate(order)}
    held_out = {
        row.video for own in rows.values() for s, r in own.items() if s != 'train' for row in r
    }
    files = VideoFiles(videos)
    train: dict[str, Row] = {}
    listed, left_out = 0, set()
    for own in rows.values():
        for row in own.get('train', ()):
            listed += 1
            if row.video in held_out:
                left_out.add(row.video)
            elif row.video not in train or untrimmed or row.name in files:
                train[row.video] = row
    if not train:
        raise ValueError('no video is left to train on: are the train lists among the files?')
    wanted = {'train': list(train.values())}
    for name, own in rows.items():
        if 'validation' in own:
            wanted[f'validation_{name}'] = own['validation']
    per_video = collections.Counter(
        row.video for row in {row.name: row for own in wanted.values() for row in own}.values()
    )
    splits = {
        split: with_unique_keys(
            find_clip(row, number_of[_alike(row.label)], files, per_video, untrimmed) for row in own
        )
        for split, own in wanted.items()
    }
    note = (
        f'{len(names)} classes of {" + ".join(str(len(c)) for c in own_classes.values())}; '
        f'{listed} training clips listed, {len(train)} videos taken, {len(left_out)} left out '
        'because a validation or test split has them'
    )
    return Annotations(
        tuple(names[name] for name in order),
        splits,
        details={
            'label_maps': {
                name: {label: number_of[_alike(label)] for label in classes}
                for name, classes in own_classes.items()
            }
        },
        notes=(note, *files.notes()),
    )


def _alike(label: str) -> str:
    """A class name as it is compared: the lists differ in capitals, quotes and blanks."""
    return ' '.join(re.sub(r'["_]', ' ', label).lower().split())


def _files(flag: str, values: Sequence[str]) -> dict[str, dict[str, str]]:
    """The values `NAME:SPLIT=FILE` of an option."""
    found: dict[str, dict[str, str]] = {}
    for value in values:
        place, _, path = value.partition('=')
        name, _, split = place.partition(':')
        if not name or split not in _SPLITS or not path:
            raise ValueError(
                f'{flag}={value}: wanted NAME:SPLIT=FILE, SPLIT one of {", ".join(_SPLITS)}, for '
                f'example {flag} kinetics400:train=train.csv'
            )
        if split in found.setdefault(name, {}):
            raise ValueError(f'{flag}={value}: {name}:{split} is given twice')
        found[name][split] = path
    return found


FORMAT = Format(
    'kinetics710',
    help='Kinetics-400, -600 and -700 as one dataset, videos once, no test video trained on',
    example='--videos=kinetics '
    + ' '.join(
        f'--csv kinetics{n}:{split}=k{n}/{split}.csv'
        for n in (400, 600, 700)
        for split in ('train', 'validation', 'test')
    )
    + ' --output=data/kinetics710 --short_side=320',
    reader=read_kinetics710,
    options=(
        VIDEOS,
        Option(
            '--csv',
            'the csv file of a train, validation or test split of one Kinetics, the newest last; '
            'to be repeated',
            to='csv_files',
            parse=_files,
            action='append',
            required=True,
            metavar='NAME:SPLIT=FILE',
        ),
        Option(
            '--untrimmed',
            'the files are whole YouTube videos; cut the clips out of them',
            action='store_true',
        ),
    ),
)
