"""What a frozen backbone makes of clips that are not augmented: computed once, kept on disk.

A folder holds the tokens of one split of one dataset. Its name is the dataset's and a digest of all
that the tokens follow from: weights, architecture, preprocessing, views, files of the dataset.
Whatever of it changes, the old folder is not found any more. A folder that was not finished is gone
on with. Features are float16.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import re
from typing import Any

import numpy as np

from multitrain_jax.atomic import complete_or_absent
from multitrain_jax.errors import UserError

_SETTINGS, _PROGRESS = 'settings.json', 'progress.json'
_GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Features:
    """Tokens of the views of one split.

    Attributes:
        tokens: f16[records * views, L, D], on disk.
        labels: i32[records], or f32[records, C] where a video may have several.
        present: bool[records]; a damaged record is left out.
        views: of each record.
    """

    tokens: np.ndarray
    labels: np.ndarray
    present: np.ndarray
    views: int


def digest(content: Mapping[str, Any]) -> str:
    """Of plain data, whose order does not matter."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def files_of(path: str) -> list[tuple[str, int, int]]:
    """(name, bytes, nanoseconds of the last change) of a dataset's files; [] where it is none."""
    if not os.path.isdir(path):
        return []
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    return [
        (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
        for entry in entries
        if entry.is_file()
    ]


def cached(
    root: str | os.PathLike,
    name: str,
    settings: Mapping[str, Any],
    *,
    shape: tuple[int, int, int, int],
    labels: tuple[tuple[int, ...], str],
    batches: Callable[[], Iterable[Mapping[str, np.ndarray]]],
    compute: Callable[[np.ndarray], np.ndarray],
    most_gib: float,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Features:
    """The features of one split: those on disk, and the missing ones, which are added there.

    Args:
        root: directory of all features.
        name: of dataset and split.
        settings: all that the features follow from.
        shape: records, views, tokens, width.
        labels: shape of one record's, and type.
        batches: of the split, in an order that does not change: video, label, record, view, weight.
        compute: video -> tokens [B, L, D].
        most_gib: that everything in `root` may take.
        report: gets the rows that are done, and all.

    Raises:
        UserError: there is no room, or features are not finite.
    """
    root = Path(root).expanduser()
    key = digest(settings)
    folder = root / f'{re.sub(r"[^A-Za-z0-9_.-]", "_", name)}-{key[:16]}'
    records, views, *size = shape
    rows = records * views
    _check_room(root, folder, 2 * rows * size[0] * size[1], most_gib)
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / _SETTINGS
    if described.exists() and json.loads(described.read_text())['digest'] != key:
        raise UserError(f'{folder}: holds features of other settings; remove it')
    described.write_text(json.dumps({'digest': key, **settings}, indent=1, default=str) + '\n')
    arrays = {
        'tokens': _array(folder / 'tokens.npy', (rows, *size), np.float16),
        'labels': _array(folder / 'labels.npy', (records, *labels[0]), labels[1]),
        'present': _array(folder / 'present.npy', (records,), bool),
    }
    features = Features(**arrays, views=views)
    done = _done(folder)
    if done is None:
        return features
    for number, batch in enumerate(batches()):
        if number < done:
            continue
        tokens = np.asarray(compute(batch['video']), np.float16)
        if not np.isfinite(tokens).all():
            raise UserError(f'{name}: features are not finite, or above 65504')
        rows_of = batch['record'] * views + batch['view']
        for row, (place, weight) in enumerate(zip(rows_of, batch['weight'])):
            if weight > 0:
                features.tokens[place] = tokens[row]
                record = batch['record'][row]
                features.labels[record] = batch['label'][row]
                features.present[record] = True
        for array in arrays.values():
            array.flush()
        _write(folder, number + 1)
        report(min((number + 1) * len(batch['weight']), rows), rows)
    _write(folder, None)
    return features


def _array(path: Path, shape: tuple[int, ...], dtype) -> np.memmap:
    if path.exists():
        array = np.lib.format.open_memmap(path, 'r+')
        if array.shape == shape and array.dtype == np.dtype(dtype):
            return array
        raise UserError(f'{path}: damaged; remove its folder')
    return np.lib.format.open_memmap(path, 'w+', np.dtype(dtype), shape)


def _done(folder: Path) -> int | None:
    """Batches that are done; None: all."""
    try:
        return json.loads((folder / _PROGRESS).read_text())['batches']
    except FileNotFoundError:
        return 0


def _write(folder: Path, batches: int | None) -> None:
    with complete_or_absent(folder / _PROGRESS) as temporary:
        temporary.write_text(json.dumps({'batches': batches}))


def _check_room(root: Path, folder: Path, needed: int, most_gib: float) -> None:
    taken = {
        other.name: sum(file.stat().st_size for file in other.iterdir() if file.is_file())
        for other in (root.iterdir() if root.exists() else ())
        if other.is_dir() and other != folder
    }
    if sum(taken.values()) + needed > most_gib * _GIB:
        largest = sorted(taken, key=taken.get, reverse=True)[:3]
        listed = ', '.join(f'{name} ({taken[name] / _GIB:.2g} GiB)' for name in largest)
        raise UserError(
            f'config.probe.cache_gib={most_gib:g}: the features of {folder.name} take '
            f'{needed / _GIB:.3g} GiB beside {sum(taken.values()) / _GIB:.3g} in {root}'
            + (f'; remove what is not needed, such as {listed}' if listed else '')
            + '; or raise it, or test and train on fewer views, or on smaller clips'
        )
