"""Boxes and actions on a key frame: how records hold them.

Context features, besides those of every record (`sequence_example.py`)::

    clip/key_frame/timestamp               int64, microseconds since the beginning of the video
                                           file, as clip/start/timestamp and clip/end/timestamp
    clip/key_frame/index                   int64, which stored frame is on screen then
    clip/key_frame/listed                  int64, 0 where the annotation does not list the key
                                           frame, so that nobody knows who is on it; else left out
    region/bbox/{ymin,xmin,ymax,xmax}      float, 0 to 1: one entry per pair of a box and an action
    region/label/index                     int64, class number of each pair
    region/track/index                     int64, person of each pair, -1 where unknown
    predicted/region/bbox/{ymin,...}       float, boxes of a person detector
    predicted/region/score                 float, 0 to 1, of each of these

The index says what the timestamp cannot where frames are not equally spaced. A key frame that shows
nobody has lists without entries.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from data_pipelines.annotations import KeyFrame
from data_pipelines.storage.sequence_example import Example, RecordError, num_frames

KEY_FRAME_TIMESTAMP = 'clip/key_frame/timestamp'
KEY_FRAME_INDEX = 'clip/key_frame/index'
KEY_FRAME_LISTED = 'clip/key_frame/listed'
REGION_BOX = 'region/bbox'
REGION_LABEL = 'region/label/index'
REGION_TRACK = 'region/track/index'
PREDICTED_BOX = 'predicted/region/bbox'
PREDICTED_SCORE = 'predicted/region/score'
_MAX_BOXES = 4096  # of a key frame; AVA has a few dozen
_SIDES = ('xmin', 'ymin', 'xmax', 'ymax')


@dataclasses.dataclass(frozen=True)
class Regions:
    """What a record says about its key frame.

    Boxes are (xmin, ymin, xmax, ymax), shares of the frame's width and height, 0 to 1.

    Attributes:
      key_frame: number of the key frame among the stored frames.
      timestamp: its microseconds since the beginning of the video file.
      boxes: f32 [M, 4], one per person.
      labels: f32 [M, A], multi-hot: the actions of each.
      persons: i64 [M], numbers of the persons, -1 where unknown.
      proposals: f32 [P, 4], boxes of a person detector.
      scores: f32 [P], their scores.
      listed: whether the annotation lists the key frame, be it without boxes.
    """

    key_frame: int
    timestamp: int
    boxes: np.ndarray
    labels: np.ndarray
    persons: np.ndarray
    proposals: np.ndarray
    scores: np.ndarray
    listed: bool = True


def region_features(key_frame: KeyFrame, index: int) -> dict[str, np.ndarray]:
    """The context features of a key frame, which is stored frame number `index`."""
    unlisted = {} if key_frame.listed else {KEY_FRAME_LISTED: np.array([0], np.int64)}
    return {
        **unlisted,
        KEY_FRAME_TIMESTAMP: np.array([round(key_frame.time * 1e6)], np.int64),
        KEY_FRAME_INDEX: np.array([index], np.int64),
        **_box_features(REGION_BOX, key_frame.boxes),
        REGION_LABEL: np.array(key_frame.actions, np.int64),
        REGION_TRACK: np.array(key_frame.persons, np.int64),
        **_box_features(PREDICTED_BOX, key_frame.proposals),
        PREDICTED_SCORE: np.array(key_frame.scores, np.float32),
    }


def _box_features(name: str, boxes: Sequence[Sequence[float]]) -> dict[str, np.ndarray]:
    sides = np.array(boxes, np.float32).reshape(-1, 4)
    return {f'{name}/{side}': sides[:, i] for i, side in enumerate(_SIDES)}


def has_regions(example: Example) -> bool:
    """Whether a record is one of a localisation dataset."""
    return KEY_FRAME_INDEX in example.context


def regions(example: Example, num_classes: int, where: str = 'record') -> Regions:
    """The key frame of a record; pairs of the same box and person become one row.

    Args:
      example: the record.
      num_classes: A.
      where: what to call the record in an error.

    Raises:
      RecordError: a feature is missing or makes no sense.
    """
    index, timestamp = (
        _numbers(example, name, np.int64, where, 1)[0]
        for name in (KEY_FRAME_INDEX, KEY_FRAME_TIMESTAMP)
    )
    count = num_frames(example, where)
    if not 0 <= index < count:
        raise RecordError(f'{where}: the key frame is number {index} of {count} frames')
    actions = _numbers(example, REGION_LABEL, np.int64, where)
    scores = _numbers(example, PREDICTED_SCORE, np.float32, where)
    if max(len(actions), len(scores)) > _MAX_BOXES:
        raise RecordError(
            f'{where}: {len(actions)} pairs of boxes and classes, {len(scores)} proposals; '
            f'at most {_MAX_BOXES} make sense'
        )
    if np.any((actions < 0) | (actions >= num_classes)):
        raise RecordError(
            f'{where}: class number {actions.tolist()} of a box is not one of the {num_classes} '
            'classes'
        )
    pair_boxes = _boxes(example, REGION_BOX, where, len(actions))
    pair_persons = _numbers(example, REGION_TRACK, np.int64, where, len(actions))
    row_of: dict[tuple, int] = {}
    rows = [
        row_of.setdefault((*box, person), len(row_of))
        for box, person in zip(pair_boxes.tolist(), pair_persons.tolist())
    ]
    labels = np.zeros((len(row_of), num_classes), np.float32)
    labels[rows, actions] = 1
    return Regions(
        key_frame=int(index),
        timestamp=int(timestamp),
        boxes=np.array([row[:4] for row in row_of], np.float32).reshape(-1, 4),
        labels=labels,
        persons=np.array([row[4] for row in row_of], np.int64),
        proposals=_boxes(example, PREDICTED_BOX, where, len(scores)),
        scores=scores,
        listed=bool(_numbers(example, KEY_FRAME_LISTED, np.int64, where).all()),
    )


def _boxes(example: Example, name: str, where: str, count: int) -> np.ndarray:
    sides = [_numbers(example, f'{name}/{side}', np.float32, where, count) for side in _SIDES]
    boxes = np.stack(sides, axis=1)  # [count, 4]
    good = (boxes >= 0) & (boxes <= 1)  # False for NaN
    if not (good.all() and (boxes[:, :2] < boxes[:, 2:]).all()):
        raise RecordError(f'{where}: {name} holds a box outside the frame, or one without an area')
    return boxes


def _numbers(
    example: Example, name: str, kind: type, where: str, count: int | None = None
) -> np.ndarray:
    values = example.context.get(name)
    if not len(values if values is not None else ()) and count in (0, None):
        return np.zeros(0, kind)  # a writer may leave out what has no entries
    if not isinstance(values, np.ndarray) or values.dtype != kind:
        raise RecordError(f'{where}: no context feature {name!r} of {kind.__name__} values')
    if count is not None and len(values) != count:
        raise RecordError(f'{where}: {name!r} has {len(values)} entries where {count} belong')
    return values
