"""AVA v2.2 and AVA-Kinetics: one clip per key frame, with boxes, actions and a detector's
proposals.

A clip is the context of a key frame: `context_seconds` of video with the key frame in the middle,
less where the video begins or ends. Its key is `video,timestamp` as the official files write it,
which is what an official csv of detections needs.
"""

import argparse
from collections.abc import Mapping, Sequence
import math
import os
import re

from data_pipelines.annotations import Annotations, Box, Clip, KeyFrame
from data_pipelines.annotations.ava_files import (
    Frame,
    Moment,
    read_actions,
    read_boxes,
    read_excluded,
    read_proposals,
    read_timestamps,
)
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, Option, split_and_file
from data_pipelines.annotations.locate import VideoFiles

CONTEXT_SECONDS = 3.2  # 32 frames at every third of 30 per second
_TRIMMED = re.compile(r'(?P<video>.+)_(?P<start>\d{6})_(?P<end>\d{6})')  # Kinetics' file names


def read_ava(
    boxes: Mapping[str, Sequence[str | os.PathLike]],
    actions: str | os.PathLike,
    videos: str | os.PathLike,
    *,
    timestamps: str | os.PathLike | None = None,
    excluded: Sequence[str | os.PathLike] = (),
    proposals: Sequence[str | os.PathLike] = (),
    context_seconds: float = CONTEXT_SECONDS,
    video_start: float = 0.0,
    without_boxes: bool = False,
) -> Annotations:
    """Reads the official files (see `ava_files`).

    Args:
      boxes: split name -> its files of boxes, for AVA-Kinetics those of AVA and of Kinetics.
      actions: the action list. Classes are its actions by rising id.
      videos: directory with the videos, as `VIDEO.*` (whole, or cut at `video_start`) or as
        Kinetics' `VIDEO_000012_000022.*` (the clip that covers the key frame is taken).
      timestamps: official list of included timestamps; a key frame that is not in it is an error.
      excluded: files of excluded timestamps, of any split.
      proposals: files of a detector's boxes, of any split.
      context_seconds: length of a clip.
      video_start: seconds of the original video at which the files `VIDEO.*` start: 900 for
        AVA's movies where they were cut to minutes 15 to 30.
      without_boxes: also take key frames on which nobody is annotated: the lines without a box, on
        which detections are wrong in the official evaluation; and with `timestamps` every timestamp
        of every video, where detections do not count.

    Raises:
      ValueError: a file is missing or damaged, or files do not belong together.
    """
    if not 0 < context_seconds < math.inf:
        raise ValueError(f'context_seconds={context_seconds}: must be positive')
    if not 0 <= video_start < math.inf:
        raise ValueError(f'video_start={video_start}: must not be negative')
    names = read_actions(actions)
    number_of = {action: number for number, action in enumerate(names)}
    included = None if timestamps is None else read_timestamps(timestamps)
    frames = {
        split: _read_split(files, names, included, without_boxes) for split, files in boxes.items()
    }
    notes = []
    for split, moments in frames.items() if not without_boxes else ():
        empty = sum(not frame.boxes for frame in moments.values())
        if empty:
            notes.append(
                f'{split}: {empty} key frames without boxes are left out (--without_boxes=keep); '
                'detections there are wrong in the official evaluation'
            )
            frames[split] = {moment: frame for moment, frame in moments.items() if frame.boxes}
    left_out = set().union(*(read_excluded(path) for path in excluded))
    wanted = {moment for split in frames.values() for moment in split} - left_out
    detected = _read_proposals(proposals, wanted)
    files = _Locator(videos, video_start)
    splits = {}
    for split, moments in frames.items():
        splits[split] = tuple(
            _clip(moment, frame, number_of, detected.get(moment, []), files, context_seconds)
            for moment, frame in sorted(moments.items())
            if moment not in left_out
        )
    return Annotations(
        tuple(names.values()),
        splits,
        multi_label=True,
        localisation=True,
        details={'action_ids': list(names)},
        notes=(*notes, *files.notes()),
    )


def _read_split(
    paths: Sequence[str | os.PathLike],
    actions: Mapping[int, str],
    included: Mapping[int, str] | None,
    without_boxes: bool,
) -> dict[Moment, Frame]:
    """The key frames of a split, with `without_boxes` also those that only `included` lists."""
    frames: dict[Moment, Frame] = {}
    for path in paths:
        for moment, frame in read_boxes(path, actions).items():
            if moment in frames:
                raise ValueError(
                    f'{frame.where}: the key frame {",".join((moment[0], frame.text))} is in '
                    f'{frames[moment].where} already; give each file once'
                )
            if included is not None and moment[1] not in included:
                raise ValueError(
                    f'{frame.where}: the timestamp {frame.text} is not in the list of included '
                    'timestamps'
                )
            frames[moment] = frame
    for video in {video for video, _ in frames} if without_boxes else ():
        for time, text in (included or {}).items():
            frame = Frame(text, 'included timestamps', listed=False)
            frames.setdefault((video, time), frame)
    return frames


def _read_proposals(
    paths: Sequence[str | os.PathLike], wanted: set[Moment]
) -> dict[Moment, list[tuple[Box, float]]]:
    """Boxes and scores on the key frames that are wanted, each pair once, best first."""
    found: dict[Moment, set[tuple[Box, float]]] = {}
    for path in paths:
        used = False
        for moment, box, score in read_proposals(path):
            if moment in wanted:
                found.setdefault(moment, set()).add((box, score))
                used = True
        if not used:
            raise ValueError(
                f'{os.fspath(path)}: no proposal for any key frame that is converted; '
                'is it the file of another split?'
            )
    return {
        moment: sorted(boxes, key=lambda pair: (-pair[1], pair[0]))
        for moment, boxes in found.items()
    }


