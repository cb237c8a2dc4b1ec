"""ActivityNet 1.2 and 1.3: `activity_net.v1-3.min.json`; clips are parts of untrimmed videos.

    {"database": {"sJFgo9H6zNo": {"subset": "training", "duration": 82.73, "url": ...,
    "annotations":
      [{"segment": [0.01, 79.3], "label": "Fun sliding down"}, ...]}, ...}, "taxonomy": [...], ...}

Videos are called `v_ID`. The labels of the testing subset are not public. http://activity-net.org
"""

from collections.abc import Iterator, Sequence
import os
from typing import Any, NamedTuple

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.files import read_json, read_seconds
from data_pipelines.annotations.format import VIDEOS, FileOption, Format, Option
from data_pipelines.annotations.labels import check_same_classes
from data_pipelines.annotations.locate import VideoFiles

_SPLITS = {'training': 'train', 'validation': 'validation', 'testing': 'test'}


class _Segment(NamedTuple):
    where: str
    video: str  # YouTube's
    number: int  # among those of the video
    label: str
    start: float  # seconds
    end: float


def read_activitynet(
    json_file: str | os.PathLike, videos: str | os.PathLike, splits: Sequence[str] | None = None
) -> Annotations:
    """Reads every segment as a clip. Classes are the labels, sorted.

    Args:
      json_file: the annotations.
      videos: directory that holds the videos, at any depth.
      splits: of `train` and `validation` those to take; both if None.

    Raises:
      ValueError: the file is missing or malformed, the subsets have different classes, an unknown
        split, or there are no videos.
    """
    json_file = os.fspath(json_file)
    content = read_json(json_file, dict, 'ActivityNet annotations')
    database = content.get('database')
    if not isinstance(database, dict):
        raise ValueError(f'{json_file}: no object "database" in it')
    found: dict[str, list[_Segment]] = {}
    for video, entry in database.items():
        where = f'{json_file}, video {video!r}'
        subset = entry.get('subset') if isinstance(entry, dict) else None
        if not isinstance(subset, str) or subset not in _SPLITS:
            raise ValueError(f'{where}: the subset is {subset!r}, wanted {", ".join(_SPLITS)}')
        for segment in _segments(where, video, entry):
            found.setdefault(_SPLITS[subset], []).append(segment)
    if not found:
        raise ValueError(f'{json_file}: no labelled segment in it')
    classes = check_same_classes(
        {f'{json_file}, {s}': (segment.label for segment in found[s]) for s in found}
    )
    for split in splits or ():
        if split not in found:
            raise ValueError(f'{json_file}: no split {split!r} in it (it has {", ".join(found)})')
    numbers = {name: number for number, name in enumerate(classes)}
    files = VideoFiles(videos)
    clips = {
        split: tuple(
            Clip(
                path=files.find(f'v_{segment.video}', segment.video, where=segment.where),
                key=f'v_{segment.video}_{segment.number}',
                labels=(numbers[segment.label],),
                start=segment.start,
                end=segment.end,
            )
            for segment in found[split]
        )
        for split in splits or found
    }
    return Annotations(classes, clips, notes=files.notes())


def _segments(where: str, video: str, entry: dict[str, Any]) -> Iterator[_Segment]:
    annotations = entry.get('annotations', [])
    if not isinstance(annotations, list):
        raise ValueError(f'{where}: "annotations" is no list')
    for number, annotation in enumerate(annotations):
        place = f'{where}, annotation {number + 1}'
        label = annotation.get('label') if isinstance(annotation, dict) else None
        segment = annotation.get('segment') if isinstance(annotation, dict) else None
        if not label or not isinstance(label, str):
            raise ValueError(f'{place}: no "label"')
        if not isinstance(segment, list) or len(segment) != 2:
            raise ValueError(f'{place}: "segment" is {segment!r}, wanted [start, end]')
        start, end = (read_seconds(time, place) for time in segment)
        # Rounding has left some a little before the video's beginning.
        yield _Segment(place, video, number, label, max(0.0, start), end)


FORMAT = Format(
    'activitynet',
    help='ActivityNet by its json file: one clip per segment, cut out of videos v_ID.mp4',
    example='--videos=anet --json=activity_net.v1-3.min.json --output=data/activitynet '
    '--short_side=320',
    reader=read_activitynet,
    options=(
        VIDEOS,
        FileOption('--json', 'activity_net.v1-3.min.json (or v1-2)', to='json_file'),
        Option(
            '--split',
            'split to convert, may be repeated (default: both)',
            to='splits',
            action='append',
            choices=('train', 'validation'),
        ),
    ),
)
