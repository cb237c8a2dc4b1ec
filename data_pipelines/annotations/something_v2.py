"""Something-Something V2: `labels.json`, `train.json`, `validation.json`, `test-answers.csv`.

    {"Holding something next to something": "52", ...}                          template: number
    [{"id": "78687", "label": "holding potato next to vicks vaporub bottle",
      "template": "Holding [something] next to [something]", "placeholders": ["potato", ...]}, ...]
    1420;Throwing something                                                     id;template

Videos are called `ID.webm`.
https://www.qualcomm.com/developer/software/something-something-v-2-dataset
"""

import argparse
from collections.abc import Iterator, Mapping
import os

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import read_json, read_lines
from data_pipelines.annotations.format import (
    Format,
    add_files_by_split,
    add_videos,
    files_by_split,
)
from data_pipelines.annotations.labels import classes_in_order, with_unique_keys
from data_pipelines.annotations.locate import VideoFiles


def read_something_v2(
    labels: str | os.PathLike,
    annotation_files: Mapping[str, str | os.PathLike],
    videos: str | os.PathLike,
) -> Annotations:
    """Reads the label map and one file per split.

    Args:
      labels: `labels.json`, whose numbers the classes have; class names are its templates.
      annotation_files: split name -> `train.json`, `validation.json` or `test-answers.csv`.
      videos: directory that holds the videos, at any depth.

    Raises:
      ValueError: a file is missing or malformed, a template is not in `labels`, or there are no
        videos.
    """
    classes = _read_labels(os.fspath(labels))
    numbers = {name: number for number, name in enumerate(classes)}
    files = VideoFiles(videos)
    splits = {}
    for split, path in annotation_files.items():
        path = os.fspath(path)
        read_rows = _read_answers if path.endswith('.csv') else _read_videos
        clips = []
        for where, video, template in read_rows(path):
            if template not in numbers:
                raise ValueError(f'{where}: {os.fspath(labels)} has no class {template!r}')
            file = files.find(video, where=where)
            clips.append(Clip(file, video, (numbers[template],)))
        if not clips:
            raise ValueError(f'{path}: no video in it')
        splits[split] = with_unique_keys(clips)
    return Annotations(classes, splits, notes=files.notes())


def _read_labels(path: str) -> tuple[str, ...]:
    rows = []
    for template, number in read_json(path, dict, 'an object {template: number}').items():
        where = f'{path}, {template!r}'
        if not str(number).isdecimal():
            raise ValueError(f'{where}: wanted a class number, got {str(number)[:80]!r}')
        rows.append((where, template, int(number)))
    return classes_in_order(rows, first=0, path=path)


def _read_videos(path: str) -> Iterator[tuple[str, str, str]]:
    """Yields (place, video, template as in `labels.json`) of train.json and validation.json."""
    for number, entry in enumerate(read_json(path, list, 'a list of videos'), start=1):
        where = f'{path}, entry {number}'
        if not isinstance(entry, dict) or type(entry.get('id')) not in (str, int):
            raise ValueError(f'{where}: wanted an object with "id" and "template"')
        template = entry.get('template')
        if not isinstance(template, str):
            raise ValueError(
                f'{where}: no "template"; the labels of the test set are in test-answers.csv'
            )
        yield where, str(entry['id']), template.replace('[', '').replace(']', '')


def _read_answers(path: str) -> Iterator[tuple[str, str, str]]:
    """Yields (place, video, template) of test-answers.csv."""
    for where, line in read_lines(path):
        video, separator, template = line.partition(';')
        if not separator:
            raise ValueError(f'{where}: wanted "id;template", got {line[:80]!r}')
        yield where, video.strip(), template.strip()


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_videos(parser)
    parser.add_argument('--labels', required=True, metavar='FILE', help='labels.json')
    add_files_by_split(parser, '--annotations', 'train.json, validation.json or test-answers.csv')


FORMAT = Format(
    'something_v2',
    help='Something-Something V2 by its labels.json, train.json and validation.json',
    example='--videos=20bn-something-something-v2 --labels=labels.json '
    '--annotations train=train.json --annotations validation=validation.json '
    '--output=data/something_v2',
    add_arguments=_add_arguments,
    read=lambda args: read_something_v2(
        args.labels, files_by_split('--annotations', args.annotations), args.videos
    ),
)
