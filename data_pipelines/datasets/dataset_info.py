"""`dataset.json`: what a directory of records holds. The converter writes it."""

from collections.abc import Mapping
import dataclasses
import json
import math
import os
from typing import Any

from data_pipelines import files
from data_pipelines.settings import check_name

FILE_NAME = 'dataset.json'
_FORMAT = 'multitrain dataset'
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """One split of a dataset.

    Attributes:
      records: clips in it.
      shards: files `SPLIT-NNNNN-of-NNNNN` that hold them.
      class_counts: clips of each class, in the order of `DatasetInfo.classes`.
      failures: (file, reason) of each video that could not be converted.
      damaged: (file, what is lost) of each video that was converted in part.
      box_counts: of a localisation dataset, boxes with each action (a person counts once for each).
      small: clips of videos that are smaller than the short side asked for, stored as they are.
    """

    records: int
    shards: int
    class_counts: tuple[int, ...]
    failures: tuple[tuple[str, str], ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    box_counts: tuple[int, ...] | None = None
    small: int = 0


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """A directory of records.

    Attributes:
      name: the dataset's name.
      classes: class names; a class's number is its place, equal for every split.
      multi_label: whether a clip may carry several classes.
      localisation: whether records have a key frame with boxes (`regions.py`); the classes are
        those of the boxes.
      splits: split name -> SplitInfo.
      frame_rate: stored frames per second; None when each video keeps its own (see each record).
      arguments: how the converter was called.
    """

    name: str
    classes: tuple[str, ...]
    multi_label: bool
    splits: Mapping[str, SplitInfo]
    frame_rate: float | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    localisation: bool = False


def save_dataset_info(directory: str | os.PathLike, info: DatasetInfo) -> None:
    """Writes `dataset.json` into `directory`, atomically.

    Raises:
      ValueError: the class counts of a split do not match the classes.
    """
    _check(info, directory)
    content = {'format': _FORMAT, 'version': _VERSION, **dataclasses.asdict(info)}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    # A file name that is no UTF-8 holds surrogates; replaced so, they are JSON's own escapes.
    encoded = text.encode(errors='backslashreplace')
    files.write_atomically(files.join(directory, FILE_NAME), encoded + b'\n')


def load_dataset_info(directory: str | os.PathLike) -> DatasetInfo:
    """Reads `dataset.json` from `directory`.

    Raises:
      ValueError: there is none, or it is not one that this version can read.
    """
    path = files.join(directory, FILE_NAME)
    try:
        text = files.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f'{directory}: no {FILE_NAME} here; convert videos with "python -m '
            'data_pipelines.convert", or give the directory that it wrote'
        ) from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not JSON: {error}') from error
    if (
        not isinstance(content, dict)
        or content.get('format') != _FORMAT
        or content.get('version') != _VERSION
    ):
        raise ValueError(
            f'{path}: not a dataset description of version {_VERSION}; convert the videos again'
        )
    try:
        info = DatasetInfo(
            name=_of_type(content, 'name', str),
            classes=_names(content, 'classes'),
            multi_label=_of_type(content, 'multi_label', bool),
            splits={
                name: _split(split) for name, split in _of_type(content, 'splits', dict).items()
            },
            frame_rate=_frame_rate(content),
            arguments=_of_type(content, 'arguments', dict),
            # Earlier files do not have it.
            localisation=_of_type({'localisation': False, **content}, 'localisation', bool),
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = f'no {error}' if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f'{path}: damaged dataset description ({reason}); convert the videos again'
        ) from error
    _check(info, directory)
    return info


def _split(content: Mapping[str, Any]) -> SplitInfo:
    if not isinstance(content, dict):
        raise TypeError(f'a split is {content!r:.40}')
    box_counts = content.get('box_counts')  # earlier files do not have it
    return SplitInfo(
        records=_count(content['records'], 'records'),
        shards=_count(content['shards'], 'shards'),
        class_counts=_counts(content, 'class_counts'),
        failures=_pairs(content, 'failures'),
        damaged=_pairs(content, 'damaged'),
        box_counts=None if box_counts is None else _counts(content, 'box_counts'),
        small=_count(content.get('small', 0), 'small'),  # nor this
    )


def _of_type(content: Mapping[str, Any], key: str, kind: type) -> Any:
    if not isinstance(content[key], kind):
        raise TypeError(f'{key} is {content[key]!r:.40}, wanted {kind.__name__}')
    return content[key]


def _names(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = tuple(_of_type(content, key, list))
    if not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f'{key} is {content[key]!r:.40}, wanted names')
    for name in names:
        check_name('class', name)
    return names


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f'{what} is {value!r:.40}, wanted a whole number')
    return value


def _counts(content: Mapping[str, Any], key: str) -> tuple[int, ...]:
    return tuple(_count(value, f'one of {key}') for value in _of_type(content, key, list))


def _pairs(content: Mapping[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    pairs = _of_type(content, key, list)
    if not all(
        isinstance(pair, list) and [type(part) for part in pair] == [str, str] for pair in pairs
    ):
        raise TypeError(f'{key} is {pairs!r:.40}, wanted pairs of a file and a text')
    return tuple((file, text) for file, text in pairs)


def _frame_rate(content: Mapping[str, Any]) -> float | None:
    rate = content['frame_rate']
    if rate is not None and not (type(rate) in (int, float) and 0 < rate < math.inf):
        raise TypeError(f'frame_rate is {rate!r:.40}, wanted frames per second')
    return rate


def _check(info: DatasetInfo, directory: str | os.PathLike) -> None:
    if len(set(info.classes)) != len(info.classes):
        raise ValueError(f'{directory}: {FILE_NAME} names a class twice')
    for name, split in info.splits.items():
        for counts in (split.class_counts, split.box_counts):
            if counts is not None and len(counts) != len(info.classes):
                raise ValueError(
                    f'{directory}: {FILE_NAME} counts {len(counts)} classes in the split '
                    f'{name!r}, but names {len(info.classes)}'
                )
