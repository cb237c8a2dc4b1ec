"""FineGym (Gym99, Gym288): `gym99_categories.txt`, `gym99_train_element_v1.1.txt`, ...

    Clabel: 0; set: 1; Glabel: 1; (VT) round-off, flic-flac with 0.5 turn on, ...   class
    A0xAXXysHUo_E_002407_002435_A_0003_0005 32                            element, class

An element is seconds 3 to 5 of the event that lasts from 2407 to 2435 s of a YouTube video; its
exact times are in `finegym_annotation_info_v1.1.json`. Some classes have equal names: the second
gets `#2` behind it. https://sdolivia.github.io/FineGym/
"""

from collections.abc import Mapping
import os
import re

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import match_line, read_json, read_lines
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, Option, SplitFiles
from data_pipelines.annotations.labels import classes_in_order, clips_by_split, numbered
from data_pipelines.annotations.locate import VideoFiles

_CLASS = re.compile(r'Clabel:\s*(?P<number>\d+)\s*;(?:[^;]*;)*\s*(?P<name>\S[^;]*)')
_ELEMENT = re.compile(
    r'(?P<video>.{11})_(?P<event>E_(?P<start>\d{6})_\d{6})_(?P<action>A_(?P<first>\d{4})_(?P<last>\d{4}))'
)


def read_finegym(
    categories: str | os.PathLike,
    lists: Mapping[str, str | os.PathLike],
    videos: str | os.PathLike,
    *,
    untrimmed: bool = False,
    times: str | os.PathLike | None = None,
) -> Annotations:
    """Reads the classes and one list per split.

    Args:
      categories: `gym99_categories.txt` or `gym288_categories.txt`.
      lists: split name -> list of elements.
      videos: directory that holds the videos, at any depth: the elements, called as the lists call
        them.
      untrimmed: the files are whole YouTube videos `ID`, of which the elements are parts.
      times: `finegym_annotation_info_v1.1.json`; without, elements are cut at whole seconds.

    Raises:
      ValueError: a file is missing or malformed, a class is not among the categories, or there are
        no videos.
    """
    rows = []
    for where, line in read_lines(categories):
        match = match_line(where, line, _CLASS, 'Clabel: 0; ...; name')
        rows.append((where, match['name'].strip(), int(match['number'])))
    rows.sort(key=lambda row: row[2])
    names = numbered(name for _, name, _ in rows)
    classes = classes_in_order(
        [(where, name, number) for (where, _, number), name in zip(rows, names)], categories
    )
    exact = {} if times is None else read_json(times, dict, 'the times of FineGym')
    files = VideoFiles(videos)

    def clip(where: str, line: str) -> Clip:
        name, _, label = line.rpartition(' ')
        match = _ELEMENT.fullmatch(name.strip())
        if match is None or not label.isdecimal() or int(label) >= len(classes):
            raise ValueError(
                f'{where}: wanted "ELEMENT class" of {len(classes)} classes, got {line[:80]!r}'
            )
        file = files.find(match['video'] if untrimmed else name.strip(), where=where)
        span = _span(match, exact) if untrimmed else (None, None)
        return Clip(file, name.strip(), (int(label),), *span)

    splits = clips_by_split(lists, read_lines, clip, 'element')
    return Annotations(classes, splits, notes=files.notes())


def _span(element: re.Match, exact: Mapping) -> tuple[float, float]:
    """Seconds of an element in its YouTube video."""
    begin, first, last = (int(element[name]) for name in ('start', 'first', 'last'))
    try:
        segments = exact[element['video']][element['event']]['segments']
        first, last = segments[element['action']]['timestamps'][0]
        return begin + float(first), begin + float(last)
    except (KeyError, IndexError, TypeError, ValueError):
        return float(begin + first), float(begin + last)


FORMAT = Format(
    'finegym',
    help='FineGym (Gym99, Gym288) by its categories and lists of elements',
    example='--videos=gym --categories=gym99_categories.txt '
    '--list train=gym99_train_element_v1.1.txt --list validation=gym99_val_element.txt '
    '--output=data/gym99 --short_side=320',
    reader=read_finegym,
    options=(
        VIDEOS,
        FileOption('--categories', 'gym99_categories.txt or gym288_...'),
        SplitFiles('--list', 'gym99_train_element_v1.1.txt or gym99_val_element.txt', to='lists'),
        Option(
            '--untrimmed',
            'the files are whole YouTube videos; cut the elements out of them '
            '(default: the files are the elements)',
            action='store_true',
        ),
        Option(
            '--times',
            'finegym_annotation_info_v1.1.json: exact times of elements of whole videos '
            '(default: whole seconds)',
            metavar='FILE',
        ),
    ),
)
