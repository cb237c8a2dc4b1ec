"""FineGym (Gym99, Gym288): `gym99_categories.txt`, `gym99_train_element_v1.1.txt`, ...

    Clabel: 0; set: 1; Glabel: 1; (VT) round-off, flic-flac with 0.5 turn on, ...   class
    A0xAXXysHUo_E_002407_002435_A_0003_0005 32                            element, class

An element is seconds 3 to 5 of the event that lasts from 2407 to 2435 s of a YouTube video; its
exact times are in `finegym_annotation_info_v1.1.json`. Some classes have equal names: the second
gets `#2` behind it. https://sdolivia.github.io/FineGym/
"""

import argparse
from collections.abc import Mapping
import os
import re

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import Mistakes, read_json, read_lines
from data_pipelines.annotations.format import (
    Format,
    add_files_by_split,
    add_videos,
    files_by_split,
)
from data_pipelines.annotations.labels import classes_in_order, numbered, with_unique_keys
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
        match = _CLASS.fullmatch(line)
        if match is None:
            raise ValueError(f'{where}: wanted "Clabel: 0; ...; name", got {line[:80]!r}')
        rows.append((where, match['name'].strip(), int(match['number'])))
    names = numbered(name for _, name, _ in sorted(rows, key=lambda row: row[2]))
    rows = [(w, name, n) for (w, _, n), name in zip(sorted(rows, key=lambda row: row[2]), names)]
    classes = classes_in_order(rows, first=0, path=os.fspath(categories))
    exact = {} if times is None else read_json(times, dict, 'the times of FineGym')
    files, splits = VideoFiles(videos), {}
    for split, path in lists.items():
        clips, mistakes = [], Mistakes()
        for where, line in read_lines(path):
            name, _, label = line.rpartition(' ')
            match = _ELEMENT.fullmatch(name.strip())
            if match is None or not label.isdecimal() or int(label) >= len(classes):
                error = (
                    f'{where}: wanted "ELEMENT class" of {len(classes)} classes, got {line[:80]!r}'
                )
                mistakes.add(ValueError(error), where)
                continue
            start = end = None
            if untrimmed:
                start, end = _span(match, exact)
            file = files.find(match['video'] if untrimmed else name.strip(), where=where)
            clips.append(Clip(file, name.strip(), (int(label),), start, end))
        mistakes.check()
        if not clips:
            raise ValueError(f'{os.fspath(path)}: no element in it')
        splits[split] = with_unique_keys(clips)
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


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_videos(parser)
    parser.add_argument(
        '--categories', required=True, metavar='FILE', help='gym99_categories.txt or gym288_...'
    )
    add_files_by_split(parser, '--list', 'gym99_train_element_v1.1.txt or gym99_val_element.txt')
    parser.add_argument(
        '--untrimmed',
        action='store_true',
        help='the files are whole YouTube videos; cut the elements out of them '
        '(default: the files are the elements)',
    )
    parser.add_argument(
        '--times',
        metavar='FILE',
        help='finegym_annotation_info_v1.1.json: exact times of elements of whole videos '
        '(default: whole seconds)',
    )


FORMAT = Format(
    'finegym',
    help='FineGym (Gym99, Gym288) by its categories and lists of elements',
    example='--videos=gym --categories=gym99_categories.txt '
    '--list train=gym99_train_element_v1.1.txt --list validation=gym99_val_element.txt '
    '--output=data/gym99 --short_side=320',
    add_arguments=_add_arguments,
    read=lambda args: read_finegym(
        args.categories,
        files_by_split('--list', args.list),
        args.videos,
        untrimmed=args.untrimmed,
        times=args.times,
    ),
)
