"""The shards of a split, and where every record lies in them.

A split `NAME` of a dataset is a set of shards `NAME-00000-of-00016` in one directory. Its index
`NAME.index` makes every record reachable by number. Format, version 1: a line of JSON ::

    {"format": "multitrain record index", "version": 1, "records": R,
     "shards": [{"name": ..., "bytes": file size, "records": ...}, ...]}

then R little-endian u64 offsets (of the records' frames, in shard order) and R u64 lengths (of the
data). The stored file sizes tell when an index no longer belongs to its shards.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
import logging
import os
import re
from typing import TypeVar

import numpy as np

from data_pipelines import files
from data_pipelines.storage.sequence_example import RecordError
from data_pipelines.storage.tfrecord import OVERHEAD, framed_size, scan_records

_Parsed = TypeVar('_Parsed')
_KIND, _VERSION = 'record index', 1
SHARD_NAME = re.compile(r'(?P<split>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})')


def shard_name(split: str, number: int, count: int) -> str:
    """Name of shard `number` of `count`: `train-00003-of-00016`."""
    return f'{split}-{number:05d}-of-{count:05d}'


def find_splits(directory: str | os.PathLike) -> dict[str, list[str]]:
    """Names of the shards of every split in a directory, in order.

    Raises:
      ValueError: no such directory, or no shard in it.
    """
    if not files.is_directory(directory):
        raise ValueError(f'{os.fspath(directory)}: no such directory')
    splits: dict[str, list[str]] = {}
    for name in sorted(files.names(directory)):
        match = SHARD_NAME.fullmatch(name)
        if match is not None:
            splits.setdefault(match['split'], []).append(name)
    if not splits:
        raise ValueError(
            f'{os.fspath(directory)}: no records in it (files such as train-00000-of-00016)'
        )
    return splits


def find_shards(directory: str | os.PathLike, split: str) -> list[str]:
    """Names of all shards of a split, in order.

    Raises:
      RecordError: there is none, one is missing, or the files of two different numbers of shards
        lie together.
    """
    directory = os.fspath(directory)
    if not files.is_directory(directory):
        raise RecordError(
            f'{directory}: no such directory (records of {split!r} were looked for in it)'
        )
    found, others = {}, set()
    for name in files.names(directory):
        match = SHARD_NAME.fullmatch(name)
        if match is None:
            continue
        if match['split'] == split:
            found.setdefault(int(match['count']), set()).add(int(match['number']))
        else:
            others.add(match['split'])
    if not found:
        hint = f' (it has {", ".join(sorted(others))})' if others else ''
        raise RecordError(
            f'{directory}: no shards {split}-00000-of-NNNNN of the split {split!r}{hint}'
        )
    if len(found) > 1:
        raise RecordError(
            f'{directory}: shards of {split!r} from different conversions: '
            f'{", ".join(f"of {count}" for count in sorted(found))}; remove the older ones'
        )
    ((count, numbers),) = found.items()
    for number in range(count):
        if number not in numbers:
            raise RecordError(
                f'{files.join(directory, shard_name(split, number, count))}: this shard is missing'
            )
    return [shard_name(split, number, count) for number in range(count)]


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """Where every record of a split lies.

    Attributes:
      shards: names of the files, in order.
      sizes: their sizes in bytes.
      counts: their numbers of records.
      offsets: u64 [R], byte offset of each record's frame in its shard.
      lengths: u64 [R], bytes of data of each record.
    """

    shards: tuple[str, ...]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    offsets: np.ndarray
    lengths: np.ndarray


def build_index(directory: str | os.PathLike, split: str) -> RecordIndex:
    """Builds the index of a split by one pass over the headers of its shards.

    Raises:
      RecordError: a shard is missing, damaged or cut short.
    """
    index = index_files(directory, find_shards(directory, split))
    empty = [name for name, count in zip(index.shards, index.counts) if not count]
    if empty:
        others = f' (and {len(empty) - 1} more)' if len(empty) > 1 else ''
        logging.warning('%s: this shard is empty%s', files.join(directory, empty[0]), others)
    return index


def index_files(
    directory: str | os.PathLike,
    names: Sequence[str],
    on_damage: Callable[[str, int, RecordError], None] | None = None,
) -> RecordIndex:
    """Builds the index of TFRecord files by one pass over their headers.

    Args:
      directory, names: of the files.
      on_damage: called with path, where its sound records end, and the error, of a file that is
        damaged or cut short; None: that is raised.

    Raises:
      RecordError: a file is damaged or cut short.
    """
    sizes, counts, offsets, lengths = [], [], [], []
    for name in names:
        path = files.join(directory, name)
        before, end = len(offsets), 0
        try:
            for offset, length in scan_records(path):
                offsets.append(offset)
                lengths.append(length)
                end = offset + framed_size(length)
        except RecordError as error:
            if on_damage is None:
                raise
            on_damage(path, end, error)
        sizes.append(files.size(path))
        counts.append(len(offsets) - before)
    return RecordIndex(
        tuple(names),
        tuple(sizes),
        tuple(counts),
        np.array(offsets, '<u8'),
        np.array(lengths, '<u8'),
    )


def header_of(kind: str, index: RecordIndex, **counts: int) -> dict:
    """What the first line of an index says, as JSON; `kind`: such as 'record index'."""
    shards = [
        {'name': name, 'bytes': size, 'records': count}
        for name, size, count in zip(index.shards, index.sizes, index.counts)
    ]
    head = {'format': f'multitrain {kind}', 'version': _VERSION, 'records': len(index.offsets)}
    return {**head, **counts, 'shards': shards}


def parse_header(
    kind: str, line: bytes, parse: Callable[[dict], _Parsed], path: str, remedy: str
) -> _Parsed:
    """What `parse` makes of the first line of the index `path`.

    Raises:
      RecordError: it is damaged, or that of another kind or version; names the `remedy`.
    """
    try:
        header = json.loads(line)
        known, version = header['format'] == f'multitrain {kind}', header['version']
        found = parse(header)
    # int(1e999) overflows.
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise RecordError(f'{path}: not a {kind}, or a damaged one; {remedy}') from error
    if not known or version != _VERSION:
        raise RecordError(f'{path}: a {kind} of version {version}, wanted {_VERSION}; {remedy}')
    return found


def by_shard(index: RecordIndex) -> Iterator[RecordIndex]:
    """The index of each shard alone."""
    end = 0
    for name, size, count in zip(index.shards, index.sizes, index.counts):
        begin, end = end, end + count
        yield RecordIndex(
            (name,), (size,), (count,), index.offsets[begin:end], index.lengths[begin:end]
        )


def save_index(directory: str | os.PathLike, split: str, index: RecordIndex) -> None:
    """Writes `NAME.index`, atomically.

    Raises:
      OSError: the directory cannot be written.
    """
    header = json.dumps(header_of(_KIND, index)).encode() + b'\n'
    path = files.join(directory, f'{split}.index')
    files.write_atomically(path, header, index.offsets.tobytes(), index.lengths.tobytes())


def load_index(directory: str | os.PathLike, split: str) -> RecordIndex | None:
    """Reads `NAME.index`; None when there is none.

    Raises:
      RecordError: the index is damaged, of another version, or does not belong to the shards beside
        it.
    """
    path = files.join(directory, f'{split}.index')
    remedy = 'delete it and it is built anew'
    try:
        header_line, _, body = files.read_bytes(path).partition(b'\n')
    except FileNotFoundError:
        return None

    def parse(header: dict) -> tuple[int, list[tuple[str, int, int]]]:
        return int(header['records']), [
            (str(shard['name']), int(shard['bytes']), int(shard['records']))
            for shard in header['shards']
        ]

    count, shards = parse_header(_KIND, header_line, parse, path, remedy)
    if len(body) != 16 * count or sum(records for _, _, records in shards) != count:
        raise RecordError(
            f'{path}: damaged: {len(body)} bytes where {count} records need {16 * count}; {remedy}'
        )
    present = find_shards(directory, split)
    for name in sorted({shard[0] for shard in shards}.symmetric_difference(present)):
        raise RecordError(
            f'{path}: is not the index of these shards: {name} is in only one of them; {remedy}'
        )
    for name, size, _ in shards:
        actual = files.size(files.join(directory, name))
        if actual != size:
            raise RecordError(
                f'{path}: out of date: {name} has {actual} bytes, {size} when it was indexed; '
                f'{remedy}'
            )
    offsets, lengths = np.frombuffer(body, '<u8').reshape(2, count)
    names, sizes, counts = zip(*shards)
    # An entry that points outside its file would ask for memory that the file does not justify.
    limits = np.repeat(np.array(sizes, '<u8'), counts)
    if (
        np.any(offsets > limits)
        or np.any(lengths > limits)
        or np.any(offsets + lengths + OVERHEAD > limits)
    ):
        raise RecordError(f'{path}: damaged: it points past the end of a shard; {remedy}')
    return RecordIndex(names, sizes, counts, offsets, lengths)


def open_index(directory: str | os.PathLike, split: str) -> RecordIndex:
    """The index beside the shards; made, and left there if possible, where there is none."""
    index = load_index(directory, split)
    if index is None:
        index = build_index(directory, split)
        try:
            save_index(directory, split, index)
        except OSError as error:
            logging.warning(
                '%s: the index of %r stays in memory, it cannot be written: %s',
                directory,
                split,
                error,
            )
    return index
