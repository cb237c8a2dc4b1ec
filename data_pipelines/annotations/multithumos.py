"""MultiTHUMOS: `class_list.txt` and `annotations/CLASS.txt`, one file per class.

    1 BaseballPitch                               number, class
    video_validation_0000266 72.8 76.4            video, start, end (in BaseballPitch.txt)

Videos of THUMOS'14: those called `video_validation_...` are for training, `video_test_...` for
testing. Several actions go on at a time. http://ai.stanford.edu/~syyeung/everymoment.html
"""

import argparse
import os

from data_pipelines.annotations import Annotations
from data_pipelines.annotations.class_lists import read_class_list
from data_pipelines.annotations.files import Mistakes, read_lines, read_seconds
from data_pipelines.annotations.format import Format, add_videos
from data_pipelines.annotations.labels import with_unique_keys
from data_pipelines.annotations.locate import VideoFiles
from data_pipelines.annotations.segments import (
    WINDOW_SECONDS,
    Segment,
    Video,
    add_clips,
    clips_of,
)

_SPLITS = {'video_validation_': 'train', 'video_test_': 'test'}


def read_multithumos(
    class_list: str | os.PathLike,
    annotations: str | os.PathLike,
    videos: str | os.PathLike,
    *,
    clips: str = 'segments',
    window: float = WINDOW_SECONDS,
) -> Annotations:
    """Reads the splits `train` and `test`. Classes are in the order of `class_list.txt`.

    Args:
      class_list: `class_list.txt`.
      annotations: directory of a file `CLASS.txt` for each class.
      videos: directory that holds the videos, at any depth.
      clips, window: which clips the videos give, see `segments.clips_of`.

    Raises:
      ValueError: a file is missing or malformed, or there are no videos.
    """
    classes = read_class_list(class_list)
    classes.check_different()
    found: dict[str, list[Segment]] = {}
    places: dict[str, str] = {}
    mistakes = Mistakes()
    for label, name in enumerate(classes.names):
        for where, line in read_lines(os.path.join(annotations, f'{name}.txt')):
            cells = line.split()
            try:
                if len(cells) != 3 or not cells[0].startswith(tuple(_SPLITS)):
                    raise ValueError(f'{where}: wanted "video start end", got {line[:80]!r}')
                segment = Segment(label, *(read_seconds(cell, where) for cell in cells[1:]))
            except ValueError as error:
                mistakes.add(error, where)
                continue
            places.setdefault(cells[0], where)
            found.setdefault(cells[0], []).append(segment)
    mistakes.check()
    files = VideoFiles(videos)
    splits = {}
    for prefix, split in _SPLITS.items():
        own = [
            Video(
                files.find(video, where=places[video]),
                video,
                sorted(found[video], key=lambda segment: (segment.start, segment.end)),
            )
            for video in sorted(found)
            if video.startswith(prefix)
        ]
        if own:
            splits[split] = with_unique_keys(clips_of(own, clips, window))
    return Annotations(classes.names, splits, multi_label=True, notes=files.notes())


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_videos(parser)
    parser.add_argument('--classes', required=True, metavar='FILE', help='class_list.txt')
    parser.add_argument(
        '--annotations', required=True, metavar='DIR', help='where CLASS.txt of each class is'
    )
    add_clips(parser, 'segments')


FORMAT = Format(
    'multithumos',
    help='MultiTHUMOS by its class list and a file per class: several labels per clip',
    example='--videos=thumos14 --classes=multithumos/class_list.txt '
    '--annotations=multithumos/annotations --output=data/multithumos --short_side=320',
    add_arguments=_add_arguments,
    read=lambda args: read_multithumos(
        args.classes, args.annotations, args.videos, clips=args.clips, window=args.window
    ),
)
