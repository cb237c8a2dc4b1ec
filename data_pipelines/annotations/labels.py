"""Classes and keys of clips: numbered the same in every split and on every run."""

import collections
from collections.abc import Iterable, Mapping
import dataclasses

from data_pipelines.annotations import Clip


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


def classes_in_order(
    rows: Iterable[tuple[str, str, int]], *, first: int, path: str
) -> tuple[str, ...]:
    """The classes of a file that numbers them.

    Args:
      rows: (place in the file, class name, number), in any order.
      first: the number of the first class.
      path: the file.

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
        raise ValueError(f'{path}: no class in it')
    wanted = range(first, first + len(names))
    for number in wanted:
        if number not in names:
            raise ValueError(
                f'{path}: names {len(names)} classes, but none of them has the number {number}'
            )
    return tuple(names[number] for number in wanted)


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
    """Names of which no two are equal: where one occurs again,
    it gets `#2`, `#3`, ... behind it.
    """
    seen: collections.Counter[str] = collections.Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f'{name}#{seen[name]}')
    return unique
