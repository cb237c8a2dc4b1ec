"""MultiTHUMOS: `class_list.txt` and `annotations/CLASS.txt`, one file per class.

    1 BaseballPitch                               number, class
    video_validation_0000266 72.8 76.4            video, start, end (in BaseballPitch.txt)

Videos of THUMOS'14: those called `video_validation_...` are for training, `video_test_...` for
testing. Several actions go on at a time. http://ai.stanford.edu/~syyeung/everymoment.html
"""

import os

from data_pipelines.annotations import Annotations
from data_pipelines.annotations.class_lists import read_class_list
from data_pipelines.annotations.files import parsed, read_lines, read_seconds
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, Option
from data_pipelines.annotations.labels import with_unique_keys
from data_pipelines.annotations.locate import VideoFiles
from data_pipelines.annotations.segments import (
    WINDOW_SECONDS,
    Segment,
    Video,
    clip_options,
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
    classes = read_class_list(class_list).check_different()
    lines = (
        (where, (label, line))
        for label, name in enumerate(classes.names)
        for where, line in read_lines(os.path.join(annotations, f'{name}.txt'))
    )
    found: dict[str, list[Segment]] = {}
    places: dict[str, str] = {}
    for where, video, segment in parsed(lines, _segment):
        places.setdefault(video, where)
        found.setdefault(video, []).append(segment)
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


def _segment(where: str, line: tuple[int, str]) -> tuple[str, str, Segment]:
    """Place, video and segment of a class and a line of its file."""
    label, text = line
    cells = text.split()
    if len(cells) != 3 or not cells[0].startswith(tuple(_SPLITS)):
        raise ValueError(f'{where}: wanted "video start end", got {text[:80]!r}')
    return where, cells[0], Segment(label, *(read_seconds(cell, where) for cell in cells[1:]))


FORMAT = Format(
    'multithumos',
    help='MultiTHUMOS by its class list and a file per class: several labels per clip',
    example='--videos=thumos14 --classes=multithumos/class_list.txt '
    '--annotations=multithumos/annotations --output=data/multithumos --short_side=320',
    reader=read_multithumos,
    options=(
        VIDEOS,
        FileOption('--classes', 'class_list.txt', to='class_list'),
        Option('--annotations', 'where CLASS.txt of each class is', required=True, metavar='DIR'),
        *clip_options('segments'),
    ),
)
