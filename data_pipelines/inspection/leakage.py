"""Videos that one dataset trains on and another tests on: found by name, and by what they show.

By name: YouTube's id, or the name of the file; names that are mere numbers say nothing. By content:
four frames of the clip as small pictures of which only the direction of brightness counts (a
difference hash), so that another size, quality or frame rate does not matter. A part of a video is
found by name only, unless it is the same part.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import unicodedata

import cv2
import numpy as np

from data_pipelines.datasets.base import TestSpec
from data_pipelines.datasets.records import RecordDataset
from data_pipelines.options import ClipSize, Source, ViewOptions
from data_pipelines.storage.sequence_example import RecordError

_FRAMES = 4
_PIXELS = 72  # of the square that is looked at
_ROWS, _COLUMNS = 8, 8  # bits of a frame
_WORDS = _FRAMES * _ROWS * _COLUMNS // 64
_TOLERANCE = 32  # bits of 256 that may differ; other videos differ in 64 and more
_LEAST_EDGES = 64  # of these bits, at which brightness changes at all
_BAND = 16  # bits: pairs are compared that agree in some such part
_MOST_PAIRS = 1 << 22  # compared at a time
_PARTS = re.compile(  # behind a name: a second mention, a time, a part of a video
    r'(#\d+|,[\d.]+|_\d{6}_\d{6}|_E_\d{6}_\d{6}(_A_\d{4}_\d{4})?)$'
)
_YOUTUBE_PART = re.compile(r'v_([\w-]{11})_\d+')  # ActivityNet's
_SUFFIX = re.compile(r'\.[A-Za-z0-9]{2,4}$')


@dataclasses.dataclass(frozen=True)
class Videos:
    """The videos of a split.

    Attributes:
      place: what to call it: directory and split.
      names: what its records call them.
      contents: u64[n, 4], see `frame_bits`; 0 where they are not known.
    """

    place: str
    names: tuple[str, ...]
    contents: np.ndarray


@dataclasses.dataclass(frozen=True)
class Match:
    """A clip that is tested on and trained on: what both records call it, and what is the same."""

    tested: str
    trained: str
    same: str  # 'name', 'content' or 'name and content'


@dataclasses.dataclass(frozen=True)
class Leak:
    """What a split tests on and another one trains on.

    Attributes:
      trained, tested: their places.
      matches: of each tested clip one.
      clips: that are tested on.
    """

    trained: str
    tested: str
    matches: tuple[Match, ...]
    clips: int

    def count(self, what: str) -> int:
        """Matches by 'name' or by 'content'."""
        return sum(what in match.same for match in self.matches)


def trains(split: str) -> bool:
    """Whether a split of this name is trained on."""
    return split.lower().startswith('train')


def read_videos(
    directory: str | os.PathLike,
    split: str,
    *,
    video_root: str | os.PathLike | None = None,
    contents: bool = True,
    threads: int = 1,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Videos:
    """The videos of a split of a directory of records. Damaged records have no name.

    Args:
      directory, split: of the records.
      video_root: the directory of the videos that they link to.
      contents: look at frames, too.
      threads: that read and decode.
      on_progress: called with numbers of records as they are done.

    Raises:
      ValueError: there are no such records, or no `dataset.json`.
    """
    source = Source(
        directory,
        name=split,
        split=split,
        sampling='uniform',
        task='classification',
        video_root=video_root,
    )
    views = ViewOptions(short_side=_PIXELS, temporal_views=1, spatial_views=1)
    dataset = RecordDataset(source, TestSpec(ClipSize(_FRAMES, _PIXELS), views, reduced=True))

    def read(record: int) -> tuple[str, np.ndarray]:
        nothing = np.zeros(_WORDS, np.uint64)
        try:
            if not contents:
                return dataset.load(record).name, nothing
            clip = np.empty((1, _FRAMES, _PIXELS, _PIXELS, 3), np.uint8)
            return dataset.write_views(record, clip).name, frame_bits(clip[0])
        except (RecordError, ValueError, OSError):  # inspection tells of it
            return '', nothing

    names, found = [], []
    with (
        contextlib.closing(dataset),
        concurrent.futures.ThreadPoolExecutor(threads, 'leakage') as pool,
    ):
        for name, bits in pool.map(read, range(dataset.num_records)):
            names.append(name)
            found.append(bits)
            on_progress(1)
    place = f'{os.fspath(directory)}, {split}'
    return Videos(place, tuple(names), np.array(found, np.uint64).reshape(-1, _WORDS))


def frame_bits(frames: np.ndarray) -> np.ndarray:
    """u64[T]: of frames u8[T, H, W, 3] whether brightness rises, from left to right, at 64 places.

    All 0 where the frames show too little to tell them from others.
    """
    small = np.stack(
        [
            cv2.resize(
                cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY),
                (_COLUMNS + 1, _ROWS),
                interpolation=cv2.INTER_AREA,
            )
            for frame in frames
        ]
    ).astype(np.int16)
    rises = np.diff(small, axis=-1)  # [T, 8, 8]
    if np.count_nonzero(np.abs(rises) > 1) < _LEAST_EDGES:
        return np.zeros(len(frames), np.uint64)
    return np.packbits((rises > 0).reshape(len(frames), -1), axis=-1).view(np.uint64)[:, 0]


def video_id(name: str) -> str:
    """The part of a record's name by which its video is known; empty where it says nothing."""
    stem = unicodedata.normalize('NFC', name).replace('\\', '/').rpartition('/')[2]
    before = None
    while stem != before:
        before, stem = stem, _PARTS.sub('', _SUFFIX.sub('', stem))
    part = _YOUTUBE_PART.fullmatch(stem)
    stem = part[1] if part else stem
    if re.fullmatch(r'v_[\w-]{11}', stem):
        stem = stem[2:]
    return '' if len(stem) < 4 or stem.isdecimal() else stem


