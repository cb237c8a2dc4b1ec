"""Checks every record of a directory of shards, and counts what they hold.

What `python -m data_pipelines.inspect` prints. Directories that DMVR or another writer of the same
layout made are checked too; what only our own have (`dataset.json`, an index) is left out then.
"""

from collections import deque
from collections.abc import Callable
import concurrent.futures
import contextlib
import dataclasses
import os

import numpy as np

from data_pipelines import files
from data_pipelines.clip import decode
from data_pipelines.clip.boxes import covered
from data_pipelines.clip.crops import Window
from data_pipelines.datasets.dataset_info import FILE_NAME, DatasetInfo, load_dataset_info
from data_pipelines.datasets.stored import RecordFrames, frames_of
from data_pipelines.inspection.consistency import ClassNames, compare_with_info, note_repeated_clips
from data_pipelines.inspection.report import Problem, RecordFacts, Report, SplitReport, problem_of
from data_pipelines.storage import regions
from data_pipelines.storage.frame_index import (
    FrameIndex,
    find_places,
    frame_index_path,
    load_frame_index,
)
from data_pipelines.storage.reader import ShardReader
from data_pipelines.storage.record_index import (
    RecordIndex,
    find_shards,
    find_splits,
    index_files,
    load_index,
)
from data_pipelines.storage.sequence_example import (
    CLIP_END,
    CLIP_START,
    IMAGE_FRAME_RATE,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    LABEL_INDEX,
    LABEL_TEXT,
    VIDEO_FILENAME,
    Example,
    RecordError,
    decode_clip,
    label_indices,
)
from data_pipelines.storage.tfrecord import framed_size

_MOST_CLASSES = 100_000  # where no dataset.json says how many there are
_AHEAD = 8  # records under way per thread


def inspect_directory(
    directory: str | os.PathLike,
    *,
    quick: bool = False,
    video_root: str | os.PathLike | None = None,
    threads: int = 1,
    on_progress: Callable[[int], None] = lambda size: None,
) -> Report:
    """Checks all records of a directory.

    Args:
      directory: where the shards are.
      quick: look at the size of each first frame only instead of decoding every frame.
      video_root: the directory of the videos that records link to.
      threads: that read and decode.
      on_progress: called with numbers of bytes as they are checked.

    Raises:
      ValueError: there are no records, or they link to videos and nobody says where these are.
    """
    directory = os.fspath(directory)
    found = find_splits(directory)
    info, problems = None, []
    if FILE_NAME in files.names(directory):
        try:
            info = load_dataset_info(directory)
        except ValueError as error:
            problems.append(problem_of(files.join(directory, FILE_NAME), None, error))
    if info is not None and video_root is None and info.arguments.get('storage') == 'link':
        raise ValueError(
            f'{directory}: its records link to videos; give --video_root, the directory that these '
            f'are in (converted from {info.arguments.get("video_root")})'
        )
    names = ClassNames(info)
    splits = {}
    with concurrent.futures.ThreadPoolExecutor(threads, 'inspect') as pool:
        for split, shards in sorted(found.items()):
            check = _Check(directory, split, info, quick, video_root, SplitReport(shards))
            splits[split] = check.run(pool, threads * _AHEAD, names, on_progress)
    report = Report(directory, info, names.all(), splits, problems, video_root)
    if info is not None:
        problems += compare_with_info(report, info)
    note_repeated_clips(splits)
    return report


