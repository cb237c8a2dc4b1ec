"""Classes and keys of clips: numbered the same in every split and on every run."""

import collections
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import os
import re
from typing import TypeVar

from data_pipelines.annotations import Clip
from data_pipelines.annotations.files import match_line, parsed, read_lines

_Line = TypeVar('_Line')


def check_same_classes(classes: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """The classes, sorted, of formats that have no list of them.

    Args:
      classes: what they are read from (file, subset) -> the classes found there.

    Raises:
      ValueError: a class is found in only one of two places.
    """
    found = {place: set(names) for place, names in classes.items()}
    first = next(iter(found))
    for other in found:
        different = sorted(found[first] ^ found[other])
        if different:
            has, lacks = (first, other) if different[0] in found[first] else (other, first)
            raise ValueError(
                f'{lacks}: no clip of the class {different[0]!r}, which {has} has '
                f'({len(different)} such classes); all splits need the same ones'
            )
    return tuple(sorted(found[first]))


def numbered_classes(
    path: str | os.PathLike, pattern: re.Pattern, wanted: str, *, first: int = 0
) -> tuple[str, ...]:
    """The classes of a file with a class and its number on each line.

    Args:
      path: the file.
      pattern: of a line, with the groups `name` and `number`.
      wanted: what a line should be, for the error.
      first: the number of the first class.

    Raises:
      ValueError: as `classes_in_order`, or a line has another form.
    """
    lines = [(where, match_line(where, line, pattern, wanted)) for where, line in read_lines(path)]
    rows = [(where, match['name'].strip(), int(match['number'])) for where, match in lines]
    return classes_in_order(rows, path, first=first)


def classes_in_order(
    rows: Iterable[tuple[str, str, int]], path: str | os.PathLike, *, first: int = 0
) -> tuple[str, ...]:
    """The classes of a file that numbers them.

    Args:
      rows: (place in the file, class name, number), in any order.
      path: the file.
      first: the number of the first class.

    Raises:
      ValueError: the file is empty, a name or a number occurs twice, or a number is missing.
    """
    names: dict[int, str] = {}
    for where, name, number in rows:
        if not name:
            raise ValueError(f'{where}: no class name')
        if number in names:
            raise ValueError(f'{where}: number {number} is given to {names[number]!r} already')
        if name in names.values():
            raise ValueError(f'{where}: {name!r} is listed twice')
        names[number] = name
    if not names:
        raise ValueError(f'{os.fspath(path)}: no class in it')
    wanted = range(first, first + len(names))
    for number in wanted:
        if number not in names:
            raise ValueError(
                f'{os.fspath(path)}: names {len(names)} classes, but none of them has the number '
                f'{number}'
            )
    return tuple(names[number] for number in wanted)


def clips_by_split(
    lists: Mapping[str, str | os.PathLike],
    read: Callable[[str | os.PathLike], Iterable[tuple[str, _Line]]],
    clip: Callable[[str, _Line], Clip],
    what: str = 'video',
) -> dict[str, tuple[Clip, ...]]:
    """The clips of formats that have a list for each split.

    Args:
      lists: split name -> list.
      read: list -> (place, content) of each of its lines.
      clip: place and content -> the clip.
      what: what a list names, for the error.

    Raises:
      ValueError: a list is empty, or `read` or `clip` refuse it.
    """
    splits = {}
    for split, path in lists.items():
        splits[split] = with_unique_keys(parsed(read(path), clip))
        if not splits[split]:
            raise ValueError(f'{os.fspath(path)}: no {what} in it')
    return splits


def with_unique_keys(clips: Iterable[Clip]) -> tuple[Clip, ...]:
    """The clips of a split; where a key occurs again, it gets `#2`, `#3`, ... behind it.

    So that every line of an official list is one clip, also of those that list a video twice.
    """
    clips = list(clips)
    return tuple(
        clip if clip.key == key else dataclasses.replace(clip, key=key)
        for clip, key in zip(clips, numbered(clip.key for clip in clips))
    )


def numbered(names: Iterable[str]) -> list[str]:
    """Names of which no two are equal: one that occurs again gets `#2`, `#3`, ... behind it."""
    seen: collections.Counter[str] = collections.Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f'{name}#{seen[name]}')
    return unique