def find_leaks(splits: Iterable[tuple[bool, Videos]]) -> list[Leak]:
    """What is tested on and trained on.

    Args:
      splits: (whether it is trained on, its videos) of all.
    """
    splits = list(splits)
    leaks = []
    for trained in (videos for is_trained, videos in splits if is_trained):
        by_id: dict[str, int] = {}
        for number, name in enumerate(trained.names):
            if video_id(name):
                by_id.setdefault(video_id(name), number)
        for tested in (videos for is_trained, videos in splits if not is_trained):
            named = {
                number: by_id[video_id(name)]
                for number, name in enumerate(tested.names)
                if video_id(name) in by_id
            }
            alike = dict(_alike(tested.contents, trained.contents))
            matches = []
            for number in sorted({*named, *alike}):
                same = [
                    what for what, found in (('name', named), ('content', alike)) if number in found
                ]
                other = alike.get(number, named.get(number))
                match = Match(tested.names[number], trained.names[other], ' and '.join(same))
                matches.append(match)
            if matches:
                leaks.append(Leak(trained.place, tested.place, tuple(matches), len(tested.names)))
    return leaks


def _alike(tested: np.ndarray, trained: np.ndarray) -> Iterator[tuple[int, int]]:
    """(row of `tested`, the row of `trained` most like it) where these show the same.

    Rows that agree in none of their 16 parts are not compared: of rows that differ in half of the
    tolerance these are less than one in a thousand, at the tolerance itself one in eight.
    """
    best = np.full(len(tested), _TOLERANCE + 1)
    which = np.full(len(tested), -1)
    for word in range(_WORDS):
        for shift in range(0, 64, _BAND):
            mine, theirs = (
                (rows[:, word] >> np.uint64(shift)) & np.uint64((1 << _BAND) - 1)
                for rows in (tested, trained)
            )
            for a, b in _equal_pairs(mine, theirs):
                differ = np.bitwise_count(tested[a] ^ trained[b]).sum(axis=1)
                order = np.argsort(-differ, kind='stable')  # of a row's pairs the best comes last
                a, b, differ = a[order], b[order], differ[order]
                better = differ < best[a]
                best[a[better]], which[a[better]] = differ[better], b[better]
    for row in np.flatnonzero(which >= 0).tolist():
        yield row, int(which[row])


def _equal_pairs(mine: np.ndarray, theirs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places at which two arrays are equal, some at a time; 0 and all ones say nothing."""
    order = np.argsort(theirs, kind='stable')
    telling = np.flatnonzero((mine != 0) & (mine != (1 << _BAND) - 1))
    first = np.searchsorted(theirs[order], mine[telling], 'left')
    counts = np.searchsorted(theirs[order], mine[telling], 'right') - first
    ends = np.cumsum(counts)
    at = 0
    while at < len(telling):
        done = ends[at - 1] if at else 0
        stop = max(at + 1, int(np.searchsorted(ends, done + _MOST_PAIRS, 'right')))
        part = counts[at:stop]
        pairs = np.repeat(np.arange(at, stop), part)
        within = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        yield telling[pairs], order[first[pairs] + within]
        at = stop


def as_rows(leaks: Sequence[Leak]) -> Iterator[tuple[str, ...]]:
    """A line for each match, for a csv file; the first names the columns."""
    yield ('trained', 'trained_video', 'tested', 'tested_video', 'same')
    for leak in leaks:
        for match in leak.matches:
            yield (leak.trained, match.trained, leak.tested, match.tested, match.same)