@dataclasses.dataclass(frozen=True)
class _Check:
    """The check of one split; arguments as of `inspect_directory`."""

    directory: str
    split: str
    info: DatasetInfo | None
    quick: bool
    video_root: str | os.PathLike | None
    report: SplitReport

    def run(
        self,
        pool: concurrent.futures.Executor,
        ahead: int,
        names: ClassNames,
        on_progress: Callable[[int], None],
    ) -> SplitReport:
        report = self.report
        index = report.index = self._scan()
        try:
            find_shards(self.directory, self.split)
        except RecordError as error:
            report.problems.append(problem_of(self.directory, None, error))
        else:
            self._check_index(index)
        stored = self._open_frame_index(index)
        pending: deque = deque()

        def collect() -> None:
            size, result = pending.popleft().result()
            if isinstance(result, RecordFacts):
                result = names.check(result)
            into = report.records if isinstance(result, RecordFacts) else report.problems
            into.append(result)
            on_progress(size)

        reader = ShardReader(self.directory, index)
        with contextlib.closing(reader):
            for number in range(len(reader)):
                pending.append(pool.submit(self._check_record, reader, stored, number))
                if len(pending) >= ahead:
                    collect()
            while pending:
                collect()
        if not report.scanned and report.shards and not report.problems:
            report.problems.append(
                Problem(self.directory, None, f'the split {self.split!r} has no record')
            )
        unlabelled = sum(not record.labels and record.actions is None for record in report.records)
        if unlabelled:
            report.notes.append(f'{unlabelled} records have no class number')
        return report

    def _scan(self) -> RecordIndex:
        """Finds the records by the headers of the shards, as far as these are whole."""
        report, damaged = self.report, set()

        def on_damage(path: str, end: int, error: RecordError) -> None:
            damaged.add(path)
            report.problems.append(problem_of(path, end, error))

        index = index_files(self.directory, report.shards, on_damage)
        report.size = sum(index.sizes)
        for name, count in zip(index.shards, index.counts):
            if not count and files.join(self.directory, name) not in damaged:
                report.notes.append(f'{name} holds no record')
        return index

    def _check_index(self, scanned: RecordIndex) -> None:
        path = files.join(self.directory, f'{self.split}.index')
        try:
            stored = load_index(self.directory, self.split)
        except RecordError as error:
            self.report.problems.append(problem_of(path, None, error))
            return
        if stored is not None and not (
            stored.counts == scanned.counts
            and np.array_equal(stored.offsets, scanned.offsets)
            and np.array_equal(stored.lengths, scanned.lengths)
        ):
            message = 'does not say where the records are; delete it and it is built anew'
            self.report.problems.append(Problem(path, None, message))

    def _open_frame_index(self, scanned: RecordIndex) -> FrameIndex | None:
        try:
            stored = load_frame_index(self.directory, self.split, scanned)
        except RecordError as error:
            path = frame_index_path(self.directory, self.split)
            self.report.problems.append(problem_of(path, None, error))
            return None
        if stored is None and not files.is_remote(self.directory):
            self.report.notes.append(
                f'no {self.split}.frames, so records are read whole: python -m '
                f'data_pipelines.index {self.directory} writes it'
            )
        return stored

    def _check_record(
        self, reader: ShardReader, stored: FrameIndex | None, number: int
    ) -> tuple[int, RecordFacts | Problem]:
        """Checks one record; the first result is its size in bytes."""
        file = files.join(self.directory, reader.shard_of(number))
        offset = int(reader.index.offsets[number])
        size = framed_size(int(reader.index.lengths[number]))
        try:
            data = reader.read(number)
            if stored is not None and not np.array_equal(stored.places(number), find_places(data)):
                message = (
                    f'does not say where the frames of record {number} are; delete it, or write '
                    'it anew'
                )
                return size, Problem(frame_index_path(self.directory, self.split), None, message)
            example = decode_clip(data, file)
            return size, self._facts(example, file, offset, number)
        except (ValueError, OSError) as error:
            return size, problem_of(file, offset, error)

    def _facts(self, example: Example, file: str, offset: int, number: int) -> RecordFacts:
        context = example.context
        frames = frames_of(example, file, self.video_root)
        height, width = _check_frames(frames, self.quick)
        for name, value in ((IMAGE_HEIGHT, height), (IMAGE_WIDTH, width)):
            stated = _number(context, name)
            if stated is not None and stated != value:
                raise RecordError(f'{name} is {stated:g}, but the frames are {width}x{height}')
        actions, found = None, {}
        if regions.has_regions(example) or (self.info is not None and self.info.localisation):
            actions, found = self._regions(example, file)
        unlabelled = not len(context.get(LABEL_INDEX, ()))
        if unlabelled and (actions == () or (actions is None and self.info is None)):
            labels = ()
        else:
            labels = tuple(label_indices(example, file).tolist())
        texts = context.get(LABEL_TEXT, ())
        start, end = (_number(context, name) for name in (CLIP_START, CLIP_END))
        rate = _number(context, IMAGE_FRAME_RATE)
        seconds = len(frames) / rate if rate else None
        if seconds is None and start is not None and end is not None and end > start:
            seconds = (end - start) / 1e6
        return RecordFacts(
            file=file,
            offset=offset,
            number=number,
            key=(*context.get(VIDEO_FILENAME, ()), start, end),
            frames=len(frames),
            size=(width, height),
            frame_rate=rate,
            seconds=seconds,
            labels=labels,
            names=tuple(t.decode(errors='replace') for t in texts if isinstance(t, bytes)),
            actions=actions,
            **found,
        )

    def _regions(self, example: Example, file: str) -> tuple[tuple[int, ...], dict[str, int]]:
        """Class of each pair of a box and an action; the counts of `RecordFacts`."""
        actions = example.context.get(regions.REGION_LABEL)
        actions = tuple(actions.tolist()) if isinstance(actions, np.ndarray) else ()
        most = min(max(actions, default=0), _MOST_CLASSES - 1)
        classes = len(self.info.classes) if self.info else most + 1
        found = regions.regions(example, classes, file)
        return actions, {
            'boxes': len(found.boxes),
            'proposals': len(found.proposals),
            'covered': int(covered(found.boxes, found.proposals).sum()),
        }


def _check_frames(frames: RecordFrames, quick: bool) -> tuple[int, int]:
    """(height, width) of the frames of a record, which all decode."""
    numbers = range(1 if quick else len(frames))
    stored = frames.fetch(numbers)
    size = decode.frame_size(stored)
    if isinstance(stored, decode.VideoFrames):
        for _ in stored.decode(numbers, Window(0, 0, *size)):
            pass
        return size
    for number in range(0 if quick else len(frames)):
        height, width = decode.frame_size(stored, number)
        if (height, width) != size:
            raise RecordError(f'frame {number} is {width}x{height}, frame 0 is {size[1]}x{size[0]}')
        # An eighth of the size: all of a JPEG is read, little is computed.
        decode.decode_frame(stored, number, factor=8)
    return size


def _number(context: dict[str, list[bytes] | np.ndarray], name: str) -> float | None:
    values = context.get(name)
    return values[0].item() if isinstance(values, np.ndarray) and len(values) == 1 else None
