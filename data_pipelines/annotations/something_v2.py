"""Something-Something V2: `labels.json`, `train.json`, `validation.json`, `test-answers.csv`.

    {"Holding something next to something": "52", ...}                          template: number
    [{"id": "78687", "label": "holding potato next to vicks vaporub bottle",
      "template": "Holding [something] next to [something]", "placeholders": ["potato", ...]}, ...]
    1420;Throwing something                                                     id;template

Videos are called `ID.webm`.
https://www.qualcomm.com/developer/software/something-something-v-2-dataset
"""

from collections.abc import Callable, Iterator, Mapping
import os
import re
from typing import Any

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import match_line, read_entries, read_json, read_lines
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, SplitFiles
from data_pipelines.annotations.labels import classes_in_order, clips_by_split
from data_pipelines.annotations.locate import VideoFiles

_ANSWER = re.compile(r'([^;]*);(.*)')


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

    def clip(where: str, found: tuple[Callable, Any]) -> Clip:
        parse, entry = found
        video, template = parse(where, entry)
        if template not in numbers:
            raise ValueError(f'{where}: {os.fspath(labels)} has no class {template!r}')
        return Clip(files.find(video, where=where), video, (numbers[template],))

    splits = clips_by_split(annotation_files, _read_list, clip)
    return Annotations(classes, splits, notes=files.notes())


def _read_labels(path: str) -> tuple[str, ...]:
    rows = []
    for template, number in read_json(path, dict, 'an object {template: number}').items():
        where = f'{path}, {template!r}'
        if not str(number).isdecimal():
            raise ValueError(f'{where}: wanted a class number, got {str(number)[:80]!r}')
        rows.append((where, template, int(number)))
    return classes_in_order(rows, path)


def _read_list(path: str | os.PathLike) -> Iterator[tuple[str, tuple[Callable, Any]]]:
    """Yields (place, (what gives video and template, entry))."""
    is_csv = os.fspath(path).endswith('.csv')
    read, parse = (read_lines, _answer) if is_csv else (read_entries, _video)
    return ((where, (parse, entry)) for where, entry in read(path))


def _answer(where: str, line: str) -> tuple[str, str]:
    """Video and template of a line of test-answers.csv."""
    video, template = match_line(where, line, _ANSWER, 'id;template').groups()
    return video.strip(), template.strip()


def _video(where: str, entry: Any) -> tuple[str, str]:
    """Video and template, as in `labels.json`, of an entry of train.json or validation.json."""
    if not isinstance(entry, dict) or type(entry.get('id')) not in (str, int):
        raise ValueError(f'{where}: wanted an object with "id" and "template"')
    template = entry.get('template')
    if not isinstance(template, str):
        raise ValueError(
            f'{where}: no "template"; the labels of the test set are in test-answers.csv'
        )
    return str(entry['id']), template.replace('[', '').replace(']', '')


FORMAT = Format(
    'something_v2',
    help='Something-Something V2 by its labels.json, train.json and validation.json',
    example='--videos=20bn-something-something-v2 --labels=labels.json '
    '--annotations train=train.json --annotations validation=validation.json '
    '--output=data/something_v2',
    reader=read_something_v2,
    options=(
        VIDEOS,
        FileOption('--labels', 'labels.json'),
        SplitFiles(
            '--annotations',
            'train.json, validation.json or test-answers.csv',
            to='annotation_files',
        ),
    ),
)
