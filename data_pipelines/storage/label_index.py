"""The class numbers of every record of a split, for what must know them before any record is read.

`NAME.labels`, beside `NAME.index`, is made when it is first asked for. Format, version 1: a line of
JSON ::

    {"format": "multitrain label index", "version": 1, "records": R, "labels": L,
     "shards": [as in NAME.index]}

then, little-endian, R u32, the number of labels of each record, and L u32, the labels.
"""

from collections.abc import Callable, Iterable, Sequence
import json
import logging
import os
from typing import NamedTuple

import numpy as np

from data_pipelines import files
from data_pipelines.storage.record_index import RecordIndex, header_of

_KIND = 'label index'
_NUMBER = np.dtype('<u4')


class RecordLabels(NamedTuple):
    """Labels of R records.

    Attributes:
      counts: u32[R], how many each has.
      labels: u32[L], one record's after the other's.
    """

    counts: np.ndarray
    labels: np.ndarray


def label_index_path(directory: str | os.PathLike, split: str) -> str:
    """Where the labels of a split's records lie."""
    return files.join(directory, f'{split}.labels')


def collect(labels: Iterable[Sequence[int]]) -> RecordLabels:
    """The labels of records, of each a sequence."""
    labels = list(labels)
    counts = np.array([len(own) for own in labels], _NUMBER)
    return RecordLabels(counts, np.array([label for own in labels for label in own], _NUMBER))


def record_labels(
    directory: str | os.PathLike,
    split: str,
    index: RecordIndex,
    read: Callable[[int], Sequence[int]],
) -> RecordLabels:
    """What `NAME.labels` says; where it is missing or of other records, it is made.

    Args:
      directory, split: of the records.
      index: of them.
      read: number of a record -> its labels; of a damaged one, none.
    """
    path = label_index_path(directory, split)
    found = _load(path, index)
    if found is not None:
        return found
    logging.info('%s: reading the labels of %d records', path, len(index.offsets))
    found = collect(map(read, range(len(index.offsets))))
    try:
        header = json.dumps(header_of(_KIND, index, labels=len(found.labels))).encode() + b'\n'
        files.write_atomically(path, header, found.counts.tobytes(), found.labels.tobytes())
    except OSError as error:
        logging.warning('%s: cannot be written, it stays in memory: %s', path, error)
    return found


def _load(path: str, index: RecordIndex) -> RecordLabels | None:
    try:
        line, _, body = files.read_bytes(path).partition(b'\n')
        header, records = json.loads(line), len(index.offsets)
        numbers = np.frombuffer(body, _NUMBER)
        found = RecordLabels(numbers[:records], numbers[records:])
        whole = len(found.counts) == records and found.counts.sum() == len(found.labels)
        fits = header == header_of(_KIND, index, labels=len(found.labels))
        return found if whole and fits else None
    except (FileNotFoundError, ValueError, RecursionError):
        return None