class _Locator:
    """Finds the file that shows a key frame."""

    def __init__(self, videos: str | os.PathLike, video_start: float):
        self._files = VideoFiles(videos)
        self._video_start = video_start
        self._trimmed: dict[str, list[tuple[int, int, str]]] = {}
        for name in self._files.names():
            match = _TRIMMED.fullmatch(name)
            if match is not None:
                piece = int(match['start']), int(match['end']), name
                self._trimmed.setdefault(match['video'], []).append(piece)

    def notes(self) -> tuple[str, ...]:
        """See `VideoFiles.notes`."""
        return self._files.notes()

    def find(self, video: str, seconds: float, where: str) -> tuple[str, float]:
        """(path, seconds since the beginning of the file) of a moment of an original video."""
        if video not in self._files:
            # Of several pieces the one with most video on both sides.
            pieces = [
                (min(seconds - start, end - seconds), start, name)
                for start, end, name in self._trimmed.get(video, ())
                if start <= seconds < end
            ]
            if pieces:
                _, start, name = max(pieces)
                return self._files.find(name, where=where), seconds - start
        if seconds < self._video_start:
            raise ValueError(
                f'{where}: {seconds:g} s lies before the {self._video_start:g} s at which the '
                'files start, as video_start says'
            )
        # The official files name videos without a suffix, people's own often with it.
        stem, suffix = self._files.split(video)
        names = dict.fromkeys((video, stem))
        path = self._files.find(*names, suffix=suffix, where=where)
        return path, seconds - self._video_start


def _clip(
    moment: Moment,
    frame: Frame,
    number_of: Mapping[int, int],
    detected: Sequence[tuple[Box, float]],
    files: _Locator,
    context_seconds: float,
) -> Clip:
    video, microseconds = moment
    path, time = files.find(video, microseconds / 1e6, frame.where)
    actions = tuple(number_of[action] for action in frame.actions)
    return Clip(
        path=path,
        key=f'{video},{frame.text}',
        labels=tuple(sorted(set(actions))),
        start=max(0.0, time - context_seconds / 2),
        end=time + context_seconds / 2,
        key_frame=KeyFrame(
            time=time,
            boxes=tuple(frame.boxes),
            actions=actions,
            persons=tuple(frame.persons),
            proposals=tuple(box for box, _ in detected),
            scores=tuple(score for _, score in detected),
            listed=frame.listed,
        ),
    )


def _files(flag: str, values: Sequence[str]) -> dict[str, list[str]]:
    """The values `SPLIT=FILE` of an option, of which a split may have several."""
    files: dict[str, list[str]] = {}
    for value in values:
        split, path = split_and_file(flag, value)
        files.setdefault(split, []).append(path)
    return files


def _check(args: argparse.Namespace) -> None:
    if args.max_seconds is not None:
        raise ValueError('--max_seconds would cut key frames off; use --context_seconds')


_OPTIONS = (
    Option(
        '--boxes',
        'csv of boxes and actions; may be repeated, also for one split',
        parse=_files,
        action='append',
        required=True,
        metavar='SPLIT=FILE',
    ),
    FileOption('--actions', 'action list (pbtxt) of all 80 actions'),
    VIDEOS,
    Option(
        '--excluded',
        'csv of excluded timestamps, of any split; may be repeated',
        action='append',
        default=[],
        metavar='FILE',
    ),
    Option(
        '--proposals',
        "csv of a person detector's boxes, of any split; may be repeated",
        action='append',
        default=[],
        metavar='FILE',
    ),
    Option(
        '--context_seconds',
        'stored video per key frame, half of it on either side (default: %(default)s)',
        type=float,
        default=CONTEXT_SECONDS,
        metavar='S',
    ),
    Option(
        '--video_start',
        "seconds at which the files of AVA's movies start: 900 if they were cut to minutes 15 "
        'to 30 (default: 0, whole movies)',
        type=float,
        default=0.0,
        metavar='S',
    ),
    Option(
        '--without_boxes',
        'key frames on which nobody is annotated (default: skip)',
        parse=lambda flag, value: value == 'keep',
        choices=('skip', 'keep'),
        default='skip',
    ),
)
_TIMESTAMPS = Option(
    '--timestamps', 'official list of included timestamps (902 to 1798)', metavar='FILE'
)

FORMATS = (
    Format(
        'ava',
        help='AVA v2.2: a record with boxes per key frame',
        example='--boxes train=ava_train_v2.2.csv --boxes validation=ava_val_v2.2.csv '
        '--actions=ava_action_list_v2.2.pbtxt --timestamps=ava_included_timestamps_v2.2.txt '
        '--excluded=ava_val_excluded_timestamps_v2.2.csv --videos=movies --output=data/ava '
        '--short_side=256',
        reader=read_ava,
        options=(*_OPTIONS, _TIMESTAMPS),
        check=_check,
    ),
    Format(
        'ava_kinetics',
        help='AVA-Kinetics: the key frames of AVA and those on Kinetics-700 clips',
        example='--boxes train=ava_train_v2.2.csv --boxes train=kinetics_train_v1.0.csv '
        '--actions=ava_action_list_v2.2.pbtxt --videos=videos --output=data/ava_kinetics '
        '--short_side=256',
        reader=read_ava,
        options=_OPTIONS,
        defaults={'timestamps': None},
        check=_check,
    ),
)
